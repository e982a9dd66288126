"""PB2: population based training whose exploration learns from what the population has seen.

Parker-Holder, Nguyen and Roberts, "Provably Efficient Online Hyperparameter Optimization with
Population-Based Bandits", NeurIPS 2020. As in population based training the bad copy the good (see
`pbt`). What they go on with is chosen by a bandit (Algorithm 1): a Gaussian process is fitted to
y_t, the change of the score per interval, over the hyperparameters x and the interval's number t,
with the kernel of section 3.1, squared exponential in x and forgetting in t:

    k((x, t), (x', t')) = exp(-|x - x'|^2 / 2 l^2) (1 - epsilon)^(|t - t'| / 2)

and the x with the highest mu(x) + sqrt(beta_t) sigma(x) is taken. sigma is lower near the x with
which the others train at the moment (section 3.2: parallel selection): not all try the same.

What is always true
1. x is scaled to [0, 1]^d by the bounds, y to mean 0 and deviation 1.
2. l, epsilon and the noise are those with the highest marginal likelihood, of a small grid.
3. The last MAX_ROWS intervals count; with fewer than two, x is drawn uniformly.

What it does not do: with a single hyperparameter it is no better than chance, of which selection
keeps the best. Choices between names are not explored, as PB2-Mix (2021) would. beta_t is not
the one of Theorem 2, which holds up to constants: BETA_0 + BETA_1 log t keeps its growth.
"""

from __future__ import annotations

import math
from itertools import product
from typing import TYPE_CHECKING, Any

from weft.exceptions import OptionError
from weft.lowlevel import lazy, override
from weft.tune.schedulers.pbt import PopulationBasedTraining

if TYPE_CHECKING:
    import random
    from collections.abc import Mapping, Sequence

    import numpy as np
    from numpy.typing import NDArray

    from weft.tune.schedulers.orders import Order
    from weft.tune.schedulers.pbt import Config, Explore, Member
    from weft.tune.views import ExperimentView, TrialView

    Array = NDArray[np.float64]
else:
    np = lazy("numpy")

MAX_ROWS = 100
"""Intervals that the process is fitted to: the cost of a choice grows with their cube."""
CANDIDATES = 500
"""Points among which the best is taken, and as many near those that did best."""
BETA_0, BETA_1 = 0.2, 0.4
LENGTHS = (0.1, 0.2, 0.4, 0.8)
EPSILONS = (0.0, 0.05, 0.2, 0.5)
NOISES = (0.01, 0.1, 0.5)
"""Variances beside the signal's, which is 1."""


class TimeVaryingProcess:
    """The Gaussian process, fitted to rows.

    Args:
        x: float64[N, d] in [0, 1].
        t: float64[N], numbers of intervals.
        y: float64[N].
    """

    def __init__(self, x: Array, t: Array, y: Array) -> None:
        self._x, self._t = x, t
        scale = float(y.std())
        self._y = (y - y.mean()) / (scale if scale > 0 else 1.0)
        apart = _distances(x, t, x, t)
        grid = product(LENGTHS, EPSILONS, NOISES)
        self.length, self.epsilon, self.noise = max(
            grid, key=lambda point: self._log_likelihood(apart, *point)
        )
        self._weights = np.linalg.solve(
            self._kernel(apart) + self.noise * np.eye(len(self._y)), self._y
        )

    def _log_likelihood(
        self, apart: tuple[Array, Array], length: float, epsilon: float, noise: float
    ) -> float:
        kernel = _kernel(apart, length, epsilon)
        factor = np.linalg.cholesky(kernel + noise * np.eye(len(kernel)))
        half = np.linalg.solve(factor, self._y)
        return float(-0.5 * half @ half - np.log(np.diag(factor)).sum())

    def _kernel(self, apart: tuple[Array, Array]) -> Array:
        return _kernel(apart, self.length, self.epsilon)

    def mean(self, x: Array, t: Array) -> Array:
        """Return mu, float64[M], at points."""
        mu: Array = self._kernel(_distances(x, t, self._x, self._t)) @ self._weights
        return mu

    def deviation(self, x: Array, t: Array, busy_x: Array, busy_t: Array) -> Array:
        """Return sigma, float64[M], at points, as if results were there for busy ones too."""
        known_x, known_t = np.concatenate([self._x, busy_x]), np.concatenate([self._t, busy_t])
        kernel = self._kernel(_distances(known_x, known_t, known_x, known_t))
        factor = np.linalg.cholesky(kernel + self.noise * np.eye(len(kernel)))
        across = self._kernel(_distances(known_x, known_t, x, t))
        explained = (np.linalg.solve(factor, across) ** 2).sum(0)
        sigma: Array = np.sqrt(np.maximum(1 - explained, 0))
        return sigma


def _distances(x: Array, t: Array, x2: Array, t2: Array) -> tuple[Array, Array]:
    """Return |x - x'|^2 and |t - t'|, float64[N, M] each, of rows (x, t) and (x2, t2)."""
    square = np.zeros((len(x), len(x2)))
    for column, column2 in zip(x.T, x2.T, strict=True):
        square += np.subtract.outer(column, column2) ** 2
    return square, np.abs(np.subtract.outer(t, t2))


def _kernel(apart: tuple[Array, Array], length: float, epsilon: float) -> Array:
    square, time = apart
    kernel: Array = np.exp(-square / (2 * length**2) + time * (0.5 * math.log(1 - epsilon)))
    return kernel


class _Bounds:
    """An interval, as a domain of `hyperparam_mutations`."""

    def __init__(self, name: str, bounds: Any) -> None:
        try:
            lower, upper = bounds
            is_interval = math.isfinite(upper - lower) and lower < upper
        except (TypeError, ValueError):
            is_interval = False
        if not is_interval:
            raise OptionError(f"hyperparam_bounds of PB2 are [lower, upper], {name!r}: {bounds!r}")
        self.lower: float = lower
        self.upper: float = upper
        self._is_integer = isinstance(lower, int) and isinstance(upper, int)

    def value_at(self, share: float) -> float:
        """Return the value at a share of the way from the lower bound to the upper."""
        value = self.lower + share * (self.upper - self.lower)
        return round(value) if self._is_integer else value

    def share_of(self, value: float) -> float:
        """Return how far a value is from the lower bound to the upper, in [0, 1]."""
        return min(max((value - self.lower) / (self.upper - self.lower), 0.0), 1.0)

    def sample(self, *, random_state: random.Random) -> float:
        """Draw a value."""
        return self.value_at(random_state.random())


class PB2(PopulationBasedTraining):
    """Population based training for few trials: what to try next is chosen, not drawn.

    Args:
        time_attr: The metric that counts time; it only grows.
        metric: What is compared. None: as TuneConfig says.
        mode: "min" or "max". None: as TuneConfig says.
        perturbation_interval: How much time passes before a trial copies, or is copied, again.
        hyperparam_bounds: What may change: `[lower, upper]` by key; two integers: an integer.
        quantile_fraction: The share of the population that copies, and that is copied, in [0, 0.5].
        log_config: Whether policies are written for a replay; configurations must be JSON then.
        require_attrs: Whether a result without the time or the metric is an error, or passed over.
        synch: Whether the population waits for its slowest before each decision.
        custom_explore_fn: Is given the chosen configuration, and returns the one to take.
        seed: Of what is drawn. None: as TuneConfig says.

    Raises:
        OptionError: As PopulationBasedTraining.
        ImportError: numpy is not installed.
    """

    def __init__(
        self,
        time_attr: str = "time_total_s",
        metric: str | None = None,
        mode: str | None = None,
        perturbation_interval: float = 60.0,
        hyperparam_bounds: Mapping[str, Sequence[float]] | None = None,
        quantile_fraction: float = 0.25,
        log_config: bool = True,
        require_attrs: bool = True,
        synch: bool = False,
        custom_explore_fn: Explore | None = None,
        *,
        seed: int | None = None,
    ) -> None:
        if not hyperparam_bounds:
            raise OptionError("PB2 needs hyperparam_bounds: what may change, and between what")
        try:
            np.float64  # noqa: B018 - it is loaded here, and not hours later
        except ImportError as error:
            raise ImportError("PB2 needs numpy: pip install weft-tune[pb2]") from error
        self._bounds = {key: _Bounds(key, value) for key, value in hyperparam_bounds.items()}
        super().__init__(
            time_attr,
            metric,
            mode,
            perturbation_interval,
            hyperparam_mutations=self._bounds,
            quantile_fraction=quantile_fraction,
            custom_explore_fn=custom_explore_fn,
            log_config=log_config,
            require_attrs=require_attrs,
            synch=synch,
            seed=seed,
        )
        self._rows: list[tuple[list[float], float, float]] = []
        """(x, t, y) of each interval that a trial has trained."""
        self._x_by_trial: dict[str, list[float]] = {}
        """What the trials train with, as far as is known: from when they are ready first."""

    @override
    def _forget(self, trial_id: str) -> Sequence[Order]:
        self._x_by_trial.pop(trial_id, None)
        return super()._forget(trial_id)

    @override
    def _note_readiness(self, trial: TrialView, member: Member, time: float, score: float) -> None:
        x = self._x_by_trial[trial.trial_id] = self._x_of(trial.config)
        if member.score is not None and math.isfinite(score - member.score):
            change = (score - member.score) / (time - member.ready_at)
            self._rows.append((x, time / self._interval, change))
            del self._rows[:-MAX_ROWS]
        super()._note_readiness(trial, member, time, score)

    @override
    def _explore(
        self, view: ExperimentView, trial_id: str, config: Config, rng: random.Random
    ) -> dict[str, Any]:
        if len(self._rows) < 2:
            chosen = [rng.random() for _ in self._bounds]
        else:
            busy = [x for other, x in self._x_by_trial.items() if other != trial_id]
            chosen = self._choose(self._member_of[trial_id].ready_at, busy, rng)
        bounds = zip(self._bounds.items(), chosen, strict=True)
        new = {key: bound.value_at(share) for (key, bound), share in bounds}
        made = self._customised({**config, **new})
        self._x_by_trial[trial_id] = self._x_of(made)
        return made

    def _choose(self, time: float, busy: list[list[float]], rng: random.Random) -> list[float]:
        """Return the x with the highest upper confidence bound in the interval that begins."""
        x, t, y = (np.array(column, dtype=np.float64) for column in zip(*self._rows, strict=True))
        process = TimeVaryingProcess(x, t, y)
        d = len(self._bounds)
        draws = np.random.default_rng(rng.getrandbits(64))
        best = x[np.argsort(y)[-8:]]
        near = best[draws.integers(len(best), size=CANDIDATES)]
        near = np.clip(near + 0.1 * draws.normal(size=(CANDIDATES, d)), 0, 1)
        candidates = np.concatenate([draws.random((CANDIDATES, d)), near])
        now = time / self._interval + 1
        at = np.full(len(candidates), now)
        busy_x = np.array(busy, dtype=np.float64).reshape(-1, d)
        sigma = process.deviation(candidates, at, busy_x, np.full(len(busy_x), now))
        beta = BETA_0 + BETA_1 * math.log(max(now, 1.0))
        bound = process.mean(candidates, at) + math.sqrt(beta) * sigma
        chosen: list[float] = candidates[int(bound.argmax())].tolist()
        return chosen

    def _x_of(self, config: Config) -> list[float]:
        return [bound.share_of(config[key]) for key, bound in self._bounds.items()]
