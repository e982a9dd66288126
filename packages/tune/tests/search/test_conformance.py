"""Every searcher of the package passes the suite for searchers."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from weft.lowlevel import override
from weft.tune.search import BasicVariantGenerator, ConcurrencyLimiter, Repeater
from weft.tune.search.optuna import OptunaSearch
from weft.tune.testing.searcher_suite import SearcherSuite

if TYPE_CHECKING:
    from weft.tune.search import Searcher


class TestBasicVariantGenerator(SearcherSuite):
    has_grids = True
    learns = False
    most_ms = 5.0

    @override
    def make(self, **arguments: Any) -> Searcher:
        return BasicVariantGenerator(random_state=1, **arguments)


class TestOptunaSearch(SearcherSuite):
    @override
    def make(self, **arguments: Any) -> Searcher:
        return OptunaSearch(seed=1, **arguments)


class TestLimitedOptuna(SearcherSuite):
    @override
    def make(self, **arguments: Any) -> Searcher:
        return ConcurrencyLimiter(OptunaSearch(seed=1, **arguments), max_concurrent=3)


class TestBatchesOfOptuna(SearcherSuite):
    @override
    def make(self, **arguments: Any) -> Searcher:
        return ConcurrencyLimiter(OptunaSearch(seed=1, **arguments), max_concurrent=3, batch=True)


class TestRepeatedOnce(SearcherSuite):
    @override
    def make(self, **arguments: Any) -> Searcher:
        return Repeater(OptunaSearch(seed=1, **arguments), repeat=1, set_index=False)
