"""Search with a Gaussian process: the package bayesian-optimization.

Every domain is a number in [0, 1], the share of its draws; a category is a stretch of that line. A
suggestion fits the process to all results anew: tens of milliseconds, and more the more there are.

Source: Snoek, Larochelle, Adams, "Practical Bayesian Optimization of Machine Learning Algorithms",
NIPS 2012; of the utility: Srinivas et al., "Gaussian Process Optimization in the Bandit Setting",
ICML 2010 (upper confidence bound).
"""

from __future__ import annotations

import warnings
from typing import TYPE_CHECKING, Any, ClassVar

from weft.exceptions import OptionError
from weft.lowlevel import lazy, override
from weft.tune.search.box_searcher import BoxSearcher, flat_domains
from weft.tune.search.extras import required
from weft.tune.search.sample import BELOW_ONE, uniform

if TYPE_CHECKING:
    import random
    from collections.abc import Mapping, Sequence

    import bayes_opt
    import numpy as np
    import threadpoolctl
    from sklearn import gaussian_process

    from weft.tune.search.box_searcher import Suggestion, Values
    from weft.tune.search.searcher import Config, Finished
else:
    bayes_opt = lazy("bayes_opt")
    gaussian_process = lazy("sklearn.gaussian_process")
    np = lazy("numpy")
    threadpoolctl = lazy("threadpoolctl")

UTILITIES = {
    "ucb": "UpperConfidenceBound",
    "ei": "ExpectedImprovement",
    "poi": "ProbabilityOfImprovement",
}


class BayesOptSearch(BoxSearcher):
    """Search with the package bayesian-optimization.

    Args:
        space: The space, unless the Tuner has it; a pair of numbers is their uniform domain.
        metric: What to look at in results.
        mode: "min" or "max".
        points_to_evaluate: Configurations, or parts of them, that are tried first.
        utility_kwargs: `kind`: "ucb", "ei" or "poi"; and what that takes: `kappa` or `xi`.
        random_state: The seed; None: the experiment's, else a random one.
        random_search_steps: How many trials are drawn at random at first.
        patience: After so many suggestions in a row that were tried before, it is finished.
        skip_duplicate: Whether what was tried is not tried again.
        verbose: Has no effect: nothing is printed.
        analysis: Its trials are learned before the first suggestion.
        repeat_float_precision: To how many digits two suggestions are the same.

    Raises:
        ImportError: bayesian-optimization is not installed.
    """

    is_seeded_by_trial: ClassVar[bool] = True

    def __init__(
        self,
        space: Config | None = None,
        metric: str | None = None,
        mode: str | None = None,
        points_to_evaluate: Sequence[Mapping[str, Any]] | None = None,
        utility_kwargs: Mapping[str, Any] | None = None,
        *,
        random_state: int | None = None,
        random_search_steps: int = 10,
        verbose: int = 0,
        patience: int = 5,
        skip_duplicate: bool = True,
        analysis: Any = None,
        repeat_float_precision: int = 5,
    ) -> None:
        required("bayes_opt.acquisition", extra="bayesopt")
        if space is not None:
            space = {
                name: uniform(*found) if isinstance(found, tuple) else found
                for name, found in space.items()
            }
        super().__init__(space, metric, mode, points_to_evaluate, seed=random_state)
        usual = {} if (utility_kwargs or {}).get("kind", "ucb") == "ucb" else {"xi": 0.01}
        self._utility = {"kind": "ucb", **usual, **(utility_kwargs or {})}
        if self._utility["kind"] not in UTILITIES:
            raise OptionError(f"utility_kwargs: kind is one of {', '.join(UTILITIES)}")
        self._random_steps = random_search_steps
        self._patience = patience
        self._skips = skip_duplicate
        self._digits = repeat_float_precision
        self._analysis = analysis

    @staticmethod
    def convert_search_space(spec: Config) -> dict[str, tuple[float, float]]:
        """Return the bounds of a space's numbers: shares in [0, 1]."""
        return dict.fromkeys(flat_domains(spec, owner="BayesOptSearch"), (0.0, 1.0))

    def register_analysis(self, analysis: Any) -> None:
        """Learn from the trials of another experiment that had this space and metric."""
        self._open_once()
        for trial in analysis.trials:
            values = self._values_of(trial.last_result or {})
            if values is not None:
                self._observe(None, self._fixed_by(trial.config), self._losses(values)[0])

    @override
    def recall(self, trial_id: str, config: Config) -> None:
        super().recall(trial_id, config)
        self._tried.add(self._key(self._running[trial_id][0]))

    @override
    def _start(self) -> None:
        self._seen: list[tuple[list[float], float]] = []
        self._tried: set[tuple[Any, ...]] = set()
        self._is_open = True  # What is registered is registered with an open searcher.
        if self._analysis is not None:
            self.register_analysis(self._analysis)

    @override
    def _suggest(self, fixed: Values, rng: random.Random) -> Suggestion | Finished:
        for attempt in range(self._patience):
            is_random = attempt > 0 or self._asked < self._random_steps or not self._seen
            shares = [rng.random() for _ in self.domains] if is_random else self._best(rng)
            values = {
                name: domain.value_at(min(share, BELOW_ONE))
                for (name, domain), share in zip(self.domains.items(), shares, strict=True)
            }
            values.update(fixed)
            key = self._key(values)
            if key not in self._tried or not self._skips or len(fixed) == len(self.domains):
                self._tried.add(key)
                return values, None
        return self.FINISHED

    def _best(self, rng: random.Random) -> list[float]:
        """Return where the utility is largest; trials that run count as bad as any that ended."""
        space = bayes_opt.TargetSpace(
            None, dict.fromkeys(self.domains, (0.0, 1.0)), allow_duplicate_points=True
        )
        lie = min(target for _, target in self._seen)
        running = [(self._shares(values), lie) for values, _ in self._running.values()]
        for shares, target in [*self._seen, *running]:
            space.register(np.array(shares), target)
        model = gaussian_process.GaussianProcessRegressor(
            kernel=gaussian_process.kernels.Matern(nu=2.5),
            alpha=1e-6,
            normalize_y=True,
            n_restarts_optimizer=5,
            random_state=rng.getrandbits(32),
        )
        how = {name: value for name, value in self._utility.items() if name != "kind"}
        utility = getattr(bayes_opt.acquisition, UTILITIES[self._utility["kind"]])(**how)
        # The matrices are small: a second thread costs more than it brings.
        with warnings.catch_warnings(), threadpoolctl.threadpool_limits(1):
            warnings.simplefilter("ignore")  # The fit is at a bound, or has not converged.
            state = np.random.RandomState(rng.getrandbits(32))
            found = utility.suggest(model, space, random_state=state)
        return [float(share) for share in found]

    @override
    def _observe(self, handle: Any, values: Values, loss: float | None) -> None:
        if loss is not None:
            self._seen.append((self._shares(values), -loss))

    def _shares(self, values: Values) -> list[float]:
        return [domain.share_of(values[name]) for name, domain in self.domains.items()]

    def _key(self, values: Values) -> tuple[Any, ...]:
        """Return what two suggestions have in common if they are the same."""
        return tuple(
            round(value, self._digits) if isinstance(value, float) else repr(value)
            for value in (values[name] for name in self.domains)
        )
