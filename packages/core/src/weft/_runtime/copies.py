"""Objects of a cluster, as a process of it sees them: its own elsewhere, and those of others here.

A value in a segment names its creator, and with it the node where it was made. If that is another
one, the reader asks its own daemon for a copy (room.py). Of its own objects this process keeps the
places (_machines/places.py), from the moment that somebody begins to copy one; what is on one node
only costs nothing here.

    a daemon that pulls -> BeginCopy -> Places -> KnownPlaces, EndCopy -> the daemons of the places
    the last reference is gone, or all places are -> ObjectEnded, PlacesLost

The loop's guard is held in every method.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from weft import _settings
from weft._ids import ObjectId
from weft._machines.ownership import SegmentGone
from weft._machines.places import (
    ObjectEnded,
    OriginalMade,
    Places,
    PlacesBack,
    PlacesDied,
    PlacesDrained,
    PlacesDraining,
    PlacesLost,
    TellNode,
)
from weft._runtime.partings import died_in_words
from weft._transport.addresses import DAEMON, split
from weft._wire.messages import Discard, NodeDrained, NodeDrains, NodeLost, Shared, Transfer
from weft._wire.transfers import (
    BeginCopy,
    BlamePlace,
    CopyEnded,
    CopyHere,
    CopyKept,
    CopyWhole,
    Edition,
    NodeLife,
    pack_transfer,
    unpack_transfer,
)
from weft.exceptions import ProtocolError

if TYPE_CHECKING:
    from weft._machines import places
    from weft._runtime.links import Links
    from weft._runtime.objects import Objects
    from weft._runtime.peers import Peer
    from weft._runtime.room import Room
    from weft._transport.addresses import Home


class Copies:
    """The shell round the places of this process's objects."""

    def __init__(self, links: Links, objects: Objects, room: Room, home: Home) -> None:
        self.places = Places(links.address)
        self._links = links
        self._objects = objects
        self._room = room
        self._home = home
        self._checks = _settings.CHECK.value()
        self._edition_of: dict[str, Edition] = {}
        """By segment: what `places` knows of."""
        self._life_of: dict[str, NodeLife] = {}
        """By HOST:PORT, the last that was heard of."""
        self._daemons: dict[str, Peer] = {}
        """Of other nodes, by address: the connections by which they have spoken last."""
        self._draining: dict[NodeLife, Peer] = {}
        """Whom to tell when nothing is needed there any more."""
        self._dead: set[str] = set()
        """By HOST:PORT, nodes that are not called any more."""
        self._drained: dict[str, tuple[int, int]] = {}
        """Of those, by HOST:PORT: how many objects no node could take, and who has asked."""
        self._deaths_at: dict[str, int] = {}
        """By HOST:PORT, how many nodes have died there."""
        self._buried: dict[str, int] = {}
        """By HOST:PORT, the incarnation of the last that has died there."""

    def is_far(self, value: Shared) -> bool:
        """Tell whether a value was made on another node."""
        return self._home.path_of(value.creator) is None

    @staticmethod
    def edition(object_id: bytes, value: Shared) -> Edition:
        """Return what a value is known as."""
        return Edition(object_id, value.segment)

    def _life(self, creator: str) -> NodeLife:
        """Return the node of a process; one that is not known is found by its address alone."""
        node = split(creator).node
        return self._life_of.get(node) or self._nameless(node)

    def _nameless(self, address: str) -> NodeLife:
        return NodeLife(b"", self._deaths_at.get(address, 0), address)

    # -------------------------------------------------------------- what is said

    def on_transfer(self, peer: Peer, message: Transfer) -> None:
        """A daemon has said something about an object."""
        if peer is not self._links.daemon and self._daemons.get(peer.address) is not peer:
            if peer.address in self._daemons:
                self._daemon_back(peer)
            self._daemons[peer.address] = peer
        try:
            said = unpack_transfer(message.body)
        except ProtocolError:
            return
        match said:
            case CopyHere():
                self._room.on_copy_here(said)
            case BeginCopy(edition, node) | CopyWhole(edition, node) | CopyKept(edition, node):
                if self._is_buried(node):
                    return
                self._know(edition)
                if isinstance(said, BeginCopy):
                    self._look_at_original(edition, node)
                self._meet(node)
                self._tell(said)
            case CopyEnded() | BlamePlace():
                self._tell(said)
            case _:
                # Nothing that is for an owner, or for a reader.
                pass

    def _is_buried(self, life: NodeLife) -> bool:
        """Tell whether a life was declared dead: what it says counts no more, however late."""
        return 0 < life.incarnation <= self._buried.get(life.address, 0)

    def _meet(self, life: NodeLife) -> None:
        known = self._life_of.get(life.address)
        if known == life or (known is not None and known.incarnation > life.incarnation):
            return
        self._life_of[life.address] = life
        self._dead.discard(life.address)
        if known is not None:
            # Its death may be told later, when another has its address.
            self._tell(PlacesDied(known, "its node has begun anew"))

    def node_lost(self, lost_node: NodeLost) -> None:
        """Another node is dead."""
        address = split(lost_node.address).node
        reason = died_in_words(lost_node)
        self._dead.add(address)
        self._buried[address] = max(self._buried.get(address, 0), lost_node.incarnation)
        at = f"{address}/"
        lost = [
            (entry.id, value.segment)
            for entry in self._objects.machine.entries.values()
            if not entry.owner
            and type(value := entry.value) is Shared
            and value.creator.startswith(at)
            and value.segment not in self._edition_of
        ]
        for object_id, segment in lost:
            self._objects.handle(SegmentGone(object_id, segment, reason))
        self._tell(PlacesDied(self._nameless(address), reason))
        life = self._life_of.get(address)
        if life is not None and life.node_id == lost_node.node_id:
            del self._life_of[address]
            self._tell(PlacesDied(life, reason))
        self._deaths_at[address] = self._deaths_at.get(address, 0) + 1

    def on_node_drains(self, peer: Peer, message: NodeDrains) -> None:
        """A node that has objects of this process is about to end."""
        node = NodeLife(*message.node)
        if self._is_buried(node):
            return
        self._meet(node)
        for entry in list(self._objects.machine.entries.values()):
            value = None if entry.owner else entry.value
            if type(value) is Shared and split(value.creator).node == node.address:
                self._know(Edition(entry.id, value.segment))
        targets = [NodeLife(*each) for each in message.targets]
        self._drained[node.address] = 0, message.request
        lives = (self._nameless(node.address), node)
        self._draining.update(dict.fromkeys(lives, peer))
        for life in lives:
            self._tell(PlacesDraining(life, targets))

    def _said_drained(self, node: NodeLife, left: int) -> None:
        """Answer when no life of the node, as it is called here, has anything any more."""
        peer = self._draining.pop(node, None)
        if peer is None:
            return
        before, request = self._drained[node.address]
        self._drained[node.address] = before + left, request
        if not any(life.address == node.address for life in self._draining):
            left, request = self._drained.pop(node.address)
            self._links.peers.send(peer, NodeDrained(request, left))

    def _daemon_back(self, peer: Peer) -> None:
        """A daemon of another node has connected again."""
        life = self._life_of.get(split(peer.address).node)
        if life is not None:
            self._tell(PlacesBack(life))

    # -------------------------------------------------------------- what this process owns

    def _know(self, edition: Edition) -> None:
        """Keep the places of an object, if this process has it."""
        if self._edition_of.get(edition.segment) == edition:
            return
        entry = self._objects.machine.entries.get(ObjectId(edition.object_id))
        value = None if entry is None or entry.owner else entry.value
        if type(value) is Shared and value.segment == edition.segment:
            self._edition_of[edition.segment] = edition
            if value.creator == self._links.address:
                # The daemon is asked for it soon, and may not know it yet, or an earlier one.
                self._objects.send_news()
                self._links.daemon.connection.flush()
            self._tell(OriginalMade(edition, value.size_bytes, self._life(value.creator)))

    def _look_at_original(self, edition: Edition, node: NodeLife) -> None:
        """Who wants a copy of what was made on its own node has not found that."""
        for place, _ in list(self.places.places(edition)):
            if place.address == node.address and place != node:
                self._tell(CopyEnded(edition, place, "it cannot be read where it was made"))

    def ended(self, segment: str) -> None:
        """Nobody needs the object of a segment any more, or it is lost."""
        edition = self._edition_of.pop(segment, None)
        if edition is not None:
            self._tell(ObjectEnded(edition, "nobody needs it any more"))

    def discard(self, value: Shared) -> None:
        """Let a segment be removed whose creator, on another node, cannot be told."""
        node, peers = split(value.creator).node, self._links.peers
        daemon = f"{node}/{DAEMON}"
        peer = peers.by_address.get(daemon) if node in self._dead else peers.connect(daemon)
        if peer is not None:
            self._links.peers.send(peer, Discard([value.segment]))

    # -------------------------------------------------------------- the machine

    def _tell(self, event: places.Event) -> None:
        effects = self.places.handle(event, 0.0)
        if self._checks:
            self.places.check()
        for effect in effects:
            match effect:
                case TellNode(node, message):
                    peer = self._daemon(node)
                    if peer is not None:
                        self._links.peers.send(peer, Transfer(pack_transfer(message)))
                case PlacesLost(edition, reason):
                    self._edition_of.pop(edition.segment, None)
                    object_id = ObjectId(edition.object_id)
                    self._objects.handle(SegmentGone(object_id, edition.segment, reason))
                case PlacesDrained(node, left):
                    self._said_drained(node, len(left))

    def _daemon(self, node: NodeLife) -> Peer | None:
        if node.address == self._home.node:
            return self._links.daemon
        address = f"{node.address}/{DAEMON}"
        caller = self._daemons.get(address)
        if caller is not None and not caller.connection.closed:
            return caller
        return self._links.peers.connect(address)
