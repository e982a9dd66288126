"""What one trial has come to."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from weft.lowlevel import override
from weft.tune._archive import Archive
from weft.tune._storage import storage_at
from weft.tune._values import flattened
from weft.tune.error import TuneError

if TYPE_CHECKING:
    import os
    from collections.abc import Callable
    from typing import Self

    from weft.tune._trial_runs import TrialRun
    from weft.tune.checkpoint import Checkpoint


class Result:
    """One trial: its last metrics, its configuration, its checkpoints, its error.

    Attributes:
        metrics: The last that it reported; None: nothing.
        checkpoint: The last that it wrote; None: none.
        error: Why it failed for good; None: it did not.
        path: Its directory in the storage.
    """

    def __init__(
        self,
        metrics: dict[str, Any] | None = None,
        checkpoint: Checkpoint | None = None,
        error: BaseException | None = None,
        path: str = "",
        metrics_dataframe: Any = None,
        best_checkpoints: list[tuple[Checkpoint, dict[str, Any]]] | None = None,
        *,
        config: dict[str, Any] | None = None,
        filesystem: Any = None,
    ) -> None:
        self.metrics = metrics
        self.checkpoint = checkpoint
        self.error = error
        self.path = path
        self._frame = metrics_dataframe
        self._checkpoints = best_checkpoints
        self._config = config
        self._filesystem = filesystem
        self._read: tuple[Archive, TrialRun] | None = None

    @classmethod
    def _of(cls, archive: Archive, run: TrialRun) -> Self:
        made = cls(
            archive.metrics(run) or None,
            archive.checkpoint(run),
            archive.error(run),
            archive.storage.join(archive.dirname(run)).path,
            config=archive.config(run),
        )
        if made.metrics is not None:
            made.metrics["config"] = made._config
        made._read = archive, run
        return made

    @classmethod
    def from_path(cls, path: str | os.PathLike[str], storage_filesystem: Any = None) -> Self:
        """Read the result of one trial from its directory, `experiment/trial`.

        Raises:
            TuneError: There is no such trial.
        """
        storage = storage_at(path, storage_filesystem)
        above, _, dirname = storage.path.rpartition("/")
        archive = Archive.of(storage_at(above, None if storage.is_local else storage.filesystem))
        for run in archive.runs:
            if archive.dirname(run) == dirname:
                return cls._of(archive, run)
        raise TuneError(f"the experiment in {above} has no trial in {dirname}")

    @property
    def config(self) -> dict[str, Any] | None:
        """The trial's configuration."""
        return self._config or (self.metrics or {}).get("config")

    @property
    def filesystem(self) -> Any:
        """The `pyarrow.fs.FileSystem` in which `path` is."""
        if self._filesystem is not None:
            return self._filesystem
        return self._read[0].storage.filesystem if self._read else storage_at(self.path).filesystem

    @property
    def metrics_dataframe(self) -> Any:
        """All that the trial reported as a pandas DataFrame, a row each result."""
        if self._frame is None and self._read is not None:
            archive, run = self._read
            self._frame = archive.frame(run)
        return self._frame

    @property
    def best_checkpoints(self) -> list[tuple[Checkpoint, dict[str, Any]]]:
        """The checkpoints that are in the storage, the oldest first, each with its metrics."""
        if self._checkpoints is None:
            self._checkpoints = self._read[0].checkpoints(self._read[1]) if self._read else []
        return self._checkpoints

    def get_best_checkpoint(self, metric: str, mode: str) -> Checkpoint | None:
        """Return the checkpoint with the best value of a metric; None: there is none.

        Raises:
            TuneError: No checkpoint has such a metric.
        """
        if mode not in {"min", "max"}:
            raise TuneError(f"{mode=}: give 'min' or 'max'")
        kept = [(checkpoint, flattened(metrics)) for checkpoint, metrics in self.best_checkpoints]
        if not kept:
            return None
        having = [
            (metrics[metric], checkpoint) for checkpoint, metrics in kept if metric in metrics
        ]
        if not having:
            raise TuneError(
                f"no checkpoint has the metric {metric!r}; they have {', '.join(kept[-1][1])}"
            )
        best: Callable[..., tuple[Any, Checkpoint]] = min if mode == "min" else max
        return best(having, key=lambda found: found[0])[1]

    @override
    def __repr__(self) -> str:
        error = f", error={self.error!r}" if self.error else ""
        return (
            f"Result(metrics={self.metrics!r}, path={self.path!r}, "
            f"checkpoint={self.checkpoint!r}{error})"
        )
