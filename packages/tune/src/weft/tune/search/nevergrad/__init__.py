"""Search with nevergrad: `pip install 'weft-tune[nevergrad]'`."""

from weft.tune.search.nevergrad.nevergrad_search import NevergradSearch

__all__ = ["NevergradSearch"]
