"""One trial, as the machine of an experiment knows it: what it takes, and what has become of it."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import msgspec

from weft.lowlevel import Resources
from weft.tune._checkpoints import Keeping
from weft.tune._values import decode, flattened
from weft.tune.schedulers.orders import Pause, Restart, Resume, Save, Stop
from weft.tune.views import TrialView

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

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


class Reservation(msgspec.Struct, frozen=True):
    """What a trial takes, bundle by bundle: the first is what its own process holds.

    The others are for tasks and actors that it starts. All count while it is on a runner.
    """

    bundles: tuple[Resources, ...]
    total: Resources

    @classmethod
    def of(cls, bundles: Sequence[Mapping[str, float]]) -> Reservation:
        """Take amounts as users write them."""
        each = tuple(Resources(bundle) for bundle in bundles)
        return cls(each, sum(each, Resources()))

    def to_floats(self) -> list[dict[str, float]]:
        """Return the amounts as users write them."""
        return [bundle.to_floats() for bundle in self.bundles]

    def changed(self, amounts: Mapping[str, float]) -> Reservation:
        """Return it with other amounts altogether; of several bundles the first stays as it is.

        If it does not fit any more, its own process holds all.
        """
        total, own = Resources(amounts), self.bundles[0]
        if len(self.bundles) == 1 or not own.fits(total):
            return Reservation((total,), total)
        return Reservation((own, total - own), total)


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
        "is_told", "iterations", "metrics", "name", "origin", "reserved", "result",
        "saves_as_it_leaves", "status", "taken", "view", "wants_save", "wish",
    )  # fmt: skip

    def __init__(self, trial_id: str, config: bytes, reserved: Reservation) -> None:
        self.id = trial_id
        self.name = ""
        self.dirname = ""
        self.config = config
        self.reserved = reserved
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
        self.taken: Resources | None = None
        """What it has on its runner; None: it is on none."""
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

    @property
    def is_held(self) -> bool:
        """Whether it is on a runner."""
        return self.taken is not None

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
            self.reserved.total.to_floats(),
            self.reserved.to_floats(),
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
