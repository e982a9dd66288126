"""Searchers by their names: those that installed distributions offer as `weft.tune.searchers`."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from weft.exceptions import OptionError
from weft.lowlevel import lazy
from weft.tune.search.searcher import Searcher

if TYPE_CHECKING:
    from importlib import metadata
else:
    metadata = lazy("importlib.metadata")

GROUP = "weft.tune.searchers"


def create_searcher(search_alg: str | Searcher, **kwargs: Any) -> Searcher:
    """Return a new searcher.

    Args:
        search_alg: Its name: "random", "optuna" or any that an installed distribution offers; a
            searcher is returned as it is.
        kwargs: What its class takes.

    Raises:
        OptionError: No searcher has this name; the message says which there are.
        ImportError: It needs a package that is not installed.
    """
    if isinstance(search_alg, Searcher):
        return search_alg
    offered = {point.name: point for point in metadata.entry_points(group=GROUP)}
    if search_alg not in offered:
        names = ", ".join(sorted(offered)) or "none, for weft-tune itself is not installed"
        raise OptionError(f"there is no searcher {search_alg!r}; there are: {names}")
    searcher: Searcher = offered[search_alg].load()(**kwargs)
    return searcher
