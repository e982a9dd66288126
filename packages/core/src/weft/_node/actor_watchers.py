"""Who on this node watches actors of its cluster: each change is told once for all of them."""

from __future__ import annotations

from typing import TYPE_CHECKING

from weft._transport.control import messages
from weft._wire.messages import ActorNews

if TYPE_CHECKING:
    from weft._node.clients import Client, Clients
    from weft._node.control_link import ControlLink


class ActorWatchers:
    """Passes news of actors on."""

    def __init__(self, link: ControlLink, clients: Clients) -> None:
        self._link = link
        self._clients = clients
        self._watchers_of: dict[bytes, dict[bytes, None]] = {}
        self._watched_by: dict[bytes, dict[bytes, None]] = {}
        self._news_of: dict[bytes, ActorNews] = {}
        """The last of what is watched."""

    def add(self, client: Client, actor: bytes) -> None:
        """A client watches an actor, as it is and from then on."""
        watchers = self._watchers_of.get(actor)
        if watchers is None:
            watchers = self._watchers_of[actor] = {}
            self._link.watch_actor(actor)
        elif actor in self._news_of:
            self._clients.send(client, self._news_of[actor])
        watchers[client.worker_id] = None
        self._watched_by.setdefault(client.worker_id, {})[actor] = None

    def remove(self, client: bytes) -> None:
        """A client is gone."""
        for actor in self._watched_by.pop(client, ()):
            watchers = self._watchers_of[actor]
            del watchers[client]
            if not watchers:
                self._forget(actor)
                self._link.leave_actor(actor)

    def changed(self, actor: messages.Actor) -> None:
        """What is watched is so; it may be told again."""
        watchers = self._watchers_of.get(actor.actor_id, {})
        news = news_of(actor)
        if not watchers or news == self._news_of.get(news.actor_id):
            return
        self._news_of[news.actor_id] = news
        for client in watchers:
            self._clients.send_to(client, news)
        if news.state == "dead":
            for client in watchers:
                del self._watched_by[client][news.actor_id]
            self._forget(news.actor_id)

    def _forget(self, actor: bytes) -> None:
        del self._watchers_of[actor]
        self._news_of.pop(actor, None)


def news_of(actor: messages.Actor) -> ActorNews:
    """Return what callers are told."""
    return ActorNews(
        actor.actor_id,
        messages.ActorState.Name(actor.state).lower(),
        actor.address,
        actor.restarts,
        actor.cause,
        actor.error,
        actor.worker_id,
        actor.refused,
    )
