"""The TPE searchers of Weft and of Ray, and a random one, without an experiment round them.

One trial at a time, whose only result is its loss.
"""

from __future__ import annotations

from importlib import import_module
from random import Random
from typing import TYPE_CHECKING, Any, Protocol

from weft.tune.search.sample import Categorical, Float, Integer
from weft.tune.views import TrialView

if TYPE_CHECKING:
    from collections.abc import Mapping

METRIC, MODE = "loss", "min"


class Asked(Protocol):
    """A searcher with one trial at a time."""

    def ask(self) -> dict[str, Any]:
        """Return the next configuration."""
        ...

    def tell(self, loss: float) -> None:
        """Say what has come of it."""
        ...

    def learn(self, config: Mapping[str, Any], loss: float) -> None:
        """Say what has come of a configuration that was not asked for in this process."""
        ...


def opened(system: str, space: Mapping[str, Any], seed: int) -> Asked:
    """Return the TPE searcher of weft or of ray, or the random one."""
    searchers = {"weft": WeftTPE, "ray": RayTPE, "random": RandomDraws}
    searcher: Asked = searchers[system](space, seed)
    return searcher


class WeftTPE:
    """Weft's, called as its loop does it."""

    def __init__(self, space: Mapping[str, Any], seed: int) -> None:
        module = import_module("weft.tune.search.optuna")
        self._searcher = module.OptunaSearch(dict(space), METRIC, MODE, seed=seed)
        self._begun = 0
        self._config: Mapping[str, Any] = {}

    def ask(self) -> dict[str, Any]:
        self._begun += 1
        config: dict[str, Any] = self._searcher.ask(str(self._begun))
        self._config = config
        return config

    def tell(self, loss: float) -> None:
        result = {METRIC: loss, "training_iteration": 1}
        view = TrialView(
            str(self._begun), self._config, "TERMINATED", result, 1, has_checkpoint=False,
            resources={},
        )  # fmt: skip
        self._searcher.tell(view, "completed")

    def learn(self, config: Mapping[str, Any], loss: float) -> None:
        """As an experiment does that is continued."""
        self._begun += 1
        self._config = config
        self._searcher.recall(str(self._begun), config)
        self.tell(loss)


class RayTPE:
    """Ray's, called as its loop does it."""

    def __init__(self, space: Mapping[str, Any], seed: int) -> None:
        module = import_module("ray.tune.search.optuna")
        optuna = import_module("optuna")
        optuna.logging.set_verbosity(optuna.logging.WARNING)
        distributions = module.OptunaSearch.convert_search_space(ray_space(space))
        self._searcher = module.OptunaSearch(distributions, METRIC, MODE, seed=seed)
        self._begun = 0

    def ask(self) -> dict[str, Any]:
        self._begun += 1
        config: dict[str, Any] = self._searcher.suggest(str(self._begun))
        return config

    def tell(self, loss: float) -> None:
        result = {METRIC: loss, "training_iteration": 1}
        self._searcher.on_trial_complete(str(self._begun), result)

    def learn(self, config: Mapping[str, Any], loss: float) -> None:
        self._searcher.add_evaluated_point(dict(config), loss)


class RandomDraws:
    """Learns nothing."""

    def __init__(self, space: Mapping[str, Any], seed: int) -> None:
        self._space = space
        self._rng = Random(seed)

    def ask(self) -> dict[str, Any]:
        return {name: domain.sample(random_state=self._rng) for name, domain in self._space.items()}

    def tell(self, loss: float) -> None: ...

    def learn(self, config: Mapping[str, Any], loss: float) -> None: ...


def ray_space(space: Mapping[str, Any]) -> dict[str, Any]:
    """Return the same space made of Ray's domains."""
    tune = import_module("ray.tune")

    def converted(domain: Any) -> Any:
        match domain:
            case Float():
                return tune.uniform(domain.lower, domain.upper)
            case Integer():
                return tune.randint(domain.lower, domain.upper)
            case Categorical():
                return tune.choice(domain.categories)
        raise TypeError(f"no problem has a {type(domain).__name__} so far")

    return {name: converted(domain) for name, domain in space.items()}
