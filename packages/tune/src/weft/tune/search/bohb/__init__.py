"""Search with BOHB's model: `pip install 'weft-tune[bohb]'`."""

from weft.tune.search.bohb.bohb_search import TuneBOHB

__all__ = ["TuneBOHB"]
