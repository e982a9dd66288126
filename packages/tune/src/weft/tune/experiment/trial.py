"""A trial as callbacks, reporters and name creators see it."""

from __future__ import annotations

import uuid
from pathlib import Path
from typing import TYPE_CHECKING, Any

from weft.lowlevel import override
from weft.tune._values import flattened
from weft.tune.execution.placement_groups import PlacementGroupFactory

if TYPE_CHECKING:
    from collections.abc import Mapping

    from weft.tune._archive import Archive
    from weft.tune._storage import Storage
    from weft.tune._trial_runs import TrialRun
    from weft.tune.checkpoint import Checkpoint
    from weft.tune.views import Status


class Trial:
    """One trial: what it is now, whenever it is looked at. Equal to another view of the same."""

    PENDING = "PENDING"
    RUNNING = "RUNNING"
    PAUSED = "PAUSED"
    TERMINATED = "TERMINATED"
    ERROR = "ERROR"

    def __init__(self, run: TrialRun, archive: Archive) -> None:
        self._run = run
        self._archive = archive

    @override
    def __eq__(self, other: object) -> bool:
        return isinstance(other, Trial) and other.trial_id == self.trial_id

    @override
    def __hash__(self) -> int:
        return hash(self._run.id)

    @override
    def __str__(self) -> str:
        return self._archive.name(self._run)

    @override
    def __repr__(self) -> str:
        return f"Trial({self}, {self.status})"

    # -------------------------------------------------------------- what it is

    @property
    def trial_id(self) -> str:
        """Unique in the experiment."""
        return self._run.id

    @property
    def trainable_name(self) -> str:
        """What trials of this experiment are called after."""
        return self._archive.header.trainable

    @property
    def config(self) -> dict[str, Any]:
        """The configuration; a copy."""
        return self._archive.config(self._run)

    @property
    def evaluated_params(self) -> dict[str, Any]:
        """The configuration, with the values of inner dictionaries under `outer/inner`."""
        return flattened(self.config)

    @property
    def experiment_tag(self) -> str:
        """The trial's number and its configuration, in a line."""
        number = self._run.id.rpartition("_")[2].lstrip("0") or "0"
        values = ",".join(f"{key}={_short(value)}" for key, value in self.evaluated_params.items())
        return f"{number}_{values}"

    @property
    def placement_group_factory(self) -> PlacementGroupFactory:
        """What it reserves."""
        return PlacementGroupFactory(self._run.reserved.to_floats())

    @property
    def storage(self) -> Storage:
        """Where its files are."""
        return self._archive.storage.join(self._archive.dirname(self._run))

    @property
    def path(self) -> str:
        """Its directory in the storage."""
        return self.storage.path

    @property
    def local_path(self) -> str | None:
        """Its directory, if the storage is local."""
        return self.storage.path if self.storage.is_local else None

    def init_local_path(self) -> None:
        """Make its directory, if the storage is local."""
        if self.local_path is not None:
            Path(self.local_path).mkdir(parents=True, exist_ok=True)

    @property
    def local_experiment_path(self) -> str | None:
        """The experiment's directory, if the storage is local."""
        return self._archive.storage.path if self._archive.storage.is_local else None

    @property
    def remote_experiment_path(self) -> str:
        """The experiment's directory in the storage."""
        return self._archive.storage.path

    @property
    def experiment_dir_name(self) -> str:
        """The last part of the experiment's directory."""
        return self._archive.storage.path.rpartition("/")[2]

    @staticmethod
    def generate_id() -> str:
        """Return eight letters that no other trial has."""
        return uuid.uuid4().hex[:8]

    # -------------------------------------------------------------- how it stands

    @property
    def status(self) -> Status:
        """PENDING, RUNNING, PAUSED, TERMINATED or ERROR."""
        return self._run.status

    @property
    def last_result(self) -> dict[str, Any]:
        """What it reported last; empty before that."""
        return self._archive.metrics(self._run)

    @property
    def has_reported_at_least_once(self) -> bool:
        """Whether it has reported."""
        return bool(self._run.result)

    @property
    def iteration(self) -> int:
        """How many results it has reported."""
        return self._run.iterations

    @property
    def metric_analysis(self) -> dict[str, dict[str, float]]:
        """Of each number that it reported: last, max, min and avg. Reads the journal."""
        values: dict[str, list[float]] = {}
        for result in self._archive.results(self._run):
            for name, value in flattened(result).items():
                if isinstance(value, int | float) and not isinstance(value, bool):
                    values.setdefault(name, []).append(value)
        return {
            name: {
                "last": found[-1],
                "max": max(found),
                "min": min(found),
                "avg": sum(found) / len(found),
            }
            for name, found in values.items()
        }

    @property
    def checkpoint(self) -> Checkpoint | None:
        """The last that it wrote."""
        return self._archive.checkpoint(self._run)

    def has_checkpoint(self) -> bool:
        """Tell whether it has written one."""
        return bool(self._run.checkpoints)

    def is_finished(self) -> bool:
        """Tell whether it has ended, well or not."""
        return self._run.has_ended

    @property
    def num_failures(self) -> int:
        """How often it failed."""
        return self._run.failures

    @property
    def error_message(self) -> str:
        """The line of its last failure; empty if it never failed."""
        return self._run.error

    def get_error(self) -> BaseException | None:
        """Return why it failed for good; None: it did not."""
        return self._archive.error(self._run)

    def get_pickled_error(self) -> BaseException | None:
        """The same as `get_error`."""
        return self.get_error()

    def update_resources(self, resources: Mapping[str, float]) -> None:
        """Refuse: a scheduler orders other resources by `Restart`."""
        raise TypeError("a trial's resources are changed by a scheduler's order (Restart)")


def _short(value: Any) -> str:
    return f"{value:.4f}" if isinstance(value, float) else str(value)
