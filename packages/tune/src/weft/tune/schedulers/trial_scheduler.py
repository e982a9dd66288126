"""The one interface between the loop and whatever decides which trials go on.

A scheduler is pure: what it is told goes in, orders come out. It sees no clock, draws no random
number but from a generator that it was given a seed for, and so decides the same when an experiment
is replayed from its journal: `on_trial_add`, `on_trial_result`, `on_trial_complete`,
`on_trial_error` and `on_idle` are called again in their order, and what they return is thrown away.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, ClassVar, Literal

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from weft.tune.schedulers.orders import Order
    from weft.tune.views import ExperimentView, TrialView

Verdict = Literal["CONTINUE", "PAUSE", "STOP"]


class TrialScheduler:
    """Decides after each result whether a trial goes on.

    Guaranteed to it: calls come from one thread; `on_trial_add` first and once for each trial; one
    of `on_trial_complete` and `on_trial_error` last and once.

    Expected of it: no paused trial is forgotten. When nothing runs and nothing can be started but
    trials are paused, `on_idle` must order something; if it does not, the loop resumes the oldest.
    """

    CONTINUE: ClassVar[Verdict] = "CONTINUE"
    PAUSE: ClassVar[Verdict] = "PAUSE"
    STOP: ClassVar[Verdict] = "STOP"

    supports_buffered_results: ClassVar[bool] = False
    """Whether it never decides anything at a result: then a trial need not wait for its verdict."""

    def set_search_properties(self, metric: str | None, mode: str | None, **spec: Any) -> bool:
        """Take the objective, unless it was given to the constructor; return whether it did.

        Args:
            metric: What to look at in results.
            mode: "min" or "max".
            spec: `seed`, which stays the same when the experiment is restored.
        """
        raise NotImplementedError

    def on_trial_add(self, tune_controller: ExperimentView, trial: TrialView) -> Sequence[Order]:
        """A trial was created."""
        return ()

    def on_trial_result(
        self, tune_controller: ExperimentView, trial: TrialView, result: Mapping[str, Any]
    ) -> Verdict | Sequence[Order]:
        """A trial has reported, and waits for the verdict: a word about itself, or orders.

        With orders that do not name it, it goes on.
        """
        raise NotImplementedError

    def on_trial_complete(
        self, tune_controller: ExperimentView, trial: TrialView, result: Mapping[str, Any]
    ) -> Sequence[Order]:
        """A trial came to its end, or was stopped by whomever."""
        return ()

    def on_trial_error(self, tune_controller: ExperimentView, trial: TrialView) -> Sequence[Order]:
        """A trial failed and will not be tried again."""
        return ()

    def on_idle(self, tune_controller: ExperimentView) -> Sequence[Order]:
        """Nothing runs, nothing can be started, and some trials are paused."""
        return ()

    def debug_string(self) -> str:
        """Return one line for the reporter: the scheduler's state in words."""
        return type(self).__name__
