"""What searchers with a model have in common: objective, space, points, and what a result is worth.

A subclass makes a model in `_open`, and says what it proposes and how it learns:

    _open()                         the space and the objective are known
    _propose(trial_id)              a configuration, None or FINISHED, as `ask`
    _learn(trial, values, outcome)  a trial has ended; `values`, one for each objective, is None
                                    when there are none to learn from

What is always true
1. `_learn` sees finite numbers, or None: a metric that is missing, NaN, infinite or no number makes
   None, as does a trial that failed.
2. `values` are as reported; `_losses` turns them so that less is better.
3. Points are proposed first, in their order.
"""

from __future__ import annotations

import math
import random
from typing import TYPE_CHECKING, Any

from weft.exceptions import OptionError
from weft.lowlevel import override
from weft.tune._arguments import check_mode
from weft.tune._readings import read_number
from weft.tune.search.sample import generator
from weft.tune.search.searcher import TellingSearcher
from weft.tune.search.variant_generator import parse_spec_vars, path_name

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from weft.tune.search.searcher import Config, Finished
    from weft.tune.views import Outcome, TrialView


class ModelSearcher(TellingSearcher):
    """A searcher that proposes what a model of earlier results says."""

    def __init__(
        self,
        space: Any = None,
        metric: str | list[str] | None = None,
        mode: str | list[str] | None = None,
        points_to_evaluate: Sequence[Mapping[str, Any]] | None = None,
        evaluated_rewards: Sequence[Any] | None = None,
        *,
        seed: int | None = None,
    ) -> None:
        super().__init__(metric, mode)
        self._space = space
        self._given = space is not None
        self._constants: Config = {}
        points, rewards = list(points_to_evaluate or ()), list(evaluated_rewards or ())
        if len(rewards) > len(points):
            raise OptionError(f"{len(rewards)} evaluated_rewards for {len(points)} points")
        self._evaluated = list(zip(points, rewards, strict=False))
        self._points = points[len(rewards) :]
        self._seed = seed
        self._asked = 0
        self._is_open = False

    @property
    def objectives(self) -> list[tuple[str, str]]:
        """Each metric with its mode."""
        metrics = [self.metric] if isinstance(self.metric, str) else list(self.metric or ())
        modes = [self.mode] * len(metrics) if isinstance(self.mode, str) else list(self.mode or ())
        if not metrics or len(metrics) != len(modes):
            raise OptionError(
                f"{type(self).__name__} needs a metric and a mode, or as many of each:"
                f" metric={self.metric!r}, mode={self.mode!r}"
            )
        for mode in modes:
            check_mode(type(self).__name__, mode)
        return list(zip(metrics, modes, strict=True))

    @override
    def set_search_properties(
        self,
        metric: str | list[str] | None,
        mode: str | list[str] | None,
        config: Config,
        **spec: Any,
    ) -> bool:
        _, domains, grids = parse_spec_vars(config)
        if self._given and (domains or grids):
            return False
        if (metric and self.metric and metric != self.metric) or (
            mode and self.mode and mode != self.mode
        ):
            return False
        if grids:
            raise OptionError(
                f"{path_name(grids[0][0])}: {type(self).__name__} does not try every value of a"
                " grid_search; use choice, or BasicVariantGenerator"
            )
        self.metric, self.mode = self.metric or metric, self.mode or mode
        if self._given:
            self._constants = config
        else:
            self._space = config
        if self._seed is None:
            self._seed = spec.get("seed")
        self._open_once()
        return True

    def _open_once(self) -> None:
        if self._is_open:
            return
        if self._space is None:
            raise OptionError(
                f"{type(self).__name__} has no search space: give it one, or the Tuner"
            )
        if not self._space:
            raise OptionError(f"{type(self).__name__}: the search space is empty")
        _ = self.objectives
        if self._seed is None:
            self._seed = random.getrandbits(31)
        self._open()
        self._is_open = True

    @override
    def suggest(self, trial_id: str) -> Config | Finished | None:
        self._open_once()
        config = self._propose(trial_id)
        if isinstance(config, dict):
            self._asked += 1
            return merged(self._constants, config)
        return config

    @override
    def tell(self, trial: TrialView, outcome: Outcome | None) -> None:
        if outcome is not None:
            values = None if outcome == "failed" else self._values_of(trial.result)
            self._learn(trial, values, outcome)

    def _values_of(self, result: Mapping[str, Any]) -> list[float] | None:
        values = []
        for metric, _ in self.objectives:
            value = metric_of(result, metric)
            if value is None:
                return None
            values.append(value)
        return values

    def _losses(self, values: Sequence[float]) -> list[float]:
        return [
            value if mode == "min" else -value
            for value, (_, mode) in zip(values, self.objectives, strict=True)
        ]

    def _next_point(self) -> Mapping[str, Any]:
        """Return what the trial that is asked for is to have, by the user's wish."""
        return self._points[self._asked] if self._asked < len(self._points) else {}

    def _generator(self) -> random.Random:
        """Return the generator of the trial that is asked for: the same in every run."""
        return generator(f"{self._seed}/{self._asked}")

    def _open(self) -> None:
        raise NotImplementedError

    def _propose(self, trial_id: str) -> Config | Finished | None:
        raise NotImplementedError

    def _learn(self, trial: TrialView, values: list[float] | None, outcome: Outcome) -> None:
        raise NotImplementedError


def metric_of(result: Mapping[str, Any], metric: str) -> float | None:
    """Return a finite number that was reported; None: there is none."""
    try:
        value = read_number(result, metric, reader="the searcher", trial_id="")
    except OptionError:
        return None
    return value if math.isfinite(value) else None


def other_space(name: str, value: Any, domain: object) -> OptionError:
    """Return the error of a trial that is recalled, and whose value the space does not have."""
    return OptionError(
        f"the experiment was begun with another search space: {name} is {value!r}, not of"
        f" {domain!r}; give it another name, or that space"
    )


def merged(under: Config, over: Config) -> Config:
    """Return both dictionaries in one, nested ones too; `over` goes before `under`."""
    both = {**under, **over}
    for key in under.keys() & over.keys():
        if isinstance(under[key], dict) and isinstance(over[key], dict):
            both[key] = merged(under[key], over[key])
    return both
