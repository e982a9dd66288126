"""Says how an experiment goes: a table drawn anew on a terminal, a line now and then elsewhere.

A reporter is asked after every event whether it has something to say, so `should_report` looks at
the clock and at nothing else. What has ended well is counted once: a report costs the same however
many trials have ended.
"""

from __future__ import annotations

import html
import sys
import time
from typing import TYPE_CHECKING, Any

from weft.lowlevel import override
from weft.tune._table import Column, shown, table
from weft.tune._tally import TrialTally
from weft.tune._terminal import TerminalBlock
from weft.tune._values import flattened
from weft.tune.callback import Callback
from weft.tune.search.extras import required

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from weft.tune.experiment.trial import Trial

REDRAW_S = 0.5
LINE_S = 30.0
WIDTH = 100
"""Of a table that stands on no terminal."""

_COUNTS = {
    "TERMINATED": "ended",
    "RUNNING": "running",
    "PENDING": "waiting",
    "PAUSED": "paused",
    "ERROR": "failed",
}
# What every result has beside the trial's own metrics.
_COMMON = frozenset({
    "config", "date", "done", "experiment_tag", "hostname", "iterations_since_restore", "node_ip",
    "pid", "time_since_restore", "time_this_iter_s", "timestamp", "trial_id",
})  # fmt: skip


class ProgressReporter:
    """What `RunConfig(progress_reporter=)` takes. Override `should_report` and `report`."""

    def setup(
        self,
        start_time: float | None = None,
        total_samples: int | None = None,
        metric: str | None = None,
        mode: str | None = None,
        **kwargs: Any,
    ) -> None:
        """A run begins.

        Args:
            start_time: In seconds since 1970.
            total_samples: How many trials there will be; None: that is not known.
            metric: The objective.
            mode: "min" or "max".
            kwargs: What may be added.
        """

    def should_report(self, trials: Sequence[Trial], done: bool = False) -> bool:
        """Tell whether it is time for a report. Called after every event.

        Args:
            trials: All of them, the oldest first.
            done: Whether the run has ended.
        """
        raise NotImplementedError

    def report(self, trials: Sequence[Trial], done: bool, *sys_info: Any) -> None:
        """Report.

        Args:
            trials: All of them, the oldest first.
            done: Whether the run has ended; such a report is the last.
            sys_info: More lines.
        """
        raise NotImplementedError

    def close(self) -> None:
        """Give back what was taken. Called when the run has ended, in whatever way."""


class TuneReporterBase(ProgressReporter):
    """Says how it stands in words and in a table; subclasses say where.

    Args:
        metric_columns: Metrics that are shown, or their titles by name; None: iteration, seconds,
            objective and the first others.
        parameter_columns: Likewise, of the configuration; None: all that there is room for.
        total_samples: How many trials there will be; None: as the experiment says.
        max_progress_rows: At most so many trials are in the table.
        max_error_rows: At most so many failures are named.
        max_column_length: At most so many characters are in a cell.
        max_report_frequency: Seconds between two reports; None: half a second on a terminal, half
            a minute elsewhere.
        infer_limit: At most so many metrics are added to iteration, seconds and objective.
        print_intermediate_tables: Whether there are reports before the end; None: yes.
        metric: The objective; None: the experiment's.
        mode: "min" or "max".
        sort_by_metric: Whether the best trials are in the table while it runs; else those that run
            and the newest.
    """

    DEFAULT_COLUMNS = {"training_iteration": "iter", "time_total_s": "seconds"}  # noqa: RUF012 - as in Ray

    def __init__(
        self,
        *,
        metric_columns: Sequence[str] | Mapping[str, str] | None = None,
        parameter_columns: Sequence[str] | Mapping[str, str] | None = None,
        total_samples: int | None = None,
        max_progress_rows: int = 20,
        max_error_rows: int = 20,
        max_column_length: int = 20,
        max_report_frequency: float | None = None,
        infer_limit: int = 3,
        print_intermediate_tables: bool | None = None,
        metric: str | None = None,
        mode: str | None = None,
        sort_by_metric: bool = False,
    ) -> None:
        self._metric_titles = _titles(metric_columns)
        self._parameter_titles = _titles(parameter_columns)
        self._total = total_samples
        self._max_rows = max_progress_rows
        self._max_errors = max_error_rows
        self._cell_width = max_column_length
        self._period_s = max_report_frequency
        self._infer_limit = infer_limit
        self._says_before_end = print_intermediate_tables is not False
        self._own_metric = metric
        self._own_mode = mode
        self._sorts = sort_by_metric
        self._begin(time.time(), None)

    def _begin(self, start_time: float, total: int | None) -> None:
        self._started_at = start_time
        self._expected = self._total if self._total is not None else total
        self._metric = self._own_metric
        self._mode = self._own_mode
        self._due_at = 0.0
        self._tally = TrialTally()

    @override
    def setup(
        self,
        start_time: float | None = None,
        total_samples: int | None = None,
        metric: str | None = None,
        mode: str | None = None,
        **kwargs: Any,
    ) -> None:
        self._begin(time.time() if start_time is None else start_time, total_samples)
        if metric is not None:
            self.set_search_properties(metric, mode)
        self._due_at = time.monotonic() + self.period_s

    def set_search_properties(
        self, metric: str | Sequence[str] | None, mode: str | Sequence[str] | None
    ) -> bool:
        """Say what is best, unless the constructor said it; of several objectives the first is."""
        self._metric = self._own_metric or _first(metric)
        self._mode = self._own_mode or _first(mode)
        return True

    def set_total_samples(self, total_samples: int) -> None:
        """Say how many trials there will be."""
        self._expected = total_samples

    def set_start_time(self, timestamp: float | None = None) -> None:
        """Say when the run began, in seconds since 1970; None: now."""
        self._started_at = time.time() if timestamp is None else timestamp

    def add_metric_column(self, metric: str, representation: str | None = None) -> None:
        """Show one metric more.

        Args:
            metric: Its name.
            representation: Its title; None: the name.
        """
        if self._metric_titles is None:
            self._metric_titles = dict(self.DEFAULT_COLUMNS)
        self._metric_titles[metric] = representation or metric

    def add_parameter_column(self, parameter: str, representation: str | None = None) -> None:
        """Show one value of the configuration more.

        Args:
            parameter: Its name; in dictionaries inside `outer/inner`.
            representation: Its title; None: the name.
        """
        if self._parameter_titles is None:
            self._parameter_titles = {}
        self._parameter_titles[parameter] = representation or parameter

    @property
    def period_s(self) -> float:
        """Seconds between two reports."""
        return REDRAW_S if self._period_s is None else self._period_s

    @override
    def should_report(self, trials: Sequence[Trial], done: bool = False) -> bool:
        if done:
            return True
        now = time.monotonic()
        if now < self._due_at or not self._says_before_end:
            return False
        self._due_at = now + self.period_s
        return True

    # -------------------------------------------------------------- words

    def _summary(self, trials: Sequence[Trial]) -> str:
        """Return how it stands, in a line."""
        tally = self._tally
        tally.take(trials, self._metric, self._mode)
        counts = tally.counts
        number = tally.number if self._expected is None else max(self._expected, tally.number)
        said = [f"{counts['TERMINATED']} of {number} trials ended"]
        said += [
            f"{counts[status]} {word}"
            for status, word in _COUNTS.items()
            if status != "TERMINATED" and counts[status]
        ]
        parts = [", ".join(said), _span(max(0.0, time.time() - self._started_at))]
        if tally.best is not None:
            value, trial = tally.best
            parts.append(f"best {self._metric}={shown(value, 12)} in {trial}")
        return "; ".join(parts)

    def _best_config(self) -> str:
        """Return the configuration of the best trial, in a line; empty: there is none."""
        if self._tally.best is None:
            return ""
        values = self._tally.best[1].evaluated_params
        return ", ".join(f"{name}={shown(value, 20)}" for name, value in values.items())

    def _errors(self, most: int) -> list[str]:
        """Return a line for each of the last failures."""
        failed = self._tally.failed
        named = failed[-most:] if most > 0 else []
        lines = [f"failed: {trial}: {shown(trial.error_message, 200)}" for trial in named]
        if len(failed) > len(named):
            lines.append(f"failed: {len(failed) - len(named)} more")
        return lines

    def _rows(self, most: int, *, done: bool) -> list[Trial]:
        """Return the trials that are in the table."""
        most = min(most, self._max_rows)
        if self._metric is not None and (done or self._sorts):
            return self._tally.best_trials(most)
        return self._tally.newest(most)

    def _columns(self, rows: Sequence[Trial]) -> list[Column]:
        """Return the table's columns: who, its parameters, its metrics."""
        configs = [trial.evaluated_params for trial in rows]
        results = [flattened(trial.last_result) for trial in rows]
        metrics = self._shown_metrics(results)
        parameters = self._parameter_titles or {name: name for config in configs for name in config}
        columns = [
            Column("trial", rows, 0),
            Column("status", [_COUNTS[trial.status] for trial in rows], 1),
        ]
        # The objective is what one looks for; then how far trials are; then what they try.
        columns += [
            Column(title, [config.get(name) for config in configs], 1000 + number)
            for number, (name, title) in enumerate(parameters.items())
        ]
        columns += [
            Column(
                title,
                [result.get(name) for result in results],
                2 if name == self._metric else 3 + number if number < 2 else 2000 + number,
            )
            for number, (name, title) in enumerate(metrics.items())
        ]
        return columns

    def _shown_metrics(self, results: Sequence[Mapping[str, Any]]) -> dict[str, str]:
        if self._metric_titles is not None:
            return self._metric_titles
        titles = dict(self.DEFAULT_COLUMNS)
        if self._metric is not None:
            titles[self._metric] = self._metric
        others = [
            name
            for name in dict.fromkeys(name for result in results for name in result)
            if name not in titles
            and name not in _COMMON
            and not name.startswith("config/")
            and any(isinstance(result.get(name), int | float) for result in results)
        ]
        titles.update({name: name for name in others[: self._infer_limit]})
        return titles

    def _lines(
        self, trials: Sequence[Trial], width: int, height: int | None = None, *, done: bool
    ) -> list[str]:
        """Return all there is to say: how it stands, the table, the failures.

        Args:
            trials: All of them.
            width: Of the lines, in characters.
            height: How many lines there is room for; None: any number.
            done: Whether the run has ended.
        """
        lines = [self._summary(trials)]
        config = self._best_config()
        if config:
            lines.append(f"best: {config}")
        most, most_errors = self._max_rows, self._max_errors
        if height is not None:
            most_errors = min(most_errors, height // 4)
        failures = self._errors(most_errors)
        if height is not None:
            # Beside the rows: an empty line, titles, and what is not shown.
            most = max(0, height - len(lines) - 3 - len(failures))
        rows = self._rows(most, done=done)
        if rows:
            made = table(self._columns(rows), width, self._cell_width)
            lines += ["", *made.lines]
            more = self._tally.number - len(rows)
            notes = [f"{more} trials more"] if more > 0 else []
            notes += [f"no room for {', '.join(made.left_out)}"] if made.left_out else []
            if notes:
                lines.append(f"({'; '.join(notes)})")
        lines += failures
        return [*lines, *_place(trials)] if done else lines


class CLIReporter(TuneReporterBase):
    """Reports on stderr: a table on a terminal, elsewhere a line now and then.

    Takes the arguments of TuneReporterBase.
    """

    _block: TerminalBlock | None = None

    @property
    @override
    def period_s(self) -> float:
        if self._period_s is None and not _is_terminal():
            return LINE_S
        return super().period_s

    @override
    def report(self, trials: Sequence[Trial], done: bool, *sys_info: Any) -> None:
        more = [line for info in sys_info for line in str(info).splitlines()]
        if not _is_terminal():
            lines = [self._summary(trials), *more]
            if done:
                config = self._best_config()
                lines += [f"best: {config}"] if config else []
                lines += [*self._errors(self._max_errors), *_place(trials)]
            sys.stderr.write("".join(f"{line}\n" for line in lines))
            sys.stderr.flush()
            return
        if self._block is None:
            self._block = TerminalBlock(sys.stderr)
        width, height = self._block.size
        if done:
            self._block.draw([])
            self.close()
            lines = [*self._lines(trials, width, done=True), *more]
            sys.stderr.write("".join(f"{line}\n" for line in lines))
            return
        height -= len(more)
        self._block.draw([*self._lines(trials, width, height, done=False), *more])

    @override
    def close(self) -> None:
        if self._block is not None:
            self._block.close()
            self._block = None


class JupyterNotebookReporter(TuneReporterBase):
    """Reports in a cell of a notebook: a table that is shown anew in place.

    Args:
        overwrite: Whether a report takes the place of the one before.
        options: Those of TuneReporterBase.

    Raises:
        ImportError: IPython is not installed.
    """

    def __init__(self, *, overwrite: bool = True, **options: Any) -> None:
        super().__init__(**options)
        self._overwrite = overwrite
        self._place: Any = None
        required("IPython.display", extra="notebook")

    @override
    def report(self, trials: Sequence[Trial], done: bool, *sys_info: Any) -> None:
        notebook = required("IPython.display", extra="notebook")
        lines = [*self._lines(trials, WIDTH, done=done), *map(str, sys_info)]
        text = notebook.HTML(f"<pre>{html.escape(chr(10).join(lines))}</pre>")
        if self._place is None or not self._overwrite:
            self._place = notebook.display(text, display_id=True)
        else:
            self._place.update(text)

    @override
    def close(self) -> None:
        self._place = None


class TrialLines(Callback):
    """Says a line when a trial ends, and, if asked, for every result."""

    def __init__(self, *, results: bool) -> None:
        self._says_results = results

    @override
    def on_trial_result(
        self,
        iteration: int,
        trials: Sequence[Trial],
        trial: Trial,
        result: dict[str, Any],
        **info: Any,
    ) -> None:
        if self._says_results:
            _say(f"{trial} reports {_own_metrics(result)}")

    @override
    def on_trial_complete(
        self, iteration: int, trials: Sequence[Trial], trial: Trial, **info: Any
    ) -> None:
        _say(f"{trial} has ended: {_own_metrics(trial.last_result) or 'no result'}")

    @override
    def on_trial_recover(
        self, iteration: int, trials: Sequence[Trial], trial: Trial, **info: Any
    ) -> None:
        _say(f"{trial} failed and is tried again: {trial.error_message}")

    @override
    def on_trial_error(
        self, iteration: int, trials: Sequence[Trial], trial: Trial, **info: Any
    ) -> None:
        _say(f"{trial} failed: {trial.error_message}")


def default_reporter() -> ProgressReporter:
    """Return what reports where the user has not said it: in a notebook, or on stderr."""
    ipython = sys.modules.get("IPython")
    shell = ipython.get_ipython() if ipython is not None else None
    if type(shell).__name__ == "ZMQInteractiveShell":
        return JupyterNotebookReporter()
    return CLIReporter()


def _place(trials: Sequence[Trial]) -> list[str]:
    """Say where the results are."""
    return [f"results: {trials[0].remote_experiment_path}"] if len(trials) else []


def _first(names: str | Sequence[str] | None) -> str | None:
    return names if names is None or isinstance(names, str) else next(iter(names), None)


def _titles(columns: Sequence[str] | Mapping[str, str] | None) -> dict[str, str] | None:
    if columns is None:
        return None
    return dict(columns) if isinstance(columns, dict) else {name: name for name in columns}


def _own_metrics(result: dict[str, Any]) -> str:
    return ", ".join(
        f"{name}={shown(value, 20)}"
        for name, value in flattened(result).items()
        if name not in _COMMON and not name.startswith("config/")
    )


def _say(line: str) -> None:
    sys.stderr.write(f"{line}\n")


def _is_terminal() -> bool:
    return sys.stderr is not None and sys.stderr.isatty()


def _span(seconds: float) -> str:
    if seconds < 60:
        return f"{seconds:.1f} s"
    minutes, rest = divmod(int(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours} h {minutes:02} min" if hours else f"{minutes} min {rest:02} s"
