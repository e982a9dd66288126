"""What suggests configurations: search spaces, searchers, and what goes round them."""

from weft.tune.search.basic_variant import BasicVariantGenerator
from weft.tune.search.concurrency_limiter import ConcurrencyLimiter
from weft.tune.search.creation import create_searcher
from weft.tune.search.repeater import Repeater
from weft.tune.search.searcher import Searcher, TellingSearcher
from weft.tune.search.variant_generator import grid_search

__all__ = [
    "BasicVariantGenerator",
    "ConcurrencyLimiter",
    "Repeater",
    "Searcher",
    "TellingSearcher",
    "create_searcher",
    "grid_search",
]
