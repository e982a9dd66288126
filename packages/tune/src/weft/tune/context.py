"""What code that a trial runs can learn about it."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from weft.tune.execution.placement_groups import PlacementGroupFactory

if TYPE_CHECKING:
    from weft.tune._session import TrialSession


class TuneContext:
    """Facts about the trial that runs here; `tune.get_context()` returns it."""

    def __init__(self, session: TrialSession) -> None:
        self._session = session

    def get_experiment_name(self) -> str:
        """Return the experiment's name."""
        return self._session.settings.experiment

    def get_trial_name(self) -> str:
        """Return the trial's name: the trainable's and the id, unless you name them."""
        return self._session.assignment.name

    def get_trial_id(self) -> str:
        """Return the trial's id."""
        return self._session.assignment.trial_id

    def get_trial_resources(self) -> PlacementGroupFactory:
        """Return what the trial reserves, as bundles; its process has the first."""
        return PlacementGroupFactory(self._session.assignment.bundles)

    def get_trial_dir(self) -> str:
        """Return a local directory of the trial's own, which is there.

        With a local storage it is the trial's directory in it. Else it is uploaded at the end of
        the trial if `SyncConfig.sync_artifacts` says so, and removed.
        """
        return self._session.directory()

    def get_storage(self) -> Any:
        """Return the storage of the trial's checkpoints: it has `path` and `filesystem`."""
        return self._session.storage
