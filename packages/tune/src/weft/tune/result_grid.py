"""What all trials of an experiment have come to."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any

from weft.lowlevel import lazy, override
from weft.tune._result import Result
from weft.tune._values import flattened
from weft.tune.search.extras import required

if TYPE_CHECKING:
    from collections.abc import Iterator

    import pandas as pd
    from matplotlib.figure import Figure

    from weft.tune import _plots
    from weft.tune._archive import Archive
else:
    _plots = lazy("weft.tune._plots")
    pd = lazy("pandas")


class ResultGrid:
    """The results of all trials, in the order of their creation; `Tuner.fit` returns it."""

    def __init__(self, archive: Archive) -> None:
        self._archive = archive

    def __len__(self) -> int:
        return len(self._archive.runs)

    def __getitem__(self, i: int) -> Result:
        return Result._of(self._archive, self._archive.runs[i])

    def __iter__(self) -> Iterator[Result]:
        return (self[index] for index in range(len(self)))

    @property
    def experiment_path(self) -> str:
        """The experiment's directory in the storage."""
        return self._archive.storage.path

    @property
    def filesystem(self) -> Any:
        """The `pyarrow.fs.FileSystem` in which `experiment_path` is."""
        return self._archive.storage.filesystem

    @property
    def errors(self) -> list[BaseException]:
        """The errors of trials that failed for good."""
        found = (self._archive.error(run) for run in self._archive.runs)
        return [error for error in found if error is not None]

    @property
    def num_errors(self) -> int:
        """How many trials failed for good."""
        return self._count("ERROR")

    @property
    def num_terminated(self) -> int:
        """How many trials came to their end, or were stopped."""
        return self._count("TERMINATED")

    def _count(self, status: str) -> int:
        return sum(run.status == status for run in self._archive.runs)

    def get_best_result(
        self,
        metric: str | None = None,
        mode: str | None = None,
        scope: str = "last",
        filter_nan_and_inf: bool = True,
    ) -> Result:
        """Return the result of the best trial; of equal ones the oldest.

        Args:
            metric: What to look at; None: as in the TuneConfig.
            mode: "min" or "max"; None: likewise.
            scope: Which of a trial's values counts: "last", "all" (its best), "avg", "last-5-avg"
                or "last-10-avg".
            filter_nan_and_inf: Whether trials whose value is not finite are left out.

        Raises:
            TuneError: It was not said what is best, or no trial has such a value: the first errors
                of trials that failed are told.
        """
        wanted, order = self._archive.objective(metric, mode)
        run = self._archive.must_have_best(wanted, order, scope, finite_only=filter_nan_and_inf)
        return Result._of(self._archive, run)

    def get_dataframe(
        self, filter_metric: str | None = None, filter_mode: str | None = None
    ) -> pd.DataFrame:
        """Return a pandas DataFrame with a row for each trial: its last result and configuration.

        Args:
            filter_metric: Take each trial's result with the best value of this metric instead.
            filter_mode: "min" or "max"; None: as in the TuneConfig.
        """
        archive = self._archive
        return pd.DataFrame([archive.row(run, filter_metric, filter_mode) for run in archive.runs])

    def plot(
        self, kind: str | None = None, *, metric: str | None = None, mode: str | None = None
    ) -> Figure:
        """Draw what the trials came to, with matplotlib.

        A notebook shows what is returned; `plot().savefig("trials.png")` keeps it.

        Args:
            kind: "history": each trial's value, and the best so far. "parallel": a line for each
                trial through its parameters to the objective. "importance": how much each
                parameter decides, which is the share of the variance of the objective's ranks
                that lies between bins of its values (omega squared; what two parameters do only
                together is not seen). None: all of them.
            metric: What to look at; None: as in the TuneConfig.
            mode: "min" or "max"; None: likewise.

        Returns:
            A `matplotlib.figure.Figure`.

        Raises:
            ImportError: matplotlib is not installed.
            TuneError: There is no such kind, it was not said what is best, or no trial has a
                finite value of it.
        """
        required("matplotlib.figure", extra="plot")
        archive = self._archive
        wanted, order = archive.objective(metric, mode)
        scores = [archive.score(run, wanted, order, "last") for run in archive.runs]
        found = [
            (number, value)
            for number, value in enumerate(scores)
            if value is not None and math.isfinite(value)
        ]
        tried = _plots.Tried(
            metric=wanted,
            mode=order,
            numbers=[number for number, _ in found],
            configs=[flattened(archive.config(archive.runs[number])) for number, _ in found],
            values=[value for _, value in found],
            left_out=len(scores) - len(found),
        )
        return _plots.picture(tried, kind)

    @override
    def __repr__(self) -> str:
        return f"ResultGrid({len(self)} trials in {self.experiment_path})"
