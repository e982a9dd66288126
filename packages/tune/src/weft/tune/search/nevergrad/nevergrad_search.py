"""Search without gradients: the optimizers of nevergrad.

Every number is a scalar in [0, 1], the share of its domain's draws; a category is a choice.

Source: Rapin and Teytaud, "Nevergrad - A gradient-free optimization platform", 2018.
"""

from __future__ import annotations

import warnings
from typing import TYPE_CHECKING, Any

from weft.lowlevel import lazy, override
from weft.tune.search.box_searcher import BoxSearcher, coordinate_of, flat_domains, value_of
from weft.tune.search.extras import required
from weft.tune.search.sample import Categorical

if TYPE_CHECKING:
    import random
    from collections.abc import Callable, Mapping, Sequence

    import nevergrad

    from weft.tune.search.box_searcher import Suggestion, Values
    from weft.tune.search.searcher import Config
else:
    nevergrad = lazy("nevergrad")


class NevergradSearch(BoxSearcher):
    """Search with an optimizer of nevergrad.

    Args:
        optimizer: Its class, or a function that makes one for a parametrization; None: NGOpt, which
            chooses by the space and the budget.
        optimizer_kwargs: What it takes besides: `budget`, `num_workers`.
        space: The space, unless the Tuner has it.
        metric: What to look at in results.
        mode: "min" or "max".
        points_to_evaluate: Configurations, or parts of them, that are tried first.
        seed: None: the experiment's, else a random one.

    Raises:
        ImportError: nevergrad is not installed.
    """

    def __init__(
        self,
        optimizer: Callable[..., Any] | None = None,
        optimizer_kwargs: Mapping[str, Any] | None = None,
        space: Config | None = None,
        metric: str | None = None,
        mode: str | None = None,
        points_to_evaluate: Sequence[Mapping[str, Any]] | None = None,
        *,
        seed: int | None = None,
    ) -> None:
        required("nevergrad", extra="nevergrad")
        super().__init__(space, metric, mode, points_to_evaluate, seed=seed)
        self._make = optimizer
        self._options = {"budget": 1000, **(optimizer_kwargs or {})}
        self._worst: float | None = None

    @staticmethod
    def convert_search_space(spec: Config) -> nevergrad.p.Dict:
        """Return nevergrad's parametrization of a space."""
        return nevergrad.p.Dict(
            **{
                name: nevergrad.p.Choice(range(len(domain.categories)))
                if isinstance(domain, Categorical)
                else nevergrad.p.Scalar(lower=0, upper=1)
                for name, domain in flat_domains(spec, owner="NevergradSearch").items()
            }
        )

    @override
    def _start(self) -> None:
        parametrization = self.convert_search_space(self._space)
        parametrization.random_state.seed(self._generator().getrandbits(32))
        make = self._make or nevergrad.optimizers.NGOpt
        self._optimizer = make(parametrization=parametrization, **self._options)

    @override
    def _suggest(self, fixed: Values, rng: random.Random) -> Suggestion:
        with _quiet():
            candidate = self._optimizer.ask()
        if fixed:
            coordinates = {**candidate.value}
            for name, value in fixed.items():
                coordinates[name] = coordinate_of(self.domains[name], value)
            candidate = self._optimizer.parametrization.spawn_child(new_value=coordinates)
        values = {
            name: value_of(domain, candidate.value[name]) for name, domain in self.domains.items()
        }
        return {**values, **fixed}, candidate

    @override
    def _observe(self, handle: Any, values: Values, loss: float | None) -> None:
        # An optimizer may wait for each of its candidates: one that failed is as bad as any.
        loss = self._worst if loss is None else loss
        if loss is None:
            return
        self._worst = loss if self._worst is None else max(self._worst, loss)
        with _quiet():
            self._optimizer.tell(handle, loss)


def _quiet() -> warnings.catch_warnings[None]:
    """Leave out what nevergrad has to say about its own algorithms."""
    return warnings.catch_warnings(action="ignore")
