"""What every scheduler has to do: one suite of tests, run on each of them.

    import pytest

    pytest.register_assert_rewrite("weft.tune.testing.scheduler_suite")
    from weft.tune.testing.scheduler_suite import SchedulerSuite

    class TestMyScheduler(SchedulerSuite):
        def make_scheduler(self):
            return MyScheduler(time_attr="training_iteration", metric="score", mode="max")

Each test draws learning curves and runs experiments on paper (`weft.tune.testing.simulation`). They
need pytest and hypothesis.
"""

# ruff: noqa: D102, S101
# The methods are tests: their names say what they check.

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from weft.exceptions import OptionError
from weft.tune.testing.simulation import Simulation, answers_again
from weft.tune.views import ExperimentView, TrialView

if TYPE_CHECKING:
    from collections.abc import Mapping

    from weft.tune.schedulers.trial_scheduler import TrialScheduler

STEPS = 40
"""The longest curve."""

_scores = st.one_of(
    st.floats(-10, 10), st.integers(-3, 3), st.sampled_from([math.nan, math.inf, -math.inf])
)
_curves = st.lists(st.lists(_scores, max_size=STEPS), min_size=1, max_size=12)
_circumstances = st.fixed_dictionaries(
    {
        "slots": st.integers(1, 5),
        "seed": st.integers(0, 1000),
        "failing": st.sampled_from([0.0, 0.0, 0.05, 0.3]),
        "max_live": st.none() | st.integers(1, 5),
        "at_once": st.booleans(),
        "clock": st.sampled_from(["own", "source"]),
    }
).filter(lambda drawn: not (drawn["at_once"] and drawn["max_live"]))

# The same drawn cases are given to each subclass: they do not look at the class.
_drawn = settings(
    deadline=None, max_examples=25, suppress_health_check=[HealthCheck.differing_executors]
)


class SchedulerSuite:
    """The promises of `TrialScheduler`. A subclass says how to make one."""

    reads_results = True
    """Whether it compares trials by the metric `score`."""

    def make_scheduler(self) -> TrialScheduler:
        """Return a fresh scheduler: its time is `training_iteration`, `score` is to be large.

        If it draws, it is seeded. It decides early and often: after one or a few iterations.
        """
        raise NotImplementedError

    def config_of(self, number: int) -> dict[str, Any]:
        """Return what the scheduler needs of a trial's configuration."""
        return {"x": 0.1 * (number + 1)}

    def simulate(
        self, curves: list[list[float]], circumstances: Mapping[str, Any], **more: Any
    ) -> Simulation:
        """Run trials that report a curve each."""

        def step(config: Mapping[str, Any], t: int | None) -> tuple[int, dict[str, Any]] | None:
            curve = curves[config["curve"]]
            t = t or 0
            return (t + 1, {"score": curve[t]}) if t < len(curve) else None

        configs = [{"curve": k, **self.config_of(k)} for k in range(len(curves))]
        most = 30 * STEPS * len(curves)
        arguments = {"max_steps": most, **circumstances, **more}
        return Simulation(self.make_scheduler(), configs, step, **arguments).run()

    @_drawn
    @given(_curves, _circumstances)
    def test_every_trial_ends_and_no_order_names_one_that_has(
        self, curves: list[list[float]], circumstances: dict[str, Any]
    ) -> None:
        done = self.simulate(curves, circumstances)
        assert len(done.trials) == len(curves)
        assert all(trial.is_ended for trial in done.trials.values())

    @_drawn
    @given(_curves, _circumstances)
    def test_trials_that_cannot_be_saved_end_as_well(
        self, curves: list[list[float]], circumstances: dict[str, Any]
    ) -> None:
        try:
            done = self.simulate(curves, circumstances, saves=False)
        except OptionError as error:
            says_why = "checkpoint" in str(error)
            assert says_why
        else:
            assert all(trial.is_ended for trial in done.trials.values())

    @_drawn
    @given(_curves, _circumstances)
    def test_the_same_calls_have_the_same_answers(
        self, curves: list[list[float]], circumstances: dict[str, Any]
    ) -> None:
        calls = self.simulate(curves, circumstances).calls
        again = answers_again(calls, self.make_scheduler())
        assert again == [call.answer for call in calls]

    @_drawn
    @given(st.integers(1, 12), _circumstances)
    def test_trials_that_are_all_alike_are_not_all_stopped(
        self, n: int, circumstances: dict[str, Any]
    ) -> None:
        circumstances = {**circumstances, "failing": 0.0}
        done = self.simulate([[1.0] * 20 for _ in range(n)], circumstances)
        assert max(trial.time for trial in done.trials.values()) > 1

    def test_metric_that_was_not_reported_is_named_beside_those_that_were(self) -> None:
        if not self.reads_results:
            pytest.skip("it does not look at the metric")
        scheduler, trial, view = self._first_trial()
        with pytest.raises(OptionError, match=r"'score'.*accuracy, training_iteration") as caught:
            scheduler.on_trial_result(view, trial, {"training_iteration": 1, "accuracy": 0.5})
        assert trial.trial_id in str(caught.value)
        assert "\n" not in str(caught.value)

    def test_time_that_was_not_reported_is_named_beside_what_was(self) -> None:
        if not self.reads_results:
            pytest.skip("it does not look at the time")
        scheduler, trial, view = self._first_trial()
        with pytest.raises(OptionError, match=r"'training_iteration'.*accuracy, score"):
            scheduler.on_trial_result(view, trial, {"accuracy": 0.5, "score": 1})

    def test_metric_that_is_no_number_is_refused(self) -> None:
        if not self.reads_results:
            pytest.skip("it does not look at the metric")
        scheduler, trial, view = self._first_trial()
        with pytest.raises(OptionError, match="no number but 'high' \\(str\\)"):
            scheduler.on_trial_result(view, trial, {"training_iteration": 1, "score": "high"})

    def test_other_objective_than_the_constructors_is_refused(self) -> None:
        if not self.reads_results:
            pytest.skip("it has no objective")
        assert self.make_scheduler().set_search_properties("score", "max")
        assert self.make_scheduler().set_search_properties(None, None)
        assert not self.make_scheduler().set_search_properties("accuracy", "max")
        assert not self.make_scheduler().set_search_properties("score", "min")

    def test_its_state_is_said_in_one_line(self) -> None:
        scheduler, *_ = self._first_trial()
        assert scheduler.debug_string()
        assert "\n" not in scheduler.debug_string()

    def _first_trial(self) -> tuple[TrialScheduler, TrialView, ExperimentView]:
        scheduler = self.make_scheduler()
        trial = TrialView("trial-0", self.config_of(0), "RUNNING", {}, 0, False, {"CPU": 1.0})
        view = ExperimentView({"trial-0": trial}, {"CPU": 1.0})
        scheduler.on_trial_add(view, trial)
        return scheduler, trial, view
