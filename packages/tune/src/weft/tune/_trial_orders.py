"""What the words of a scheduler come to: a verdict is orders, and an order a decision, or a wish.

A trial that is in the middle of a step is not paused, nor restarted from where it is: it reports
first. So the order is put down with it as its wish.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, assert_never

import msgspec

from weft.tune._records import Paused, Restarted, Resumed, Stopped
from weft.tune._values import encode
from weft.tune.execution.placement_groups import PlacementGroupFactory
from weft.tune.schedulers.orders import Pause, Restart, Resume, Save, Stop

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from weft.tune._records import Decision
    from weft.tune._trial_runs import OrderToTrial, TrialRun
    from weft.tune.schedulers.orders import Order
    from weft.tune.schedulers.trial_scheduler import Verdict


def orders_of(verdict: Verdict | Sequence[Order], trial_id: str) -> Sequence[Order]:
    """Return what a scheduler orders with its answer to a result of this trial."""
    if not isinstance(verdict, str):
        return verdict
    orders: dict[str, Sequence[Order]] = {
        "CONTINUE": (),
        "PAUSE": [Pause(trial_id)],
        "STOP": [Stop(trial_id)],
    }
    if verdict not in orders:
        raise ValueError(f"the scheduler answers {verdict!r}: give CONTINUE, PAUSE, STOP or orders")
    return orders[verdict]


def decision_of(
    order: OrderToTrial, trial: TrialRun, run_of: Mapping[str, TrialRun], *, is_away: bool
) -> Decision | None:
    """Return what an order comes to now; None: nothing, or not yet.

    `run_of` has all trials; `is_away`: this one is in the middle of a step.
    """
    match order:
        case Stop(trial_id):
            return Stopped(trial_id)
        case Pause(trial_id):
            if is_away:
                trial.wish = order
                return None
            return None if trial.status == "PAUSED" else Paused(trial_id)
        case Resume(trial_id):
            return Resumed(trial_id) if trial.status == "PAUSED" else None
        case Restart():
            if is_away and order.source == trial.id:
                trial.wish = order
                return None
            return _restart(order, trial, run_of[order.source])
        case Save():
            trial.wants_save = trial.status == "RUNNING"
            return None
        case _:
            assert_never(order)


def _restart(order: Restart, trial: TrialRun, source: TrialRun) -> Restarted:
    config = msgspec.Raw(encode(dict(order.config)))
    bundles = _bundles_of(order, trial)
    if source is trial or not source.checkpoints:
        return Restarted(trial.id, config, source.id, bundles=bundles)
    last = source.checkpoints[-1]
    return Restarted(
        trial.id, config, source.id, last.name, last.iteration, last.time_total_s, bundles
    )


def _bundles_of(order: Restart, trial: TrialRun) -> list[dict[str, float]]:
    """Return what an order says that the trial is to reserve; empty: as before."""
    if not order.resources:
        return []
    if isinstance(order.resources, PlacementGroupFactory):
        return order.resources.bundles
    return trial.reserved.changed(order.resources).to_floats()
