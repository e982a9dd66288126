"""One trial that goes the way by which a population based training has come to a good one.

Jaderberg et al., "Population Based Training of Neural Networks", 2017, section 5: what PBT finds is
a schedule of hyperparameters, which is of use without the population.

What is always true: after each result the configuration is the one that the policy has for its
time. A trial that goes back in time goes back in the policy.

What it does not do: it does not choose. The policy ends with the last step, whose configuration
stays.
"""

from __future__ import annotations

from bisect import bisect_right
from pathlib import Path
from typing import TYPE_CHECKING, Any

import msgspec

from weft.exceptions import OptionError
from weft.lowlevel import override
from weft.tune._readings import read_number
from weft.tune.schedulers.orders import Restart
from weft.tune.schedulers.pbt import PolicyStep
from weft.tune.schedulers.trial_scheduler import TrialScheduler

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from weft.tune.schedulers.orders import Order
    from weft.tune.schedulers.trial_scheduler import Verdict
    from weft.tune.views import ExperimentView, TrialView


class PopulationBasedTrainingReplay(TrialScheduler):
    """Trains one trial with the schedule that PopulationBasedTraining wrote.

    Args:
        policy_file: A `pbt_policy_<trial id>.txt` of the experiment's folder.

    Raises:
        OptionError: The file is not there, or is no policy; or there is a second trial.
    """

    def __init__(self, policy_file: str | Path) -> None:
        path = Path(policy_file).expanduser()
        try:
            self._steps = msgspec.json.Decoder(PolicyStep).decode_lines(path.read_bytes())
        except OSError as error:
            raise OptionError(f"policy {path} cannot be read: {error.strerror}") from None
        except msgspec.DecodeError as error:
            raise OptionError(
                f"{path} is no policy of population based training: {error}"
            ) from None
        self._times = [step.time for step in self._steps]
        if not self._steps or self._times[0] != 0 or self._times != sorted(self._times):
            raise OptionError(f"{path} is no policy of population based training: its times")
        self._trial_id: str | None = None
        self._now = 0
        """Which step the trial is in."""

    @property
    def config(self) -> dict[str, Any]:
        """The configuration that the trial begins with."""
        return self._steps[0].config

    @override
    def set_search_properties(self, metric: str | None, mode: str | None, **spec: Any) -> bool:
        return True

    @override
    def on_trial_add(self, tune_controller: ExperimentView, trial: TrialView) -> Sequence[Order]:
        if self._trial_id not in (None, trial.trial_id):
            raise OptionError("a replay of population based training is one trial: num_samples=1")
        self._trial_id = trial.trial_id
        return [Restart(trial.trial_id, trial.trial_id, {**trial.config, **self.config})]

    @override
    def on_trial_result(
        self, tune_controller: ExperimentView, trial: TrialView, result: Mapping[str, Any]
    ) -> Verdict | Sequence[Order]:
        time = read_number(
            result, self._steps[0].time_attr, reader=type(self).__name__, trial_id=trial.trial_id
        )
        now = max(0, bisect_right(self._times, time) - 1)
        if now == self._now:
            return self.CONTINUE
        self._now = now
        config = {**trial.config, **self._steps[now].config}
        return [Restart(trial.trial_id, trial.trial_id, config)]

    @override
    def debug_string(self) -> str:
        return f"{type(self).__name__}: at step {self._now + 1} of {len(self._steps)}"
