"""A function as a Trainable class, for code that wants one; the loop runs functions directly."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, ClassVar

from weft.lowlevel import override
from weft.tune._bodies import FunctionBody
from weft.tune._session import Assignment, Settings, TrialSession
from weft.tune._storage import LocalStorage
from weft.tune._values import decode, encode
from weft.tune.checkpoint import Checkpoint
from weft.tune.trainable.trainable import Trainable
from weft.tune.trainable.util import name_of

if TYPE_CHECKING:
    from collections.abc import Callable

    from weft.tune._storage import Storage


class FunctionTrainable(Trainable):
    """Runs a function up to its next report in each step. `wrap_function` makes one of yours."""

    function: ClassVar[Callable[[dict[str, Any]], Any]]

    @override
    def setup(self, config: dict[str, Any]) -> None:
        self._saved: Storage | None = None
        self._begin("")

    def _begin(self, checkpoint: str) -> None:
        settings = Settings(
            experiment="default", trainable=name_of(type(self)), storage=LocalStorage(self.logdir),
            restore=checkpoint,
        )  # fmt: skip
        assignment = Assignment(
            trial_id=self.trial_id, name=self.trial_name, dirname="trial",
            config=encode(self.config), bundles=[{}],
        )  # fmt: skip
        self._inner = TrialSession(settings, assignment)
        self._body = FunctionBody(lambda config: self.execute(type(self).function), self._inner)
        self._last: dict[str, Any] = {}

    def execute(self, fn: Callable[[dict[str, Any]], Any]) -> Any:
        """Call a function with the configuration."""
        return fn(self.config)

    @override
    def step(self) -> dict[str, Any]:
        report = self._body.advance()
        if report is None:
            return {**self._last, "done": True}
        self._last = decode(report.text)
        if report.checkpoint:
            self._saved = self._inner.storage.join(report.checkpoint)
        return {**self._last, "done": report.is_last}

    @override
    def save_checkpoint(self, checkpoint_dir: str) -> None:
        if self._saved is not None:
            Checkpoint(self._saved.path).to_directory(checkpoint_dir)

    @override
    def load_checkpoint(self, checkpoint: Any) -> None:
        self._body.close()
        self._begin(str(checkpoint))

    @override
    def cleanup(self) -> None:
        self._body.close()


def wrap_function(
    train_func: Callable[[dict[str, Any]], Any], name: str | None = None
) -> type[Any]:
    """Return a Trainable class that runs a function.

    Args:
        train_func: Takes a configuration, and reports, yields or returns metrics.
        name: Of the class; None: the function's.
    """
    members = {"function": staticmethod(train_func), "__doc__": train_func.__doc__}
    return type(name or name_of(train_func), (FunctionTrainable,), members)
