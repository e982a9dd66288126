"""Leaves capsules of tasks and calls that ended their process, or had to be ended at their limit.

Their owner does it: it has what was sent, and gets the death certificate. What tasks raise, their
workers leave (job_capsules.py), by `leave` too.

It costs nothing while WEFT_CAPSULES is not set. A capsule that cannot be left is told on stderr,
and changes no answer.
"""

from __future__ import annotations

import os
import sys
from typing import TYPE_CHECKING, Any

from weft import _settings
from weft._capsules.records import Died
from weft._capsules.writing import Attempt, Directory, Packed
from weft._env.inheritance import inherited
from weft._env.jobs import without_job
from weft._env.spec import decode, encode
from weft._ids import ObjectId
from weft._runtime.arguments import Dependency
from weft._runtime.leasing import worker_died

if TYPE_CHECKING:
    from collections.abc import Callable

    from weft._machines.calls import ActorCall
    from weft._machines.tasks import Task
    from weft._runtime.arguments import Arguments
    from weft._runtime.calling import LostCall
    from weft._runtime.links import Links
    from weft._runtime.submissions import Submission
    from weft._serialize.pickling import Memory
    from weft._specs import ActorMeta, Shape
    from weft._wire.messages import Certificate, Welcome


class Capsules:
    """The capsules of one process."""

    def __init__(self, links: Links, welcome: Callable[[], Welcome | None]) -> None:
        self._links = links
        self._objects = links.objects
        self._welcome = welcome
        self._directory = Directory(
            _settings.CAPSULES.value(),
            most_bytes=_settings.CAPSULE_BYTES.value(),
            kept=_settings.CAPSULES_KEPT.value(),
            placeholder=Dependency,
        )
        self._has_said_full = False

    # -------------------------------------------------------------- an owner's; inside the guard

    def of_task(self, task: Task, shape: Shape, certificate: Certificate) -> None:
        """A task's process has ended while it ran."""
        note: Submission = task.note

        def make() -> Attempt:
            return Attempt(
                kind="task",
                function=note.code[1],
                code=note.code[2],
                call=self._sent(note.arguments),
                resources=dict(shape.amounts),
                **self._of_lost(task, note, task.attempt + 1, certificate),
                **self._of_owner(shape.env),
            )

        if _is_failure(task, certificate):
            self.leave(task.name, make, self.look_up)

    def of_call(self, lost: LostCall, certificate: Certificate) -> None:
        """An actor's process has ended while it ran a call."""
        call, creation = lost.call, lost.creation
        note: Submission = call.note

        def make() -> Attempt:
            made_here: dict[str, Any] = {"code": b"", "function": call.name.rpartition(".")[0]}
            if creation is not None and creation.actor is not None:
                made_here = {
                    "code": creation.code[2],
                    "function": creation.code[1],
                    "constructor": self._sent(lost.constructor),
                    **of_meta(creation.actor),
                }
            return Attempt(
                kind="method",
                method=note.method,
                call=self._sent(lost.arguments),
                **made_here,
                **self._of_lost(call, note, lost.number, certificate),
                **self._of_owner(inherited.env if creation is None else creation.shape.env),
            )

        if _is_failure(call, certificate):
            self.leave(call.name, make, self.look_up)

    def _of_lost(
        self, task: Task | ActorCall, note: Submission, number: int, certificate: Certificate
    ) -> dict[str, Any]:
        return {
            "name": task.name,
            "pid": certificate.pid,
            "task_id": task.id,
            "number": number,
            "num_returns": returns(note.num_returns, is_dynamic=note.is_dynamic),
            "timeout_s": task.timeout_s,
            "is_late": task.timed_out,
            "log": certificate.stderr,
            "died": Died(
                words=str(worker_died(certificate, task.name, number)),
                exit_code=certificate.exit_code,
                peak_bytes=certificate.peak_bytes,
                limit_bytes=certificate.limit_bytes,
            ),
        }

    def _of_owner(self, env: str) -> dict[str, Any]:
        """The worker is gone: its environment was this one, and what the task's adds."""
        added = decode(env).get("env_vars", {})
        return {"variables": {**os.environ, **added}, **self.of_session(env)}

    def _sent(self, arguments: Arguments) -> Packed:
        data: Memory | None = arguments.data
        if arguments.large is not None:
            # Whoever submits large arguments owns them as an object, the last of `inner`.
            data = self._objects.packed(arguments.inner[-1]._entry)
        return Packed(data, [self._objects.packed(ref._entry) for ref in arguments.deps])

    def look_up(self, object_id: bytes) -> Memory | None:
        """Return the packed value of a reference, if it is at hand. Inside the guard."""
        entry = self._objects.machine.entries.get(ObjectId(object_id))
        return None if entry is None else self._objects.packed(entry)

    # -------------------------------------------------------------- and a worker's

    def leave(
        self, name: str, make: Callable[[], Attempt], look_up: Callable[[bytes], Memory | None]
    ) -> None:
        """Leave a capsule, if it can be left. `look_up`: as of Directory."""
        try:
            if self._directory.is_full():
                if not self._has_said_full:
                    self._has_said_full = True
                    _say(f"the directory of {_settings.CAPSULES.name} is full: no more are left")
                return
            self._directory.leave(make(), self._driver_pid(), look_up)
        except Exception as error:  # noqa: BLE001 - the task's own failure is what has to be told
            _say(f"there is none of {name}: {type(error).__name__}: {error}")

    def of_session(self, env: str) -> dict[str, Any]:
        """Say in which session something ran, and in which of its environments."""
        fields = decode(without_job(env))
        fields.pop("env_vars", None)  # They are among the variables.
        welcome = self._welcome()
        namespace = "" if welcome is None else welcome.namespace
        return {"namespace": namespace, "runtime_env": encode(fields)}

    def _driver_pid(self) -> int:
        welcome = self._welcome()
        if welcome is None or self._links.role == "driver":
            return os.getpid()
        return welcome.driver_pid


def _is_failure(task: Task | ActorCall, certificate: Certificate) -> bool:
    """Tell whether a task failed whose process has ended: not if somebody had that ended."""
    if task.cancelled:
        return False
    reason = certificate.reason
    return not reason or task.timed_out or reason.startswith("memory")


def returns(num_returns: int, *, is_dynamic: bool) -> int | str:
    """Return what messages say of a call's results as options say it."""
    return "dynamic" if is_dynamic else "streaming" if num_returns < 0 else num_returns


def of_meta(meta: ActorMeta) -> dict[str, Any]:
    """Say which actor it was."""
    return {"actor_id": meta.actor_id, "actor_name": meta.name, "is_async": meta.is_async}


def _say(what: str) -> None:
    print(f"weft: capsules: {what}", file=sys.stderr)  # noqa: T201
