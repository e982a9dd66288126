"""What looks on while an experiment runs: loggers, reporters, users' own callbacks.

Callbacks are told of what has happened and decide nothing. They are called on the thread of `fit`,
one after the other, so what they do slows the experiment down.
"""

from __future__ import annotations

import pickle
from pathlib import Path
from typing import TYPE_CHECKING, Any

from weft.lowlevel import override

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence

    from weft.tune.checkpoint import Checkpoint
    from weft.tune.experiment.trial import Trial


class Callback:
    """Override what is of interest. An exception in a callback ends the experiment.

    Guaranteed: `setup` first and once; `on_trial_start` before a trial's first result, and again
    when it goes on after a pause, a failure or a restart of the experiment; one of
    `on_trial_complete` and `on_trial_error` last and once; `on_experiment_end` once, whenever the
    run ends without an error of its own.

    `iteration` counts the turns of the loop. `trials` are all trials in the order of their
    creation; a trial shows its state at the moment of the call.
    """

    def setup(
        self,
        stop: Any = None,
        num_samples: int | None = None,
        total_num_samples: int | None = None,
        **info: Any,
    ) -> None:
        """The experiment begins or is continued.

        Args:
            stop: What was given as `stop`.
            num_samples: Of the TuneConfig.
            total_num_samples: How many trials there will be, if that is known.
            info: `experiment_path`, `experiment_name`, `metric`, `mode`.
        """

    def on_step_begin(self, iteration: int, trials: Sequence[Trial], **info: Any) -> None:
        """The loop is about to take what has come."""

    def on_step_end(self, iteration: int, trials: Sequence[Trial], **info: Any) -> None:
        """The loop has taken what had come."""

    def on_trial_start(
        self, iteration: int, trials: Sequence[Trial], trial: Trial, **info: Any
    ) -> None:
        """A trial begins, or goes on."""

    def on_trial_restore(
        self, iteration: int, trials: Sequence[Trial], trial: Trial, **info: Any
    ) -> None:
        """A trial goes on from a checkpoint."""

    def on_trial_save(
        self, iteration: int, trials: Sequence[Trial], trial: Trial, **info: Any
    ) -> None:
        """A trial has a new checkpoint."""

    def on_trial_result(
        self,
        iteration: int,
        trials: Sequence[Trial],
        trial: Trial,
        result: dict[str, Any],
        **info: Any,
    ) -> None:
        """A trial has reported."""

    def on_trial_complete(
        self, iteration: int, trials: Sequence[Trial], trial: Trial, **info: Any
    ) -> None:
        """A trial came to its end, or was stopped."""

    def on_trial_recover(
        self, iteration: int, trials: Sequence[Trial], trial: Trial, **info: Any
    ) -> None:
        """A trial failed and will be tried again."""

    def on_trial_error(
        self, iteration: int, trials: Sequence[Trial], trial: Trial, **info: Any
    ) -> None:
        """A trial failed and will not be tried again."""

    def on_checkpoint(
        self,
        iteration: int,
        trials: Sequence[Trial],
        trial: Trial,
        checkpoint: Checkpoint,
        **info: Any,
    ) -> None:
        """A trial has a new checkpoint: this one."""

    def on_experiment_end(self, trials: Sequence[Trial], **info: Any) -> None:
        """The run has ended, finished or not."""

    def get_state(self) -> dict[str, Any] | None:
        """Return what `set_state` needs when the experiment is continued; None: nothing."""
        return None

    def set_state(self, state: dict[str, Any]) -> None:
        """Take what `get_state` returned at the end of the run before."""


class CallbackList(Callback):
    """Several callbacks as one, called in their order."""

    CALLBACK_FILE = "callbacks.pkl"

    def __init__(self, callbacks: Sequence[Callback] = ()) -> None:
        self._callbacks = list(callbacks)

    def __len__(self) -> int:
        return len(self._callbacks)

    def __getitem__(self, i: int) -> Callback:
        return self._callbacks[i]

    def __iter__(self) -> Iterator[Callback]:
        return iter(self._callbacks)

    def _each(self, call: Callable[[Callback], object]) -> None:
        for callback in self._callbacks:
            call(callback)

    @override
    def setup(
        self,
        stop: Any = None,
        num_samples: int | None = None,
        total_num_samples: int | None = None,
        **info: Any,
    ) -> None:
        self._each(lambda callback: callback.setup(stop, num_samples, total_num_samples, **info))

    @override
    def on_step_begin(self, iteration: int, trials: Sequence[Trial], **info: Any) -> None:
        self._each(lambda callback: callback.on_step_begin(iteration, trials, **info))

    @override
    def on_step_end(self, iteration: int, trials: Sequence[Trial], **info: Any) -> None:
        self._each(lambda callback: callback.on_step_end(iteration, trials, **info))

    @override
    def on_trial_start(
        self, iteration: int, trials: Sequence[Trial], trial: Trial, **info: Any
    ) -> None:
        self._each(lambda callback: callback.on_trial_start(iteration, trials, trial, **info))

    @override
    def on_trial_restore(
        self, iteration: int, trials: Sequence[Trial], trial: Trial, **info: Any
    ) -> None:
        self._each(lambda callback: callback.on_trial_restore(iteration, trials, trial, **info))

    @override
    def on_trial_save(
        self, iteration: int, trials: Sequence[Trial], trial: Trial, **info: Any
    ) -> None:
        self._each(lambda callback: callback.on_trial_save(iteration, trials, trial, **info))

    @override
    def on_trial_result(
        self,
        iteration: int,
        trials: Sequence[Trial],
        trial: Trial,
        result: dict[str, Any],
        **info: Any,
    ) -> None:
        self._each(
            lambda callback: callback.on_trial_result(iteration, trials, trial, result, **info)
        )

    @override
    def on_trial_complete(
        self, iteration: int, trials: Sequence[Trial], trial: Trial, **info: Any
    ) -> None:
        self._each(lambda callback: callback.on_trial_complete(iteration, trials, trial, **info))

    @override
    def on_trial_recover(
        self, iteration: int, trials: Sequence[Trial], trial: Trial, **info: Any
    ) -> None:
        self._each(lambda callback: callback.on_trial_recover(iteration, trials, trial, **info))

    @override
    def on_trial_error(
        self, iteration: int, trials: Sequence[Trial], trial: Trial, **info: Any
    ) -> None:
        self._each(lambda callback: callback.on_trial_error(iteration, trials, trial, **info))

    @override
    def on_checkpoint(
        self,
        iteration: int,
        trials: Sequence[Trial],
        trial: Trial,
        checkpoint: Checkpoint,
        **info: Any,
    ) -> None:
        self._each(
            lambda callback: callback.on_checkpoint(iteration, trials, trial, checkpoint, **info)
        )

    @override
    def on_experiment_end(self, trials: Sequence[Trial], **info: Any) -> None:
        self._each(lambda callback: callback.on_experiment_end(trials, **info))

    @override
    def get_state(self) -> dict[str, Any] | None:
        states = {
            index: state
            for index, callback in enumerate(self._callbacks)
            if (state := callback.get_state()) is not None
        }
        return {"states": states} if states else None

    @override
    def set_state(self, state: dict[str, Any]) -> None:
        for index, of_callback in state["states"].items():
            if index < len(self._callbacks):
                self._callbacks[index].set_state(of_callback)

    def can_restore(self, checkpoint_dir: str) -> bool:
        """Tell whether a state was saved in a local directory."""
        return (Path(checkpoint_dir) / self.CALLBACK_FILE).exists()

    def save_to_dir(self, checkpoint_dir: str, session_str: str = "default") -> None:
        """Write the callbacks' state into a local directory, if there is any."""
        state = self.get_state()
        if state is not None:
            (Path(checkpoint_dir) / self.CALLBACK_FILE).write_bytes(pickle.dumps(state))

    def restore_from_dir(self, checkpoint_dir: str) -> None:
        """Give the callbacks the state that was saved in a local directory."""
        path = Path(checkpoint_dir) / self.CALLBACK_FILE
        self.set_state(pickle.loads(path.read_bytes()))  # noqa: S301 - this experiment wrote it
