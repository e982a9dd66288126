"""What `tune.run` and `run_experiments` run, as one record."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from weft.exceptions import OptionError
from weft.tune.config import (
    CheckpointConfig,
    FailureConfig,
    RunConfig,
    SyncConfig,
    TuneConfig,
    refuse_replaced,
)
from weft.tune.registry import register_trainable, resolved
from weft.tune.stopper import as_stopper
from weft.tune.trainable.util import name_of, with_resources

if TYPE_CHECKING:
    from weft.tune.stopper import Stopper


class Experiment:
    """A trainable, its space, and how both are run."""

    def __init__(
        self,
        name: str | None,
        run: Any,
        *,
        stop: Any = None,
        time_budget_s: Any = None,
        config: dict[str, Any] | None = None,
        resources_per_trial: Any = None,
        num_samples: int = 1,
        storage_path: Any = None,
        storage_filesystem: Any = None,
        sync_config: SyncConfig | None = None,
        checkpoint_config: CheckpointConfig | None = None,
        trial_name_creator: Any = None,
        trial_dirname_creator: Any = None,
        log_to_file: Any = False,
        export_formats: Any = None,
        max_failures: int = 0,
        restore: str | None = None,
        local_dir: Any = None,
    ) -> None:
        """Take what `tune.run` takes; see there.

        Raises:
            OptionError: Something does not fit.
            TuneError: `run` is no trainable.
        """
        refuse_replaced("Experiment", local_dir=local_dir)
        if export_formats:
            raise OptionError(
                f"export_formats={export_formats!r} is not supported: call export_model in your "
                "Trainable"
            )
        self.name = name
        self.trainable = resolved(run)
        if resources_per_trial is not None:
            self.trainable = with_resources(self.trainable, resources_per_trial)
        self.config = dict(config or {})
        self.restore = restore
        self.tune_config = TuneConfig(
            num_samples=num_samples,
            time_budget_s=time_budget_s,
            trial_name_creator=trial_name_creator,
            trial_dirname_creator=trial_dirname_creator,
        )
        self.run_config = RunConfig(
            name=name,
            storage_path=storage_path,
            storage_filesystem=storage_filesystem,
            stop=stop,
            sync_config=sync_config or SyncConfig(),
            checkpoint_config=checkpoint_config or CheckpointConfig(),
            failure_config=FailureConfig(max_failures=max_failures),
            log_to_file=log_to_file,
        )

    @classmethod
    def from_json(cls, name: str, spec: dict[str, Any]) -> Experiment:
        """Return the experiment that a dictionary of the constructor's arguments describes."""
        given = dict(spec)
        return cls(name, given.pop("run"), **given)

    @classmethod
    def get_trainable_name(cls, run_object: Any) -> str:
        """Return what trials of a trainable are called after."""
        return run_object if isinstance(run_object, str) else name_of(run_object)

    @classmethod
    def register_if_needed(cls, run_object: Any) -> str:
        """Register a trainable under its own name, and return that."""
        if isinstance(run_object, str):
            return run_object
        name = name_of(run_object)
        register_trainable(name, run_object)
        return name

    @property
    def run_identifier(self) -> str:
        """What trials are called after."""
        return name_of(self.trainable)

    @property
    def stopper(self) -> Stopper:
        """What `stop` means."""
        return as_stopper(self.run_config.stop)

    @property
    def path(self) -> str:
        """The experiment's directory in the storage; above it, if it has no name."""
        return self.run_config.location(self.name or "").path.rstrip("/")

    @property
    def local_path(self) -> str | None:
        """The same, if the storage is local."""
        storage = self.run_config.location(self.name or "")
        return storage.path.rstrip("/") if storage.is_local else None

    @property
    def remote_path(self) -> str:
        """The same as `path`."""
        return self.path

    @property
    def public_spec(self) -> dict[str, Any]:
        """What callbacks may see of it."""
        return {
            "run": self.run_identifier,
            "num_samples": self.tune_config.num_samples,
            "stop": self.run_config.stop,
            "config": self.config,
        }
