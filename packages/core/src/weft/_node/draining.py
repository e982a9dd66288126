"""How a node leaves its cluster: when it is told to end, or once it is empty.

    stays -> drains (control says so)   -> leaves -> gone (control knows; or LEAVE_S have passed)
          -> (SIGTERM)                  -> leaves

A node that drains is given nothing new: demands of its own processes go to other nodes. It is empty
when no lease is out, no driver is here and its store has no object that is needed: owners on other
nodes have theirs moved (far_owners.py), at once and once more when the last lease is back. At the
deadline it leaves as it is. What it still has is lost then, as with a node that dies; but all hear
of it at once.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable

    from weft._node.cluster_scheduling import ClusterScheduling
    from weft._node.control_link import ControlLink
    from weft._transport.timers import Timers

# The control service may be gone too: then nobody is told.
LEAVE_S = 1.0
# Other nodes may have room by then, or have joined.
MOVE_AGAIN_S = 1.0


class Draining:
    """A node's leave."""

    def __init__(
        self,
        link: ControlLink,
        scheduling: ClusterScheduling,
        timers: Timers,
        *,
        has: Callable[[], str],
        has_work: Callable[[], str],
        move: Callable[[Callable[[int], None]], None],
        over: Callable[[str], None],
    ) -> None:
        """Begin with a node that stays.

        Args:
            link: To the control service.
            scheduling: Is told to send demands elsewhere.
            timers: Of the loop.
            has: Says what there is yet, empty for nothing.
            has_work: The same, without objects.
            move: Has objects moved to other nodes, and calls back with how many nobody could take.
            over: Ends the daemon, for this reason.
        """
        self._link = link
        self._scheduling = scheduling
        self._timers = timers
        self._has = has
        self._has_work = has_work
        self._move = move
        self._over = over
        self._is_moving = False
        """The last objects are being moved, or nobody can take them for the moment."""
        self._why = ""
        """Why it drains; empty if it does not."""
        self._leaves_for = ""

    def agrees(self, why: str) -> bool:
        """Tell whether the node is empty; then it takes nothing new from here on."""
        if self._has():
            return False
        self._scheduling.drain(why)
        return True

    def begin(self, why: str, deadline_s: float) -> None:
        """Leave when the node is empty, or at the deadline; 0: there is none."""
        self._why = why
        self._scheduling.drain(why)
        # Most are safe by then if there is a deadline; what is made meanwhile is moved in the end.
        self._move(lambda _left: None)
        if deadline_s > 0:
            self._timers.call_later(deadline_s, lambda: self.leave(why))

    def look(self) -> None:
        """Something may have ended."""
        if not self._why or self._leaves_for:
            return
        if not self._has():
            self.leave(self._why)
        elif not self._has_work() and not self._is_moving:
            self._is_moving = True
            self._move(self._moved)

    def _moved(self, left: int) -> None:
        """Owners elsewhere have moved what they could."""
        if not left and not self._has_work():
            self.leave(self._why)
        else:
            self._timers.call_later(MOVE_AGAIN_S, self._move_again)

    def _move_again(self) -> None:
        self._is_moving = False

    def leave(self, why: str) -> None:
        """Tell the cluster that this node ends; then it does."""
        if not self._leaves_for:
            self._leaves_for = why
            self._link.leave(why)
            self._timers.call_later(LEAVE_S, self.left)

    def left(self) -> None:
        """The cluster knows."""
        if self._leaves_for:
            self._over(self._leaves_for)
