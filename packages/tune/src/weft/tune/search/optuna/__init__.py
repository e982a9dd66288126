"""Search with optuna: `pip install 'weft-tune[optuna]'`."""

from weft.tune.search.optuna.distributions import from_distribution, to_distribution
from weft.tune.search.optuna.optuna_search import OptunaSearch

__all__ = ["OptunaSearch", "from_distribution", "to_distribution"]
