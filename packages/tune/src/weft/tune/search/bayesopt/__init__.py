"""Search with bayesian-optimization: `pip install 'weft-tune[bayesopt]'`."""

from weft.tune.search.bayesopt.bayesopt_search import BayesOptSearch

__all__ = ["BayesOptSearch"]
