"""Pictures of an experiment, with matplotlib: loaded when one is asked for."""

from __future__ import annotations

import io
import math
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from matplotlib.collections import LineCollection
from matplotlib.figure import Figure

from weft.tune._importance import importances, is_numeric
from weft.tune.error import TuneError

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from matplotlib.axes import Axes

MOST_PARAMETERS = 10
"""So many have room beside each other."""
MOST_CATEGORIES = 12
LOG_RATIO = 10
"""Positive numbers whose quartiles are farther apart are shown by their logarithms."""
BAND = 0.06
"""Lines that go through one category are drawn beside each other, so far at most."""
DOTS = "#7a93ac"
BEST = "#c8502d"
COLORS = "viridis_r"


@dataclass(frozen=True)
class Tried:
    """The trials that have a finite value of the objective, the oldest first."""

    metric: str
    mode: str
    numbers: Sequence[int]
    """Of the trials, from 0 up."""
    configs: Sequence[dict[str, Any]]
    """Flat."""
    values: Sequence[float]
    left_out: int
    """How many trials have no such value."""

    def best(self) -> int:
        """Return the index of the best trial."""
        pick = min if self.mode == "min" else max
        return self.values.index(pick(self.values))


class Picture(Figure):
    """A figure that a notebook shows by itself."""

    def _repr_png_(self) -> bytes:
        content = io.BytesIO()
        self.savefig(content, format="png")
        return content.getvalue()


def picture(tried: Tried, kind: str | None) -> Picture:
    """Draw one kind of plot, or all of them.

    Raises:
        TuneError: There is no such kind, or nothing to draw.
    """
    if kind is not None and kind not in PLOTS:
        raise TuneError(f"{kind=}: give one of {', '.join(PLOTS)}, or None for all")
    if not tried.values:
        raise TuneError(
            f"no trial has a finite value of {tried.metric!r}: there is nothing to draw"
        )
    if kind is not None:
        figure = Picture(figsize=(10 if kind == "parallel" else 7, 4.5), layout="constrained")
        PLOTS[kind](figure.subplots(), tried)
        return figure
    figure = Picture(figsize=(12, 9), layout="constrained")
    axes = figure.subplot_mosaic([["history", "importance"], ["parallel", "parallel"]])
    for name, draw in PLOTS.items():
        draw(axes[name], tried)
    return figure


def _history(axes: Axes, tried: Tried) -> None:
    """Every trial's value, and the best so far."""
    pick = min if tried.mode == "min" else max
    so_far: list[float] = []
    for value in tried.values:
        so_far.append(pick(value, so_far[-1]) if so_far else value)
    axes.scatter(tried.numbers, tried.values, s=16, color=DOTS, linewidths=0, label="trials")
    axes.step(tried.numbers, so_far, where="post", color=BEST, label="best so far")
    best = tried.best()
    axes.scatter([tried.numbers[best]], [tried.values[best]], s=40, color=BEST, zorder=3)
    if _is_wide(tried.values):
        axes.set_yscale("log")
    left = f", {tried.left_out} without a value" if tried.left_out else ""
    axes.set_title(f"{len(tried.values)} trials{left}; best {_text(tried.values[best])}")
    axes.set_xlabel("trial")
    axes.set_ylabel(f"{tried.metric} ({tried.mode})")
    axes.legend(edgecolor="none", framealpha=0.8)
    _bare(axes)


def _importance(axes: Axes, tried: Tried) -> None:
    """The importance of each parameter."""
    found = list(importances(tried.configs, tried.values).items())[:MOST_PARAMETERS]
    axes.set_title("importance of parameters")
    if not found:
        _say_nothing(axes, "no parameter varies")
        return
    names = [name for name, _ in reversed(found)]
    shares = [share for _, share in reversed(found)]
    bars = axes.barh(names, shares, color=DOTS, height=0.6)
    axes.bar_label(bars, [f"{share:.2f}" for share in shares], padding=4)
    axes.set_xlim(0, 1)
    axes.set_xlabel(f"share of the variance of {tried.metric} (by rank)")
    _bare(axes)


def _parallel(axes: Axes, tried: Tried) -> None:
    """A line for each trial, through its parameters to the objective."""
    names = list(importances(tried.configs, tried.values))[:MOST_PARAMETERS]
    # The best are drawn last, over the others, and darkest.
    order = sorted(
        range(len(tried.values)), key=tried.values.__getitem__, reverse=tried.mode == "min"
    )
    scales = [_Scale(name, [tried.configs[i].get(name) for i in order]) for name in names]
    scales.append(_Scale(tried.metric, [tried.values[index] for index in order]))
    paths = list(zip(*(scale.heights() for scale in scales), strict=True))
    lines = LineCollection(
        [list(enumerate(path)) for path in paths],
        cmap=COLORS,
        linewidths=1.2,
        alpha=max(0.15, min(0.8, 40 / len(paths))),
    )
    lines.set_array(list(range(len(paths))))
    axes.add_collection(lines)
    axes.plot(range(len(scales)), paths[-1], color=BEST, linewidth=2.2, label="best")
    for x, scale in enumerate(scales):
        axes.axvline(x, color="#444444", linewidth=0.8)
        for height, text in scale.ticks():
            axes.annotate(
                text, (x, height), xytext=(4, 0), textcoords="offset points", fontsize=8,
                va="center", bbox={"facecolor": "white", "alpha": 0.75, "linewidth": 0, "pad": 1},
            )  # fmt: skip
    titles = [f"{scale.name}\n(log)" if scale.is_log else scale.name for scale in scales]
    axes.set_xticks(range(len(scales)), titles)
    axes.set_yticks([])
    axes.set_xlim(-0.1, len(scales) - 0.6)
    axes.set_ylim(-0.05, 1.05)
    axes.set_title(f"parameters and {tried.metric}: the darker the better")
    axes.legend(frameon=False, loc="upper left", bbox_to_anchor=(0, -0.1))
    for spine in axes.spines.values():
        spine.set_visible(False)


PLOTS: dict[str, Callable[[Axes, Tried], None]] = {
    "history": _history,
    "importance": _importance,
    "parallel": _parallel,
}


class _Scale:
    """One upright axis of parallel coordinates: values and their heights, from 0 to 1."""

    def __init__(self, name: str, values: Sequence[Any]) -> None:
        self.name = name
        self._values = values
        self._is_numeric = is_numeric(values)
        self.is_log = self._is_numeric and _is_wide(values)
        self._categories: list[str] = []
        if self._is_numeric:
            self._low, self._high = self._measure(min(values)), self._measure(max(values))
        else:
            self._categories = sorted({_text(value) for value in values})

    def _measure(self, value: float) -> float:
        return math.log(value) if self.is_log else value

    def _number_height(self, value: float) -> float:
        if self._high == self._low:
            return 0.5
        return (self._measure(value) - self._low) / (self._high - self._low)

    def _category_height(self, index: int) -> float:
        return index / (len(self._categories) - 1) if len(self._categories) > 1 else 0.5

    def heights(self) -> list[float]:
        """Return the height of each value."""
        if self._is_numeric:
            return [self._number_height(value) for value in self._values]
        height_of = {text: self._category_height(i) for i, text in enumerate(self._categories)}
        beside = BAND / len(self._values)
        return [
            height_of[_text(value)] + beside * index - BAND / 2
            for index, value in enumerate(self._values)
        ]

    def ticks(self) -> list[tuple[float, str]]:
        """Return heights, and what stands beside them."""
        if not self._is_numeric:
            step = -(-len(self._categories) // MOST_CATEGORIES)
            return [
                (self._category_height(index), text)
                for index, text in enumerate(self._categories)
                if index % step == 0
            ]
        if len(set(self._values)) <= 5:
            return [
                (self._number_height(value), _text(value)) for value in sorted(set(self._values))
            ]
        found = []
        for quarter in range(5):
            measure = self._low + (self._high - self._low) * quarter / 4
            found.append((quarter / 4, _text(math.exp(measure) if self.is_log else measure)))
        return found


def _is_wide(values: Sequence[float]) -> bool:
    ordered = sorted(values)
    if ordered[0] <= 0:
        return False
    return ordered[3 * (len(ordered) - 1) // 4] / ordered[(len(ordered) - 1) // 4] >= LOG_RATIO


def _text(value: Any) -> str:
    text = f"{value:.3g}" if isinstance(value, float) else str(value)
    return text if len(text) <= 16 else f"{text[:15]}…"


def _bare(axes: Axes) -> None:
    axes.spines[["top", "right"]].set_visible(False)


def _say_nothing(axes: Axes, why: str) -> None:
    axes.text(0.5, 0.5, why, ha="center", va="center", transform=axes.transAxes)
    axes.set_axis_off()
