"""A searcher of somebody else's: Halton's sequence, which fills a space evenly.

It imports public names alone, and is found by the entry point in the folder beside it. Source:
J. H. Halton, "Algorithm 247: Radical-inverse quasi-random point sequence", CACM 7(12), 1964.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from weft.lowlevel import override
from weft.tune.search import Searcher
from weft.tune.search.variant_generator import resolve

if TYPE_CHECKING:
    from weft.tune.search.sample import Domain

PRIMES = [2, 3, 5, 7, 11, 13, 17, 19, 23, 29, 31, 37]


def radical_inverse(number: int, base: int) -> float:
    """Return the digits of a number behind the point, the last one first."""
    inverse, scale = 0.0, 1.0
    while number:
        number, digit = divmod(number, base)
        scale /= base
        inverse += digit * scale
    return inverse


class HaltonSearch(Searcher):
    """The n-th trial is at the n-th point of Halton's sequence."""

    def __init__(self, *, skip: int = 0) -> None:
        super().__init__()
        self._number = skip
        self._space: dict[str, Any] = {}

    @override
    def set_search_properties(
        self,
        metric: str | list[str] | None,
        mode: str | list[str] | None,
        config: dict[str, Any],
        **spec: Any,
    ) -> bool:
        self.metric, self.mode, self._space = metric, mode, config
        self._at(0)  # What it cannot search, such as a grid, is said here.
        return True

    @override
    def suggest(self, trial_id: str) -> dict[str, Any]:
        self._number += 1
        return self._at(self._number)

    @override
    def recall(self, trial_id: str, config: dict[str, Any]) -> None:
        self._number += 1

    def _at(self, number: int) -> dict[str, Any]:
        primes = iter(PRIMES)

        def draw(path: object, domain: Domain, given: object) -> Any:
            if domain.is_function():
                return domain.sample(given)
            return domain.value_at(radical_inverse(number, next(primes)))

        config: dict[str, Any] = resolve(self._space, draw)
        return config
