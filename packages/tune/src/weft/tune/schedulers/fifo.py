"""No early stopping: every trial runs to its end, in the order of creation."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from weft.lowlevel import override
from weft.tune.schedulers.trial_scheduler import TrialScheduler

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from weft.tune.schedulers.orders import Order
    from weft.tune.schedulers.trial_scheduler import Verdict
    from weft.tune.views import ExperimentView, TrialView


class FIFOScheduler(TrialScheduler):
    """Lets every trial run to its end."""

    supports_buffered_results = True

    @override
    def __init_subclass__(cls, **kwargs: Any) -> None:
        """See that trials wait for the verdicts of a subclass that gives some."""
        super().__init_subclass__(**kwargs)
        if "on_trial_result" in vars(cls) and "supports_buffered_results" not in vars(cls):
            cls.supports_buffered_results = False

    @override
    def set_search_properties(self, metric: str | None, mode: str | None, **spec: Any) -> bool:
        return True

    @override
    def on_trial_result(
        self, tune_controller: ExperimentView, trial: TrialView, result: Mapping[str, Any]
    ) -> Verdict | Sequence[Order]:
        return self.CONTINUE
