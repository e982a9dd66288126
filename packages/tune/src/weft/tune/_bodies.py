"""What a runner runs: a function in a thread of its own, or an instance of a Trainable class.

A body gives one result after the other: `advance` waits for the next, and the trial's code rests
between two calls.
"""

from __future__ import annotations

import inspect
import threading
from typing import TYPE_CHECKING, Any, Protocol

from weft.lowlevel import lazy
from weft.tune._session import Report, TrialSession, sessions
from weft.tune._storage import scratch
from weft.tune._values import decode
from weft.tune.checkpoint import Checkpoint
from weft.tune.error import TrialError

if TYPE_CHECKING:
    import shutil
    from collections.abc import Callable

    from weft.tune.trainable.trainable import Trainable
else:
    shutil = lazy("shutil")

# A function that cleans up after itself has the time; one that hangs does not hold its process.
END_S = 5.0


class Body(Protocol):
    """One trial's code."""

    def advance(self) -> Report | None:
        """Run to the next report, and return it; None: it came to its end.

        Raises what the trial's code raises.
        """
        ...

    def save(self) -> str:
        """Store a checkpoint of where it rests, and return its name; empty: it cannot."""
        ...

    def close(self) -> bool:
        """End it. Returns whether the process can run another."""
        ...


class FunctionBody:
    """A function that reports, yields its results, or returns its only one."""

    def __init__(self, function: Callable[..., Any], session: TrialSession) -> None:
        self._function = function
        self._session = session
        self._config = decode(session.assignment.config)
        self._error: BaseException | None = None
        self._last: Report | None = None
        self._thread = threading.Thread(
            target=self._run, name=f"weft-trial-{session.assignment.trial_id}", daemon=True
        )
        self._is_begun = False

    def _run(self) -> None:
        sessions.of_thread.session = self._session
        try:
            self._finish(self._function(self._config))
        except BaseException as error:  # noqa: BLE001 - whatever the user's code raises is told
            self._error = error
        finally:
            self._session.finish()

    def _finish(self, returned: Any) -> None:
        if inspect.isgenerator(returned):
            for metrics in returned:
                self._session.report(metrics, None)
            return
        if returned is not None:
            self._last = self._session.result(self._as_metrics(returned), is_last=True)

    def _as_metrics(self, returned: Any) -> Any:
        if isinstance(returned, dict):
            return returned
        metrics = self._session.settings.metrics
        return {metrics[0] if len(metrics) == 1 else "_metric": returned}

    def advance(self) -> Report | None:
        """Run to the next report."""
        if self._is_begun:
            self._session.go_on()
        else:
            self._is_begun = True
            self._thread.start()
        result = self._session.wait_result()
        if result is not None:
            return result
        self._thread.join()
        if isinstance(self._error, SystemExit):
            raise TrialError(f"the trial's code called sys.exit({self._error.code!r})")
        if self._error is not None:
            raise self._error
        return self._last

    def save(self) -> str:
        """A function saves by itself when it reports."""
        return ""

    def close(self) -> bool:
        """End it at the report where it waits."""
        self._session.stop()
        if self._is_begun:
            self._thread.join(END_S)
        return not self._thread.is_alive()


class ClassBody:
    """An instance of a Trainable class."""

    def __init__(
        self, trainable: type[Trainable], session: TrialSession, before: Trainable | None
    ) -> None:
        """`before`: an instance whose trial is over, to be used again if it can be reset."""
        self._session = session
        config = decode(session.assignment.config)
        if before is not None and before.reset(config, session.storage):
            self.instance = before
        else:
            if before is not None:
                before.stop()
            self.instance = trainable(config, session.storage)
        self.instance.belong_to(session)
        checkpoint = session.checkpoint()
        if checkpoint is not None:
            with checkpoint.as_directory() as directory:
                self.instance.restore(directory)

    def advance(self) -> Report | None:
        """Run one step, and save if it is time."""
        session = self._session
        metrics = self.instance.step()
        if not isinstance(metrics, dict):
            raise TypeError(
                f"{type(self.instance).__qualname__}.step has to return a dictionary of metrics, "
                f"not {type(metrics).__qualname__}"
            )
        metrics = dict(metrics)
        should_save = bool(metrics.pop("should_checkpoint", False))
        done = bool(metrics.get("done"))
        result = session.result(metrics)
        self.instance.log_result(decode(result.text))
        every = session.settings.checkpoint_frequency
        is_due = every > 0 and session.progress.iteration % every == 0
        saved = ""
        if should_save or is_due or (done and session.settings.checkpoint_at_end):
            saved = self.save()
        return Report(result.text, saved, is_last=done)

    def save(self) -> str:
        """Store a checkpoint."""
        directory = scratch("checkpoint")
        try:
            self.instance.save(directory)
            return self._session.store(Checkpoint(directory))
        finally:
            shutil.rmtree(directory, ignore_errors=True)

    def close(self) -> bool:
        """Leave the instance as it is: the next trial may use it again."""
        return True
