"""Many nodes in one thread, on a virtual clock: schedules with faults that a seed repeats.

    from weft.testing import simulate

    simulate(7)                      raises BrokenPromiseError, with its story, if anything is wrong

The machines that decide in daemons, drivers, workers and the control service are the real ones, and
of a daemon also what joins them. Simulated are time, processes and the wire. A seed draws a cluster
of a few nodes, programs with tasks of many kinds, and faults: workers, nodes, drivers and the
control service are killed, hosts fall silent or are cut off, processes stand still, connections
break. Promises are checked while it runs and at the end (promises.py).

It needs no pytest, starts no process, and takes some 30 ms a seed.
"""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass
from typing import TYPE_CHECKING

from weft.testing._simulation.plans import SchedulePlan, plan_of
from weft.testing._simulation.runs import smaller, verdict

if TYPE_CHECKING:
    from weft.testing._simulation.promises import Broken

__all__ = ["BrokenPromiseError", "SchedulePlan", "SimulationReport", "plan_of", "simulate"]


class BrokenPromiseError(AssertionError):
    """A schedule has shown that Weft does not keep a promise. The message tells its story.

    The same seed, or `plan`, shows it again. The fault is Weft's own, or the simulation's.
    """

    def __init__(self, message: str, plan: SchedulePlan) -> None:
        """`plan`: as small as it could be made."""
        super().__init__(message)
        self.plan = plan


@dataclass(frozen=True)
class SimulationReport:
    """What a schedule came to that has kept all promises."""

    seed: int
    tasks: int
    """That were submitted."""
    ended: dict[str, int]
    """How many ended how: "done", or why they have failed."""
    runs: int
    """How often a worker has begun a task or a call."""
    calls: dict[str, int]
    """How many calls of actors ended how: "done", or why they have failed."""
    virtual_s: float
    steps: int
    """What has happened: messages that arrived, clocks that rang."""


def simulate(seed: int, *, faults: int = 3, plan: SchedulePlan | None = None) -> SimulationReport:
    """Run the schedule of a seed, in virtual time, and check that all promises are kept.

    Does not block but for its own computing. May be called from any thread. Nothing is left behind.

    Args:
        seed: Any whole number; the same one gives the same schedule in every process.
        faults: At most so many things go wrong.
        plan: To be run instead of the seed's own.

    Returns:
        What happened, in numbers.

    Raises:
        BrokenPromiseError: A promise was not kept. The schedule was made smaller as long as that
            showed, and the message has its story: the last events of what it is about.
    """
    plan = plan_of(seed, faults=faults) if plan is None else plan
    broken, schedule = verdict(plan)
    if broken is not None:
        raise _explained(plan, broken)
    ended = Counter(kind or "done" for kind in schedule.tally.ended_as.values())
    calls = Counter(kind or "done" for kind in schedule.tally.calls_ended_as.values())
    return SimulationReport(
        seed=plan.seed,
        tasks=len(schedule.tally.ended_as),
        ended=dict(sorted(ended.items())),
        runs=schedule.tally.runs,
        calls=dict(sorted(calls.items())),
        virtual_s=schedule.world.now,
        steps=schedule.world.steps,
    )


def _explained(plan: SchedulePlan, broken: Broken) -> BrokenPromiseError:
    least = smaller(plan, broken)
    again, schedule = verdict(least)
    assert again is not None, "the same plan has shown it before"
    faults = "".join(
        f"\n    {fault.at_s:7.3f}  {fault.kind}, {fault.lasts_s:g} s" for fault in least.faults
    )
    message = (
        f"seed {plan.seed}: {again}\n"
        f"  nodes: {', '.join(f'{n.cpus} CPUs' for n in least.nodes)}; {least.tasks()} tasks"
        f", {least.actors()} actors"
        f"; faults:{faults or ' none'}\n"
        f"{schedule.world.story.tell(*again.about)}"
    )
    error = BrokenPromiseError(message, least)
    error.__cause__ = again.__cause__
    return error
