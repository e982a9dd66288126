"""Files that loggers write beside a trial's checkpoints, line by line.

On a storage that is not local they are written into a directory of this machine, and uploaded when
the trial or the run ends.
"""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import TYPE_CHECKING, Any

from weft.lowlevel import lazy
from weft.tune._storage import scratch, writing

if TYPE_CHECKING:
    import shutil
    from collections.abc import Iterable

    from weft.tune.experiment.trial import Trial
else:
    shutil = lazy("shutil")


class TrialFiles:
    """The directories of the trials that a logger writes for."""

    def __init__(self, *names: str) -> None:
        """Begin with none.

        Args:
            names: Files to go on with, if a run before has written them.
        """
        self._names = names
        self._path_of: dict[str, Path] = {}
        self._uploads: dict[str, Trial] = {}

    def path(self, trial: Trial) -> Path:
        """Return the local directory for a trial's files; made when it is asked for first."""
        path = self._path_of.get(trial.trial_id)
        if path is not None:
            return path
        storage = trial.storage
        with writing(storage):
            if storage.is_local:
                path = Path(storage.path)
                path.mkdir(parents=True, exist_ok=True)
            else:
                path = Path(scratch(trial.trial_id))
                for name in set(storage.names()).intersection(self._names):
                    (path / name).write_bytes(storage.read(name))
                self._uploads[trial.trial_id] = trial
            for name in self._names:
                _drop_torn_line(path / name)
        self._path_of[trial.trial_id] = path
        return path

    def append(self, trial: Trial, name: str, text: str) -> None:
        """Add text to a file. It is not kept open: very many trials may be paused."""
        path = self.path(trial)
        with writing(trial.storage), (path / name).open("a", newline="", encoding="utf-8") as file:
            file.write(text)

    def write(self, trial: Trial, name: str, content: bytes) -> None:
        """Make or replace a file."""
        path = self.path(trial)
        with writing(trial.storage):
            (path / name).write_bytes(content)

    def close(self, trial: Trial) -> None:
        """Upload what was written for a trial, if it has to be."""
        path = self._path_of.pop(trial.trial_id, None)
        if path is None or self._uploads.pop(trial.trial_id, None) is None:
            return
        with writing(trial.storage):
            for file in path.rglob("*"):
                if file.is_file():
                    trial.storage.write(file.relative_to(path).as_posix(), file.read_bytes())
        shutil.rmtree(path, ignore_errors=True)

    def close_all(self) -> None:
        """Do so for all trials: the run ends."""
        for trial in list(self._uploads.values()):
            self.close(trial)
        self._path_of.clear()


def _drop_torn_line(path: Path) -> None:
    """Cut off what a driver was killed in the middle of."""
    if not path.exists():
        return
    content = path.read_bytes()
    whole = content.rfind(b"\n") + 1
    if whole < len(content):
        with path.open("r+b") as file:
            file.truncate(whole)


def as_json(value: Any, indent: int | None = None) -> str:
    """Return any value as JSON: NaN and infinities as null, what JSON does not know as its repr."""
    return json.dumps(_plain(value), indent=indent, allow_nan=False)


def _plain(value: Any) -> Any:
    if value is None or isinstance(value, bool | int | str):
        return value
    if isinstance(value, float):
        return float(value) if math.isfinite(value) else None
    if isinstance(value, dict):
        return {str(key): _plain(inner) for key, inner in value.items()}
    if isinstance(value, list | tuple | set | frozenset):
        return _plain_list(value)
    if callable(listed := getattr(value, "tolist", None)):
        return _plain(listed())
    return repr(value)


def _plain_list(values: Iterable[Any]) -> list[Any]:
    return [_plain(value) for value in values]
