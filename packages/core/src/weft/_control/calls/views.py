"""The service ClusterView."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING, Any

from weft._control.calls.links import ViewFollower
from weft._machines.views import FollowerGone, WholeAsked

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    from weft._control.calls.desk import Desk
    from weft._transport.control import messages

_FOLLOWER_BYTES = 16


class ViewCalls:
    """Gives the view of the cluster to those who follow it."""

    def __init__(self, desk: Desk, followers: dict[bytes, ViewFollower]) -> None:
        """`followers` is filled here, and read where changes are told."""
        self._desk = desk
        self._followers = followers

    async def watch(self, _: messages.WatchViewRequest, __: Any) -> AsyncIterator[bytes]:
        """Yield the whole view, then what changes, as encoded ViewDeltas."""
        name = os.urandom(_FOLLOWER_BYTES)
        follower = self._followers[name] = ViewFollower()
        try:
            self._desk.service.note(WholeAsked(name))
            while True:
                await follower.wait()
                self._desk.read()
                if follower.is_behind:
                    self._desk.service.note(WholeAsked(name))
                for delta in follower.take():
                    yield delta
        finally:
            del self._followers[name]
            self._desk.service.note(FollowerGone(name))
