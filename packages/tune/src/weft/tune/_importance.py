"""How much each parameter decides about the objective, by the trials that there are.

A parameter's values are put into bins, each category or stretch of numbers one. Its importance is
the share of the variance of the objective that lies between the bins: omega squared of a one-way
analysis of variance, which takes off what chance alone would give. The objective counts by its
rank, so that a few trials that went astray do not decide.

What this does not see: what two parameters do only together. And a searcher that has settled on
good values of a parameter leaves little to see of it.

Source: Hays, "Statistics for Psychologists", 1963 (omega squared); on ranks: Conover and Iman,
"Rank Transformations as a Bridge Between Parametric and Nonparametric Statistics", The American
Statistician 35, 1981.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Hashable, Mapping, Sequence

MOST_BINS = 8
BIN_SIZE = 4
"""A stretch of numbers holds at least so many trials."""


def is_numeric(values: Sequence[Any]) -> bool:
    """Tell whether all values are finite numbers."""
    return all(
        isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)
        for value in values
    )


def importances(
    configs: Sequence[Mapping[str, Any]], objective: Sequence[float]
) -> dict[str, float]:
    """Return the importance of each parameter that varies, the greatest first.

    Args:
        configs: Of the trials, flat; a parameter may be missing in some.
        objective: Of the same trials: finite numbers, the better the smaller or the larger.

    Returns:
        Shares in [0, 1], 0 where there is no more than chance. They need not add up to 1.
    """
    ranks = _ranks(objective)
    found = {}
    for name in dict.fromkeys(name for config in configs for name in config):
        bins = _bins([config.get(name) for config in configs])
        if len(set(bins)) > 1:
            found[name] = _omega_squared(bins, ranks)
    return dict(sorted(found.items(), key=lambda item: -item[1]))


def _ranks(values: Sequence[float]) -> list[float]:
    """Return the ranks from 0 up; equal values have the same, the mean of theirs."""
    order = sorted(range(len(values)), key=values.__getitem__)
    ranks = [0.0] * len(values)
    begin = 0
    while begin < len(order):
        end = begin
        while end < len(order) and values[order[end]] == values[order[begin]]:
            end += 1
        for index in order[begin:end]:
            ranks[index] = (begin + end - 1) / 2
        begin = end
    return ranks


def _bins(values: Sequence[Any]) -> list[Hashable]:
    """Return the bin of each value: a stretch of as many trials as others, or the value."""
    if not is_numeric(values) or len(set(values)) <= MOST_BINS:
        return [repr(value) for value in values]
    number = max(2, min(MOST_BINS, len(values) // BIN_SIZE))
    ranks = _ranks(values)
    return [int(rank * number / len(values)) for rank in ranks]


def _omega_squared(bins: Sequence[Hashable], values: Sequence[float]) -> float:
    number = len(values)
    mean = math.fsum(values) / number
    total = math.fsum((value - mean) ** 2 for value in values)
    members: dict[Hashable, list[float]] = {}
    for bin_, value in zip(bins, values, strict=True):
        members.setdefault(bin_, []).append(value)
    inside = number - len(members)
    if not total or not inside:
        return 0.0
    between = math.fsum(
        len(group) * (math.fsum(group) / len(group) - mean) ** 2 for group in members.values()
    )
    noise = (total - between) / inside
    share = (between - (len(members) - 1) * noise) / (total + noise)
    return min(1.0, max(0.0, share))
