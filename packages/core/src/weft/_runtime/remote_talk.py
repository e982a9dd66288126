"""What a program orders of its deputy, and what it hears: who waits for which answer."""

from __future__ import annotations

from itertools import count
from typing import TYPE_CHECKING, Any

from weft._runtime.local import show_output
from weft._runtime.loop import Waiter
from weft._runtime.remote_contents import answer_of
from weft._runtime.remote_objects import FAILED, LARGE, VALUE, RemoteObjects
from weft._serialize.failures import pack_error, unpack_failure
from weft._serialize.pickling import dumps, unpack
from weft._wire import codec, remote
from weft._wire.messages import Output
from weft.exceptions import GetTimeoutError, ProtocolError, SessionError

if TYPE_CHECKING:
    from collections.abc import Callable

    from weft._engine import Engine
    from weft._refs import ObjectRef
    from weft._runtime.letters import Letters
    from weft._runtime.loop import Loop

ENDED = "the session has ended: call weft.init() again"


class RemoteTalk:
    """One program's orders and answers. Inside the guard, if not said otherwise."""

    letters: Letters

    def __init__(self, engine: Engine, loop: Loop) -> None:
        self._loop = loop
        self._requests = count(1)
        self._answers: dict[int, Callable[[remote.Replied], None]] = {}
        self.objects = RemoteObjects(engine, loop, self.say)
        self.ended: Exception | None = None
        """Why nothing is heard any more."""
        self.closing = False

    def say(self, order: remote.Order) -> None:
        """Say something that has no answer, if anybody listens."""
        if self.ended is None:
            self.letters.say(order)

    def order(self, order: remote.Order) -> None:
        """Give an order. Raises why the session is over, if it is."""
        self.refuse_if_ended()
        self.objects.drain()
        self.letters.say(order)

    def send(
        self, make: Callable[[int], remote.Order], answered: Callable[[remote.Replied], None]
    ) -> None:
        """Give an order that has an answer."""
        request = next(self._requests)
        self._answers[request] = answered
        try:
            self.order(make(request))
        except BaseException:
            self._answers.pop(request, None)
            raise

    def ask(
        self,
        make: Callable[[int], remote.Order],
        deadline: float | None = None,
        kept: object = None,
    ) -> tuple[bytes, list[ObjectRef[Any]]]:
        """Give an order and wait for its answer; raise the error that it is. Without the guard.

        GetTimeoutError: there was none before the deadline. The references are those in it.
        `kept`: references that are to live until the order is done, though this be interrupted.
        """
        waiter = Waiter()
        found: list[remote.Replied] = []
        refs: list[ObjectRef[Any]] = []

        def answered(answer: remote.Replied, _: object = kept) -> None:
            found.append(answer)
            refs.extend(self.objects.take(held) for held in answer.refs)
            waiter.ready()

        with self._loop.guard:
            self.send(make, answered)
        self._loop.wait(waiter, deadline)
        if not found:
            if self._loop.closed:
                raise SessionError("the session ended while this thread waited in it")
            raise GetTimeoutError("there was no answer in time")
        if found[0].error:
            raise unpack_failure(found[0].error)
        return found[0].body, refs

    def question(self, what: str, *args: Any, **kwargs: Any) -> Any:
        """Have a method of the deputy's engine called. Without the guard."""
        arguments = dumps((args, kwargs)).pack()
        body, refs = self.ask(lambda request: remote.Inquires(request, what, arguments))
        try:
            return unpack(body)
        finally:
            del refs

    def refuse_if_ended(self) -> None:
        """Raise why the session is over, if it is."""
        if self.ended is not None:
            raise self.ended.with_traceback(None)
        if self.closing:
            raise SessionError(ENDED)

    def fail(self, error: Exception) -> None:
        """Nothing is heard any more: everything that waits gets an error."""
        if self.ended is not None:
            return
        self.ended = error
        packed = pack_error(error)
        answers, self._answers = self._answers, {}
        for request, answered in answers.items():
            answered(remote.Replied(request, error=packed))
        self.objects.fail_all(packed)
        self._loop.nudge()  # Who waits may be the one who reads, and this another thread.

    def _give(self, needs: remote.Needs) -> None:
        """Without the guard."""
        answer = answer_of(needs)
        with self._loop.guard:
            self.say(answer)

    def heard(self, body: bytes) -> None:
        """Take what the deputy has said."""
        news: remote.News = codec.unpack(body, remote.ANY_NEWS)
        match news:
            case remote.Replied(request):
                answered = self._answers.pop(request, None)
                if answered is not None:
                    answered(news)
            case remote.IsThere(object_id, data, is_error):
                entry = self.objects.entries.get(object_id)
                if entry is not None:
                    state = FAILED if is_error else VALUE if data else LARGE
                    self.objects.settle(entry, state, data)
            case remote.Shows():
                output = Output(
                    news.worker_id, news.pid, news.label, news.is_stderr, news.data, news.node
                )
                self._loop.later(lambda: show_output(output))
            case remote.Needs():
                self._loop.later(lambda: self._give(news))
            case _:
                raise ProtocolError(f"the deputy says {type(news).__name__}")
