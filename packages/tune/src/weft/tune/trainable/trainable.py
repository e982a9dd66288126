"""The class to derive from where a trial is more than a function: it is stepped, saved, loaded."""

from __future__ import annotations

import os
import pickle
import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

import msgspec

from weft.lowlevel import lazy
from weft.tune._session import TrialClock, date_of
from weft.tune._storage import scratch
from weft.tune.checkpoint import Checkpoint
from weft.tune.execution.placement_groups import PlacementGroupFactory

if TYPE_CHECKING:
    import socket

    import cloudpickle

    from weft.tune._session import TrialSession
    from weft.tune._storage import Storage
else:
    cloudpickle = lazy("cloudpickle")
    socket = lazy("socket")

_STATE = ".tune_metadata.json"
_DICTIONARY = "_dict_checkpoint.pkl"


class _Metadata(msgspec.Struct, frozen=True):
    """What is in a checkpoint beside what the class saves."""

    iteration: int
    time_total: float


class Trainable:
    """One trial. Override `setup` and `step`; to save and load, `save_checkpoint` and
    `load_checkpoint`; to be used again by the next trial, `reset_config`; to let go, `cleanup`.

    All methods are called on one thread of one process, one after the other.
    """  # noqa: D205 - the list is one sentence

    def __init__(
        self, config: dict[str, Any] | None = None, storage: Storage | None = None
    ) -> None:
        self.config: dict[str, Any] = dict(config or {})
        self._storage = storage
        self._progress = TrialClock()
        self._session: TrialSession | None = None
        self._directory = ""
        self._is_stopped = False
        self.setup(self.config)

    # -------------------------------------------------------------- to be overridden

    def setup(self, config: dict[str, Any]) -> None:
        """Prepare for the first step."""

    def step(self) -> dict[str, Any]:
        """Do one iteration and return its metrics.

        `done: True` among them ends the trial, `should_checkpoint: True` has it saved.
        """
        raise NotImplementedError(f"{type(self).__qualname__} has no method step")

    def save_checkpoint(self, checkpoint_dir: str) -> dict[str, Any] | None:
        """Write into an empty directory what `load_checkpoint` needs, or return it."""
        raise NotImplementedError(f"{type(self).__qualname__} has no method save_checkpoint")

    def load_checkpoint(self, checkpoint: Any) -> None:
        """Read what `save_checkpoint` wrote: a directory's path; or take what it returned.

        The directory is read only, and gone after this.
        """
        raise NotImplementedError(f"{type(self).__qualname__} has no method load_checkpoint")

    def reset_config(self, new_config: dict[str, Any]) -> bool:
        """Make this instance ready for another trial.

        Returns:
            Whether it is; if not, another instance is made.
        """
        return False

    def cleanup(self) -> None:
        """Let go of what the instance holds. Called once, at its end, unless its process dies."""

    def log_result(self, result: dict[str, Any]) -> None:
        """Look at a result of a step, with what every one has."""

    def export_model(self, export_formats: Any, export_dir: str | None = None) -> dict[str, str]:
        """Write the model in some formats, and return the path of each.

        Args:
            export_formats: One or several names of formats.
            export_dir: Where to; None: the trial's directory.
        """
        formats = [export_formats] if isinstance(export_formats, str) else list(export_formats)
        return self._export_model(formats, export_dir or self.logdir)

    def _export_model(self, export_formats: list[str], export_dir: str) -> dict[str, str]:
        return {}

    @classmethod
    def default_resource_request(cls, config: dict[str, Any]) -> PlacementGroupFactory | None:
        """Return what a trial with this configuration reserves; None: one CPU."""
        return None

    @classmethod
    def resource_help(cls, config: dict[str, Any]) -> str:
        """Return advice for a user whose trials do not fit into the cluster."""
        return ""

    # -------------------------------------------------------------- for who runs it

    def train(self) -> dict[str, Any]:
        """Do one step, and return its metrics with what every result has."""
        result = self._progress.filled(dict(self.step()))
        result["date"] = date_of(result["timestamp"])
        result["trial_id"] = self.trial_id
        result.setdefault("done", False)
        self.log_result(result)
        return result

    def train_buffered(
        self, buffer_time_s: float, max_buffer_length: int = 1000
    ) -> list[dict[str, Any]]:
        """Do steps until time is up, one wants to be saved or is the last; at least one."""
        results: list[dict[str, Any]] = []
        until = time.monotonic() + buffer_time_s
        while not results or (len(results) < max_buffer_length and time.monotonic() < until):
            results.append(self.train())
            if results[-1]["done"] or results[-1].get("should_checkpoint"):
                break
        return results

    def save(self, checkpoint_dir: str | None = None) -> Checkpoint:
        """Write a checkpoint into a local directory.

        Args:
            checkpoint_dir: Where to; None: a new directory.
        """
        directory = scratch("checkpoint") if checkpoint_dir is None else checkpoint_dir
        Path(directory).mkdir(parents=True, exist_ok=True)
        saved = self.save_checkpoint(directory)
        if isinstance(saved, dict):
            Path(directory, _DICTIONARY).write_bytes(cloudpickle.dumps(saved))
        state = _Metadata(self._progress.iteration, self._progress.time_total_s)
        Path(directory, _STATE).write_bytes(msgspec.json.encode(state))
        return Checkpoint(directory)

    def restore(self, checkpoint_path: str | Checkpoint) -> None:
        """Go on from a checkpoint that `save` wrote."""
        if isinstance(checkpoint_path, Checkpoint):
            with checkpoint_path.as_directory() as directory:
                self.restore(directory)
            return
        state = Path(checkpoint_path, _STATE)
        if state.exists():
            found = msgspec.json.decode(state.read_bytes(), type=_Metadata)
            self._progress.iteration = self._progress.restored = found.iteration
            self._progress.time_total_s = found.time_total
        dictionary = Path(checkpoint_path, _DICTIONARY)
        if dictionary.exists():
            self.load_checkpoint(pickle.loads(dictionary.read_bytes()))  # noqa: S301 - `save` wrote it
        else:
            self.load_checkpoint(str(checkpoint_path))

    def reset(self, new_config: dict[str, Any], storage: Storage | None = None) -> bool:
        """Make this instance ready for another trial, if `reset_config` can."""
        if not self.reset_config(new_config):
            return False
        self.config = dict(new_config)
        self._storage = storage
        self._progress = TrialClock()
        self._directory = ""
        return True

    def stop(self) -> None:
        """Clean up; what comes after the first call does nothing."""
        if not self._is_stopped:
            self._is_stopped = True
            self.cleanup()

    def belong_to(self, session: TrialSession) -> None:
        """Count for this trial from here on."""
        self._session = session
        self._progress = session.progress

    # -------------------------------------------------------------- facts

    @property
    def iteration(self) -> int:
        """How many steps are done, those before the checkpoint included."""
        return self._progress.iteration

    @property
    def training_iteration(self) -> int:
        """The same as `iteration`."""
        return self._progress.iteration

    @property
    def trial_id(self) -> str:
        """The trial's id; "default" outside of an experiment."""
        return self._session.assignment.trial_id if self._session else "default"

    @property
    def trial_name(self) -> str:
        """The trial's name; "default" outside of an experiment."""
        return self._session.assignment.name if self._session else "default"

    @property
    def trial_resources(self) -> PlacementGroupFactory:
        """What the trial reserves, as bundles; outside of an experiment one that is empty."""
        return PlacementGroupFactory(self._session.assignment.bundles if self._session else [{}])

    @property
    def logdir(self) -> str:
        """A local directory of the trial's own."""
        if self._session is not None:
            return self._session.directory()
        if not self._directory:
            self._directory = scratch("trial")
        return self._directory

    def get_config(self) -> dict[str, Any]:
        """Return the configuration."""
        return self.config

    def get_state(self) -> dict[str, Any]:
        """Return what a checkpoint says beside what the class saves."""
        return {
            "iteration": self._progress.iteration,
            "time_total": self._progress.time_total_s,
            "python_version": sys.version.split()[0],
        }

    def get_auto_filled_metrics(
        self,
        now: Any = None,
        time_this_iter: float | None = None,
        timestamp: int | None = None,
        debug_metrics_only: bool = False,
    ) -> dict[str, Any]:
        """Return what every result has."""
        at = int(time.time()) if timestamp is None else timestamp
        metrics = {
            "trial_id": self.trial_id,
            "date": date_of(at) if now is None else now.strftime("%Y-%m-%d_%H-%M-%S"),
            "timestamp": at,
            "time_this_iter_s": time_this_iter,
            "time_total_s": self._progress.time_total_s,
            "training_iteration": self._progress.iteration,
            "pid": os.getpid(),
            "hostname": os.uname().nodename,
            "config": self.config,
        }
        if debug_metrics_only:
            return {
                name: metrics[name] for name in ("trial_id", "date", "timestamp", "pid", "hostname")
            }
        return metrics

    def get_current_ip_pid(self) -> tuple[str, int]:
        """Return the address of this machine and the id of this process."""
        return socket.gethostbyname("localhost"), os.getpid()

    def is_actor(self) -> bool:
        """Tell whether an experiment runs this instance."""
        return self._session is not None
