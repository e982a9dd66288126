"""Leaves capsules of what tasks, calls and constructors raise, in the worker that ran them.

A capsule is left before the failure is answered: who gets the error finds the file.
"""

from __future__ import annotations

import os
from typing import TYPE_CHECKING, Any

from weft._capsules.facts import random_states
from weft._capsules.tails import TextTail
from weft._capsules.writing import Attempt, Packed
from weft._clock import monotonic
from weft._env.inheritance import inherited
from weft._runtime.arguments import unpacked
from weft._runtime.capsules import of_meta, returns
from weft._wire.messages import Run
from weft.exceptions import ObjectLostError

if TYPE_CHECKING:
    from collections.abc import Callable

    from weft._capsules.facts import RandomStates
    from weft._runtime.actors import Actor
    from weft._runtime.answers import Job
    from weft._runtime.capsules import Capsules
    from weft._runtime.links import Links
    from weft._runtime.running import Running
    from weft._serialize.pickling import Memory
    from weft._wire.messages import BecomeActor, Call, Held, Value


class JobCapsules:
    """The capsules of a worker's jobs. Without the guard."""

    def __init__(self, capsules: Capsules, links: Links) -> None:
        self.tail = TextTail()
        self._capsules = capsules
        self._guard = links.guard
        self._objects = links.objects

    def begin(self, job: Job) -> None:
        """A job is about to be called: note what is gone when it has failed."""
        if type(job.message) is Run:
            self.tail.clear()
        job.random = random_states()

    def begin_constructor(self) -> RandomStates:
        """A constructor is about to be called: return what is gone when it has failed."""
        return random_states()

    def of_task(
        self,
        job: Job,
        now: Running,
        error: BaseException,
        *,
        code: tuple[str, bytes],
        function: Callable[..., Any] | None,
        resources: dict[str, int],
    ) -> None:
        """A task has raised an error. `function` is None if its code could not be read."""

        def make() -> Attempt:
            return Attempt(
                kind="task",
                function=code[0],
                code=code[1],
                source=function,
                resources=resources,
                **self._of_job(job, now, error),
            )

        self._capsules.leave(job.message.name, make, self._look_up)

    def of_call(self, job: Job, now: Running, error: BaseException, actor: Actor) -> None:
        """A call of an actor's method has raised an error."""

        def make() -> Attempt:
            method = getattr(job.message, "method", "")
            return Attempt(
                kind="method",
                method=method,
                source=getattr(type(actor.instance), method, None),
                constructor=self._sent(actor.creation),
                **self._of_actor(actor.creation),
                **self._of_job(job, now, error),
            )

        self._capsules.leave(job.message.name, make, self._look_up)

    def of_constructor(
        self, creation: BecomeActor, error: BaseException, cls: type | None, random: RandomStates
    ) -> None:
        """An actor's constructor has raised an error. `cls` is None if it could not be read."""
        name = f"{creation.meta.class_name}.__init__"

        def make() -> Attempt:
            return Attempt(
                kind="constructor",
                name=name,
                task_id=creation.meta.actor_id,
                number=creation.restarts + 1,
                call=self._sent(creation),
                source=getattr(cls, "__init__", None),
                random=random,
                **self._of_actor(creation),
                **self._of_process(error),
            )

        self._capsules.leave(name, make, self._look_up)

    def _of_job(self, job: Job, now: Running, error: BaseException) -> dict[str, Any]:
        message = job.message
        return {
            "name": message.name,
            "task_id": message.task_id,
            "number": max(0, message.attempt) + 1,
            "call": self._sent(message),
            "num_returns": returns(message.num_returns, is_dynamic=message.is_dynamic),
            "timeout_s": message.timeout_s,
            "is_late": now.is_late,
            "duration_s": monotonic() - now.began,
            "random": job.random,
            **self._of_process(error),
        }

    def _of_actor(self, creation: BecomeActor) -> dict[str, Any]:
        return {
            "function": creation.meta.class_name,
            "code": creation.code,
            "resources": creation.resources,
            **of_meta(creation.meta),
        }

    def _of_process(self, error: BaseException) -> dict[str, Any]:
        return {
            "error": error,
            "log": self.tail.text(),
            "pid": os.getpid(),
            "variables": dict(os.environ),
            **self._capsules.of_session(inherited.env),
        }

    def _sent(self, message: Run | Call | BecomeActor) -> Packed:
        owners = message.owners
        data: Memory | None = message.args
        if message.large is not None:
            data = self._piece(message.large, owners[-1])
        deps = unpacked(self._objects, message.deps)
        return Packed(data, [self._piece(*each) for each in zip(deps, owners, strict=False)])

    def _piece(self, value: Value, source: Held) -> Memory | None:
        try:
            return self._objects.packed_argument(value, source)
        except ObjectLostError:
            return None

    def _look_up(self, object_id: bytes) -> Memory | None:
        with self._guard:
            return self._capsules.look_up(object_id)
