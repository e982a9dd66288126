"""Segments whose creators are gone: those that nobody needs are given up.

An owner tells the creator of a segment that it may use it again (Recycle). If the creator ends,
nobody can say whether it has read that, and has told the daemon. So the daemon, which may be that
of another node, names its segments to their owners, and each has those discarded that none of its
objects is in.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from weft._wire.messages import Discard, Orphaned, Shared

if TYPE_CHECKING:
    from weft._runtime.links import Links
    from weft._runtime.objects import Objects
    from weft._runtime.peers import Peer


class Orphans:
    """What this process owns of those that are gone. Inside the guard."""

    def __init__(self, links: Links, objects: Objects) -> None:
        self._links = links
        self._objects = objects
        self._unanswered: list[tuple[Peer, Orphaned]] = []
        """With the daemon that asks."""

    def on_orphaned(self, peer: Peer, message: Orphaned) -> None:
        self._unanswered.append((peer, message))
        self.answer()

    def answer(self) -> None:
        """Answer for the creators of whom nothing more will be read; also when one is lost.

        The last that a creator sent may bring objects that are in these segments.
        """
        if not self._unanswered:
            return
        # Not by the ids in their Hellos: one that was just connected to may not have been read.
        read = {Path(address).stem for address in self._objects.peers.by_address}
        waiting = [asked for asked in self._unanswered if asked[1].creator.hex() in read]
        ready = [asked for asked in self._unanswered if asked[1].creator.hex() not in read]
        self._unanswered = waiting
        if ready:
            # What is borrowed is not meant: it may be what the creator has put last, into a segment
            # of which the daemon has not heard that it was free again.
            needed = {
                entry.value.segment
                for entry in self._objects.machine.entries.values()
                if not entry.owner and type(entry.value) is Shared
            }
            for daemon, message in ready:
                left = [name for name in message.segments if name not in needed]
                if left:
                    self._links.peers.send(daemon, Discard(left))
                    daemon.connection.flush()
