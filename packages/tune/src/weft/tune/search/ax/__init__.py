"""Search with Ax: `pip install 'weft-tune[ax]'`."""

from weft.tune.search.ax.ax_search import AxSearch

__all__ = ["AxSearch"]
