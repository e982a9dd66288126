"""BOHB's model: kernel densities of good and of bad configurations, one pair for each budget.

A trial's results at each iteration are results at that budget; a suggestion comes of the largest
budget that has enough of them. HyperBandForBOHB is the scheduler that belongs to it.

Every number is one in [0, 1], the share of its domain's draws; categories are categories.

Source: Falkner, Klein, Hutter, "BOHB: Robust and Efficient Hyperparameter Optimization at Scale",
ICML 2018; the model is that of hpbandster.
"""

from __future__ import annotations

import warnings
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any, ClassVar

from weft.lowlevel import lazy, override
from weft.tune.search.box_searcher import (
    BoxSearcher,
    coordinate_of,
    flat_domains,
    numpy_seeded,
    value_of,
)
from weft.tune.search.extras import required
from weft.tune.search.sample import Categorical

if TYPE_CHECKING:
    import random
    from collections.abc import Mapping, Sequence

    import ConfigSpace
    from hpbandster.optimizers.config_generators import bohb

    from weft.tune.search.box_searcher import Suggestion, Values
    from weft.tune.search.searcher import Config, Finished
    from weft.tune.views import Outcome, TrialView
else:
    ConfigSpace = lazy("ConfigSpace")
    bohb = lazy("hpbandster.optimizers.config_generators.bohb")


class TuneBOHB(BoxSearcher):
    """Search with the model of BOHB.

    Args:
        space: The space, unless the Tuner has it.
        bohb_config: What the model takes: `min_points_in_model`, `top_n_percent`, `num_samples`,
            `random_fraction`, `bandwidth_factor`, `min_bandwidth`.
        metric: What to look at in results.
        mode: "min" or "max".
        points_to_evaluate: Configurations, or parts of them, that are tried first.
        seed: None: the experiment's, else a random one.
        max_concurrent: How many trials may run at a time; 0: as many as there is room for. Paused
            ones do not count.

    Raises:
        ImportError: hpbandster or ConfigSpace is not installed.
    """

    is_seeded_by_trial: ClassVar[bool] = True

    def __init__(
        self,
        space: Config | None = None,
        bohb_config: Mapping[str, Any] | None = None,
        metric: str | None = None,
        mode: str | None = None,
        points_to_evaluate: Sequence[Mapping[str, Any]] | None = None,
        *,
        seed: int | None = None,
        max_concurrent: int = 0,
    ) -> None:
        required("ConfigSpace", extra="bohb")
        required("hpbandster.optimizers.config_generators.bohb", extra="bohb")
        super().__init__(space, metric, mode, points_to_evaluate, seed=seed)
        self._options = dict(bohb_config or {})
        self._max_concurrent = max_concurrent
        self._active: set[str] = set()

    @staticmethod
    def convert_search_space(spec: Config) -> ConfigSpace.ConfigurationSpace:
        """Return the ConfigSpace of a space."""
        found = ConfigSpace.ConfigurationSpace()
        for name, domain in flat_domains(spec, owner="TuneBOHB").items():
            if isinstance(domain, Categorical):
                found.add(
                    ConfigSpace.CategoricalHyperparameter(name, range(len(domain.categories)))
                )
            else:
                found.add(ConfigSpace.UniformFloatHyperparameter(name, 0.0, 1.0))
        return found

    @override
    def _start(self) -> None:
        self._configspace = self.convert_search_space(self._space)
        with _quiet():
            self._model = bohb.BOHB(self._configspace, **self._options)

    @override
    def recall(self, trial_id: str, config: Config) -> None:
        super().recall(trial_id, config)
        self._active.add(trial_id)

    @override
    def _suggest(self, fixed: Values, rng: random.Random) -> Suggestion | None:
        if self._max_concurrent and len(self._active) >= self._max_concurrent:
            return None
        self._configspace.seed(rng.getrandbits(31))
        with _quiet(), numpy_seeded(rng):
            coordinates, _ = self._model.get_config(None)
        values = {
            name: value_of(domain, coordinates[name]) for name, domain in self.domains.items()
        }
        return {**values, **fixed}, None

    @override
    def suggest(self, trial_id: str) -> Config | Finished | None:
        config = super().suggest(trial_id)
        if isinstance(config, dict):
            self._active.add(trial_id)
        return config

    @override
    def tell(self, trial: TrialView, outcome: Outcome | None) -> None:
        running = self._running.get(trial.trial_id)
        if outcome is None and running is not None:
            found = self._values_of(trial.result)
            loss = self._losses(found)[0] if found else None
            self._add(running[0], loss, budget=float(trial.iterations))
        elif outcome is not None:
            self._active.discard(trial.trial_id)
            self._running.pop(trial.trial_id, None)

    def _add(self, values: Values, loss: float | None, *, budget: float) -> None:
        coordinates = {
            name: coordinate_of(domain, values[name]) for name, domain in self.domains.items()
        }
        result = None if loss is None else {"loss": loss}
        arguments = {"budget": budget, "config": coordinates}
        with _quiet():
            self._model.new_result(
                SimpleNamespace(
                    result=result, kwargs=arguments, exception=None, id=(), timestamps={}
                )
            )

    @override
    def on_pause(self, trial_id: str) -> None:
        """A trial is paused: another one may run."""
        self._active.discard(trial_id)

    @override
    def on_unpause(self, trial_id: str) -> None:
        """A paused trial goes on, and counts."""
        if trial_id in self._running:
            self._active.add(trial_id)


def _quiet() -> warnings.catch_warnings[None]:
    """Leave out what hpbandster has to say about ConfigSpace's names, and about its densities."""
    return warnings.catch_warnings(action="ignore")
