"""HyperBand as BOHB runs it.

Falkner, Klein and Hutter, "BOHB: Robust and Efficient Hyperparameter Optimization at Scale", ICML
2018. Its halves are a searcher, which fits its model to the results at each budget (`TuneBOHB`),
and HyperBand's brackets. Section 4.2 says how these run in parallel: the brackets from the one with
the most trials on; a worker that is free takes a trial of the bracket that is being filled, and
when that has its trials, one of the next.

What is always true: as in `hyperband`, which fills brackets in this order, begins the next where
there is room, and goes on with an unfilled bracket where the searcher has nothing to suggest before
it learns more.
"""

from __future__ import annotations

from weft.tune.schedulers.hyperband import HyperBandScheduler


class HyperBandForBOHB(HyperBandScheduler):
    """HyperBandScheduler under the name that it has beside the searcher `TuneBOHB`."""
