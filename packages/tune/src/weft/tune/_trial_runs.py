"""One trial, as the machine of an experiment knows it, and how much the experiment may do."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import msgspec

from weft.tune._checkpoints import Keeping
from weft.tune._values import decode, flattened
from weft.tune.schedulers.orders import Pause, Restart, Resume, Save, Stop
from weft.tune.views import TrialView

if TYPE_CHECKING:
    from weft.lowlevel import Resources
    from weft.tune._checkpoints import Kept
    from weft.tune.views import Status

OrderToTrial = Stop | Pause | Resume | Restart | Save


class Limits(msgspec.Struct, frozen=True, kw_only=True):
    """How much an experiment may do."""

    max_trials: int | None = None
    max_concurrent: int | None = None
    max_failures: int = 0
    """Of one trial, before it is given up; -1: any number."""
    fail_fast: bool = False
    checkpoint_at_end: bool = False
    keeping: Keeping = Keeping()


class Origin(msgspec.Struct, frozen=True):
    """What a restarted trial begins from."""

    trial_id: str
    checkpoint: str
    """Empty: nothing, it begins anew."""
    iteration: int
    time_total_s: float


class TrialRun:
    """One trial. Those that have ended are kept, so it holds text rather than values."""

    __slots__ = (
        "checkpoints", "checkpoints_made", "config", "dirname", "error", "failures", "id",
        "is_held", "is_told", "iterations", "metrics", "name", "origin", "resources", "result",
        "saves_as_it_leaves", "status", "taken", "view", "wants_save", "wish",
    )  # fmt: skip

    def __init__(self, trial_id: str, config: bytes, resources: Resources) -> None:
        self.id = trial_id
        self.name = ""
        self.dirname = ""
        self.config = config
        self.resources = resources
        self.status: Status = "PENDING"
        self.result = b""
        """The last; empty before that."""
        self.iterations = 0
        self.failures = 0
        self.error = ""
        self.checkpoints: tuple[Kept, ...] = ()
        """Those in the storage, the oldest first."""
        self.checkpoints_made = 0
        self.origin: Origin | None = None
        """Set until it has a checkpoint of its own."""
        self.is_held = False
        """Whether it is on a runner."""
        self.taken: Resources | None = None
        """What it holds there."""
        self.wish: OrderToTrial | None = None
        """To be obeyed when it next reports."""
        self.wants_save = False
        """Likewise."""
        self.saves_as_it_leaves = False
        self.is_told = True
        """Whether the searcher hears of it."""
        self.metrics: dict[str, Any] | None = None
        """The result as values, while it is looked at."""
        self.view: TrialView | None = None

    @property
    def has_ended(self) -> bool:
        """Whether it will not run again."""
        return self.status in {"TERMINATED", "ERROR"}

    def seen(self) -> TrialView:
        """Return what others may see of it."""
        result = self.metrics
        if result is None:
            result = flattened(decode(self.result)) if self.result else {}
        return TrialView(
            self.id,
            decode(self.config),
            self.status,
            result,
            self.iterations,
            bool(self.checkpoints),
            self.resources.to_floats(),
        )

    def start_point(self) -> tuple[str, int, float]:
        """Return what it goes on from: `trial/checkpoint` or nothing, its iteration and seconds."""
        if self.origin is not None:
            origin = self.origin
            where = f"{origin.trial_id}/{origin.checkpoint}" if origin.checkpoint else ""
            return where, origin.iteration, origin.time_total_s
        if self.checkpoints:
            last = self.checkpoints[-1]
            return f"{self.id}/{last.name}", last.iteration, last.time_total_s
        return "", 0, 0.0
