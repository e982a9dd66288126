"""Grid and random search: every variant of the grids, as often as there are samples.

What is always true
1. The configuration of the n-th trial depends on the space, the seed and n alone: not on results,
   nor on how many trials run at a time. What functions of the space draw from elsewhere is theirs.
2. Every sample has every variant of the grids. Sample s has the values of the s-th point to
   evaluate, if there is one, in place of what it names.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from weft.exceptions import OptionError
from weft.lowlevel import override
from weft.tune._arguments import check_integer
from weft.tune.search.points import put_point
from weft.tune.search.sample import generator
from weft.tune.search.searcher import TellingSearcher
from weft.tune.search.variant_generator import grid_size, variant

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from weft.tune.search.sample import RandomState
    from weft.tune.search.searcher import Config, Finished
    from weft.tune.views import Outcome, TrialView


class BasicVariantGenerator(TellingSearcher):
    """Tries every variant of the grids, `num_samples` times, with values drawn at random.

    Args:
        points_to_evaluate: Configurations, or parts of them, of the first samples.
        max_concurrent: How many trials may run at a time; 0: as many as there is room for. Those
            that a scheduler has paused do not count.
        constant_grid_search: Whether the variants of a sample differ in the grids alone.
        random_state: A generator, or a seed; None: the experiment's seed, else a random one.
    """

    def __init__(
        self,
        points_to_evaluate: Sequence[Mapping[str, Any]] | None = None,
        max_concurrent: int = 0,
        *,
        constant_grid_search: bool = False,
        random_state: RandomState = None,
    ) -> None:
        super().__init__()
        check_integer("BasicVariantGenerator", "max_concurrent", max_concurrent, least=0)
        self._points = list(points_to_evaluate or ())
        self._max_concurrent = max_concurrent
        self._constant = constant_grid_search
        self._random_state = random_state
        self._space: Config | None = None
        self._seed = 0
        self._left = 0.0
        self._sample = 0
        self._variant = 0
        self._asked = 0
        self._running: set[str] = set()

    @override
    def set_search_properties(
        self,
        metric: str | list[str] | None,
        mode: str | list[str] | None,
        config: Config,
        **spec: Any,
    ) -> bool:
        for point in self._points:
            put_point(config, point)  # It fits, or that is said before anything runs.
        self.metric, self.mode, self._space = metric, mode, config
        state = spec.get("seed") if self._random_state is None else self._random_state
        self._seed = generator(state).getrandbits(64)
        self._left = self.expected_trials(spec.get("num_samples", 1))
        return True

    @override
    def expected_trials(self, num_samples: int) -> float:
        """Return how many trials there will be: `num_samples` times the variants of the grids."""
        if num_samples < 0:
            return super().expected_trials(num_samples)
        spaces = [self._space_of(sample) for sample in range(min(num_samples, len(self._points)))]
        rest = num_samples - len(spaces)
        return sum(map(grid_size, spaces)) + rest * grid_size(self._space_of(len(self._points)))

    @override
    def suggest(self, trial_id: str) -> Config | Finished | None:
        if self._asked >= self._left:
            return self.FINISHED
        if self._max_concurrent and len(self._running) >= self._max_concurrent:
            return None
        space = self._space_of(self._sample)
        number = self._sample if self._constant else self._asked
        _, config = variant(space, self._variant, generator(f"{self._seed}/{number}"))
        self.recall(trial_id, config)
        return config

    @override
    def recall(self, trial_id: str, config: Config) -> None:
        self._asked += 1
        self._variant += 1
        if self._variant == grid_size(self._space_of(self._sample)):
            self._sample, self._variant = self._sample + 1, 0
        self._running.add(trial_id)

    @override
    def tell(self, trial: TrialView, outcome: Outcome | None) -> None:
        if outcome is not None:
            self._running.discard(trial.trial_id)

    @override
    def on_pause(self, trial_id: str) -> None:
        self._running.discard(trial_id)

    @override
    def on_unpause(self, trial_id: str) -> None:
        self._running.add(trial_id)

    def _space_of(self, sample: int) -> Config:
        if self._space is None:
            raise OptionError("set_search_properties has not been called: there is no search space")
        return (
            put_point(self._space, self._points[sample])
            if sample < len(self._points)
            else self._space
        )
