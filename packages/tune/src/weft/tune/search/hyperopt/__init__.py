"""Search with hyperopt: `pip install 'weft-tune[hyperopt]'`."""

from weft.tune.search.hyperopt.hyperopt_search import HyperOptSearch

__all__ = ["HyperOptSearch"]
