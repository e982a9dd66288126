"""How good what is found is, Weft beside Ray, from the same seeds.

Weft is called no worse where a one-sided Wilcoxon signed-rank test over the seeds' pairs does not
find it worse at the 95 % level: where losses as much larger as Weft's come with a probability of
5 % or more if neither is worse. It says that no difference was found, not that there is none.

Source: Wilcoxon, "Individual Comparisons by Ranking Methods", Biometrics Bulletin 1 (1945).
"""

from __future__ import annotations

import ast
import sys
from bisect import bisect_left, bisect_right
from collections import Counter
from statistics import median
from typing import TYPE_CHECKING, Any

from _rounds import Program, answer_of

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence

    from _rows import Comparison

LEVEL = 0.05
HEAD = ("best loss, the seeds' median", "random search", "Ray", "Weft", "p", "no worse")


def compare(comparison: Comparison, systems: Iterable[str]) -> dict[str, Any]:
    """Run one comparison; return its part of the results."""
    losses: dict[str, list[float]] = {}
    failures = []
    for system in ("random", *systems):
        found, how = answer_of(Program(comparison.module, comparison.key, system), 0)
        if found is None:
            failures.append(f"{system}: {how}")
        else:
            losses[system] = ast.literal_eval(found)
        print(
            f"compared {system:6} {comparison.key:28} {found or how}", file=sys.stderr, flush=True
        )
    p = None
    if {"weft", "ray"} <= losses.keys():
        p = probability(losses["weft"], losses["ray"])
    return {
        "key": comparison.key,
        "what": comparison.what,
        "losses": losses,
        "p": p,
        "no_worse": None if p is None else p >= LEVEL,
        "failures": failures,
    }


def probability(ours: Sequence[float], theirs: Sequence[float]) -> float:
    """Return how probable it is that ours are so much larger, or more, if neither are larger.

    Exact, with every pair's sign taken for a fair coin; pairs of equals are left out.
    """
    differences = [a - b for a, b in zip(ours, theirs, strict=True) if a != b]
    sizes = sorted(map(abs, differences))
    # Twice the ranks: those of equal size share theirs, which may be halves.
    ranks = [
        bisect_left(sizes, abs(found)) + 1 + bisect_right(sizes, abs(found))
        for found in differences
    ]
    observed = sum(rank for rank, found in zip(ranks, differences, strict=True) if found > 0)
    ways = Counter({0: 1})
    for rank in ranks:
        more = {total + rank: number for total, number in ways.items()}
        ways.update(more)
    return sum(number for total, number in ways.items() if total >= observed) / 2 ** len(ranks)


def cells(comparison: Mapping[str, Any]) -> tuple[str, ...]:
    """Return the words of one line of the table, as HEAD names them."""
    losses, p = comparison["losses"], comparison["p"]
    medians = (
        f"{median(losses[system]):.4g}" if system in losses else "-"
        for system in ("random", "ray", "weft")
    )
    verdict = {None: "-", True: "yes", False: "no"}[comparison["no_worse"]]
    return comparison["what"], *medians, "-" if p is None else f"{p:.2f}", verdict


def markdown(comparisons: Sequence[Mapping[str, Any]]) -> str:
    """Return the table as Markdown."""
    lines = [HEAD, ("---", *["---:"] * (len(HEAD) - 1)), *map(cells, comparisons)]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def text(comparisons: Sequence[Mapping[str, Any]]) -> str:
    """Return the table for a terminal."""
    lines = [HEAD, *map(cells, comparisons)]
    widths = [max(len(line[column]) for line in lines) for column in range(len(HEAD))]
    return "\n".join(
        "  ".join(cell.ljust(width) for cell, width in zip(line, widths, strict=True)).rstrip()
        for line in lines
    )
