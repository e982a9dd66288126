"""Searchers whose models know a fixed number of dimensions, and nothing of conditions.

A subclass says three things, about values by the names of their domains (`model/lr`):

    _start()                        make the model, for `self.domains`
    _suggest(fixed, rng)            what the model proposes, with a handle for its answer
    _observe(handle, values, loss)  what came of it; less is better, None is a failure

The values that a point fixes go before those of the model, and the model learns what was tried.
Functions of a space are computed when its domains have their values.
"""

from __future__ import annotations

from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, ClassVar

from weft.exceptions import OptionError
from weft.lowlevel import lazy, override
from weft.tune.search.model_searcher import ModelSearcher, other_space
from weft.tune.search.points import put_point, value_at_path
from weft.tune.search.sample import BELOW_ONE, Categorical
from weft.tune.search.variant_generator import parse_spec_vars, path_name, resolve

if TYPE_CHECKING:
    import random
    from collections.abc import Iterator

    import numpy as np

    from weft.tune.search.sample import Domain
    from weft.tune.search.searcher import Config, Finished
    from weft.tune.search.variant_generator import Given, Path
    from weft.tune.views import Outcome, TrialView

    Values = dict[str, Any]
    Suggestion = tuple[Values, Any]
else:
    np = lazy("numpy")


class BoxSearcher(ModelSearcher):
    """A searcher of spaces without conditions.

    Attributes:
        domains: Of the space, by names such as `model/lr`; known when `_start` is called.
    """

    domains: dict[str, Domain]
    is_seeded_by_trial: ClassVar[bool] = False
    """Whether a suggestion comes of the results and the trial's generator alone: then a trial that
    is recalled need not be asked for again."""

    @override
    def recall(self, trial_id: str, config: Config) -> None:
        if not self.is_seeded_by_trial:
            super().recall(trial_id, config)
            return
        self._open_once()
        self._asked += 1
        values = {}
        for path, domain in parse_spec_vars(self._space)[1]:
            if not domain.is_function():
                values[path_name(path)] = value = value_at_path(config, path)
                if not domain.is_valid(value):
                    raise other_space(path_name(path), value, domain)
        self._running[trial_id] = values, None

    @override
    def _open(self) -> None:
        if len(self.objectives) > 1:
            raise OptionError(f"{type(self).__name__} searches for one objective: give one metric")
        self.domains = flat_domains(self._space, owner=type(self).__name__)
        self._running: dict[str, Suggestion] = {}
        for point in self._points:
            self._fixed_by(point)  # It fits, or that is said before anything runs.
        self._start()
        for point, value in self._evaluated:
            self._observe(None, self._fixed_by(point), self._losses([value])[0])

    @override
    def _propose(self, trial_id: str) -> Config | Finished | None:
        point, rng = self._next_point(), self._generator()
        suggestion = self._suggest(self._fixed_by(point), rng)
        if not isinstance(suggestion, tuple):
            return suggestion
        values = suggestion[0]

        def draw(path: Path, domain: Domain, given: Given) -> Any:
            if domain.is_function():
                return domain.sample(given, random_state=rng)
            if path_name(path) not in values:
                raise OptionError(
                    f"{path_name(path)}: {type(self).__name__} cannot search what a function"
                    " returns; use OptunaSearch"
                )
            return values[path_name(path)]

        config: Config = resolve(put_point(self._space, point), draw)
        self._running[trial_id] = suggestion
        return config

    @override
    def _learn(self, trial: TrialView, values: list[float] | None, outcome: Outcome) -> None:
        running = self._running.pop(trial.trial_id, None)
        if running is not None:
            tried, handle = running
            self._observe(handle, tried, self._losses(values)[0] if values else None)

    def _fixed_by(self, point: Any) -> Values:
        placed = put_point(self._space, point)
        fixed = {}
        for path, domain in parse_spec_vars(self._space)[1]:
            value = value_at_path(placed, path)
            if value is not domain and not domain.is_function():
                fixed[path_name(path)] = value
        return fixed

    def _start(self) -> None:
        raise NotImplementedError

    def _suggest(self, fixed: Values, rng: random.Random) -> Suggestion | Finished | None:
        raise NotImplementedError

    def _observe(self, handle: Any, values: Values, loss: float | None) -> None:
        raise NotImplementedError


def flat_domains(space: Config, *, owner: str) -> dict[str, Domain]:
    """Return the domains of a space by their names.

    Raises:
        OptionError: There are none, or one is within another.
    """
    domains = {}
    for path, domain in parse_spec_vars(space)[1]:
        if isinstance(domain, Categorical) and parse_spec_vars({"": domain.categories})[1]:
            raise OptionError(
                f"{path_name(path)}: {owner} cannot search a choice that holds domains; use"
                " OptunaSearch or HyperOptSearch"
            )
        if not domain.is_function():
            domains[path_name(path)] = domain
    if not domains:
        raise OptionError(f"{owner}: there is no domain in the search space")
    return domains


def value_of(domain: Domain, coordinate: float) -> Any:
    """Return the value at a share of a domain's draws; of categories: the one of that number."""
    if isinstance(domain, Categorical):
        return domain[int(coordinate)]
    return domain.value_at(min(float(coordinate), BELOW_ONE))


def coordinate_of(domain: Domain, value: Any) -> float:
    """Return what `value_of` makes that value of."""
    return domain.index(value) if isinstance(domain, Categorical) else domain.share_of(value)


@contextmanager
def numpy_seeded(rng: random.Random) -> Iterator[None]:
    """Seed numpy's global generator for a library that draws from it; leave it as it was."""
    before = np.random.get_state()
    np.random.seed(rng.getrandbits(32))
    try:
        yield
    finally:
        np.random.set_state(before)
