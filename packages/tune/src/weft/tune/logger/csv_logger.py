"""A table of each trial's results: `progress.csv` in its directory."""

from __future__ import annotations

import csv
import io
from typing import TYPE_CHECKING, Any

from weft.lowlevel import override
from weft.tune._storage import writing
from weft.tune._values import flattened
from weft.tune.logger._files import TrialFiles
from weft.tune.logger.logger import LoggerCallback

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    from weft.tune.experiment.trial import Trial

FILE = "progress.csv"


class CSVLoggerCallback(LoggerCallback):
    """Writes a row for each result, at once.

    The columns are the metrics, those inside dictionaries as `outer/inner`, and the configuration
    as `config/name`. A result with a new metric has the file rewritten with a column more.
    """

    def __init__(self) -> None:
        self._files = TrialFiles(FILE)
        self._columns_of: dict[str, list[str]] = {}

    @override
    def log_trial_start(self, trial: Trial) -> None:
        self._columns(trial)

    @override
    def log_trial_result(self, iteration: int, trial: Trial, result: dict[str, Any]) -> None:
        row = flattened(result)
        columns = self._columns(trial)
        new = [name for name in row if name not in columns]
        if new:
            columns += new
            self._widen(trial, columns)
        self._files.append(trial, FILE, _line(row.get(name) for name in columns))

    @override
    def log_trial_end(self, trial: Trial, failed: bool = False) -> None:
        self._columns_of.pop(trial.trial_id, None)
        self._files.close(trial)

    @override
    def on_experiment_end(self, trials: Sequence[Trial], **info: Any) -> None:
        self._columns_of.clear()
        self._files.close_all()

    def _columns(self, trial: Trial) -> list[str]:
        columns = self._columns_of.get(trial.trial_id)
        if columns is None:
            rows = _rows(self._files.path(trial) / FILE)
            columns = self._columns_of[trial.trial_id] = rows[0] if rows else []
        return columns

    def _widen(self, trial: Trial, columns: list[str]) -> None:
        rows = _rows(self._files.path(trial) / FILE)
        text = _line(columns) + "".join(
            _line(row + [""] * (len(columns) - len(row))) for row in rows[1:]
        )
        target = self._files.path(trial) / FILE
        draft = target.with_name(f".{FILE}")
        with writing(trial.storage):
            draft.write_bytes(text.encode())
            draft.replace(target)


def _rows(path: Path) -> list[list[str]]:
    if not path.exists():
        return []
    with path.open(newline="", encoding="utf-8") as file:
        return list(csv.reader(file))


def _line(cells: Any) -> str:
    text = io.StringIO()
    csv.writer(text, lineterminator="\n").writerow(list(cells))
    return text.getvalue()
