"""The deputy: a driver on a node, for a program on a machine that has none.

Nobody can call that program, so it can own nothing that others fetch. Its deputy owns it instead:
it submits, creates and calls what the program orders, holds a reference for each that the program
has, and says what the program has to know. Values go through it as they are packed: it opens none.

    the program --Letter--> orders, done one after the other in the main thread
                            what may take long in other threads
                <--Letter-- answers, values that are there, what workers print

It is started by the daemon, as a process of its own (`_node/deputies.py`), and ends when the
program says goodbye, when nothing was heard of it for so long as it has patience, or with the
daemon.
"""

from __future__ import annotations

import os
import threading
from collections import deque
from functools import partial
from pathlib import Path
from queue import SimpleQueue
from typing import TYPE_CHECKING, Any

from msgspec import structs

from weft._clock import monotonic
from weft._engine import current
from weft._ids import ActorId, FunctionId, ObjectId, PlacementGroupId, TaskId, WorkerId
from weft._launch import read_cluster
from weft._runtime.arguments import PackedArguments
from weft._runtime.deputy_holdings import ProgramHoldings
from weft._runtime.letters import Letters
from weft._runtime.local import END_S, START_S, Driver
from weft._runtime.loop import Waiter
from weft._runtime.remote_contents import ProgramGivers
from weft._runtime.submissions import STREAM_ITEMS
from weft._serialize.failures import pack_error
from weft._serialize.pickling import Serialized, dumps, layout_of, unpack
from weft._specs import ActorSpec, Code, TaskSpec
from weft._transport.addresses import DAEMON_SOCKET, DOORS, SUFFIX, program_name
from weft._transport.doors import Door
from weft._wire import codec, remote
from weft._wire.messages import Failure, Held, Inline, Output, Resumes
from weft.exceptions import ObjectLostError, SessionError

if TYPE_CHECKING:
    import socket
    from collections.abc import Callable, Sequence

    from weft._refs import ObjectRef, ObjectRefGenerator
    from weft._specs import CallSpec
    from weft._transport.secure import SecureConnection
    from weft._wire.messages import Message

QUESTIONS = frozenset(
    {
        "create_group",
        "find_actor",
        "group_ready",
        "inspect",
        "inspect_nodes",
        "metrics",
        "named_actors",
        "nodes",
        "preload",
        "remove_group",
        "resources",
    }
)
"""Methods of Engine that a program may have called by name."""
# So many prints of workers wait for a program that is away; later ones are left out.
MOST_SHOWN = 1000
# So many large values are in the deputy's memory at a time, beside those on their way.
LOADERS = 4
# Of a stream, in one answer: a round trip for each would be most of what it costs. Their values are
# kept until they were heard.
MOST_ITEMS = 100


class Deputy:
    """Does what one program orders."""

    def __init__(self, driver: Driver, doors: str, patience_s: float) -> None:
        self._driver = driver
        self._patience_s = patience_s
        self._orders: SimpleQueue[remote.Order | None] = SimpleQueue()
        self._loads: SimpleQueue[remote.Loads] = SimpleQueue()
        self._holdings = ProgramHoldings(driver.guard)
        self._codes: dict[bytes, Code] = {}
        self._shown: deque[int] = deque()
        """The numbers of letters with output that were not heard."""
        self._left_out = 0
        """Bytes of output that nobody will see."""
        self._letters = Letters(self._ordered)
        driver.on_output = self._show
        assert driver.outside is not None
        name = program_name(driver.worker_id) + SUFFIX
        self._contents = ProgramGivers(driver.loop, self._say)
        self._door = Door(driver.loop.poller, doors, name, self._accept)
        driver.timers.call_later(patience_s, self._look_at_the_clock)

    # -------------------------------------------------------------- the connection; in the guard

    def _accept(self, sock: socket.socket) -> None:
        assert self._driver.outside is not None
        self._driver.outside.accept(sock, self._received, self._letters.lost)

    def _received(self, connection: SecureConnection, messages: Sequence[Message]) -> None:
        if connection is not self._letters.connection:
            if not isinstance(messages[0], Resumes):
                connection.close()
                return
            self._letters.use(connection)
        self._letters.received(connection, messages)

    def _ordered(self, body: bytes) -> None:
        self._orders.put(codec.unpack(body, remote.ANY_ORDER))

    def _look_at_the_clock(self) -> None:
        left_s = self._letters.heard_at + self._patience_s - monotonic()
        if left_s <= 0:
            self._orders.put(None)
        else:
            self._driver.timers.call_later(left_s, self._look_at_the_clock)

    def _say(self, news: remote.News) -> None:
        """Without the guard."""
        with self._driver.guard:
            self._letters.say(news)

    def _show(self, output: Output) -> None:
        """Have the program show what a worker wrote; while it is away, not for ever."""
        shown = self._shown
        while shown and shown[0] <= self._letters.heard:
            shown.popleft()
        if len(shown) >= MOST_SHOWN:
            self._left_out += len(output.data)
            return
        data = output.data
        if self._left_out:
            data = b"weft: %d bytes of output were left out here\n%b" % (self._left_out, data)
            self._left_out = 0
        self._say(
            remote.Shows(
                output.worker_id, output.pid, output.label, output.is_stderr, data, output.node
            )
        )
        shown.append(self._letters.said)

    # -------------------------------------------------------------- orders

    def serve(self) -> None:
        """Do what is ordered until the program leaves, or is not heard of any more."""
        for _ in range(LOADERS):
            threading.Thread(target=self._load_for_ever, daemon=True).start()
        order = self._orders.get()
        while order is not None and not isinstance(order, remote.Leaves):
            self._do(order)
            order = self._orders.get()
        self._driver.leave(monotonic() + END_S)
        if order is not None:
            self._see_off(order.request)
        with self._driver.guard:
            self._letters.close()
            self._door.close()
        self._driver.close()

    def _see_off(self, request: int) -> None:
        """Say that all has ended, behind what workers have printed last."""
        said = threading.Event()

        def say() -> None:
            self._done(request)
            said.set()

        self._driver.loop.later(say)
        said.wait(END_S)

    def _do(self, order: remote.Order) -> None:
        match order:
            case remote.Exports(function_id, name, code):
                self._codes[function_id] = _code(function_id, name, code)
            case remote.Adopts():
                self._adopt(order)
            case remote.Releases():
                self._holdings.release(order)
            case remote.Loads():
                self._loads.put(order)
            case remote.Nexts(request, task_id):
                self._answer(request, lambda: self._next(request, task_id))
            case remote.Inquires(request):
                self._aside(request, lambda: self._question(order))
            case remote.Brings(request, env):
                self._aside(request, partial(self._bring, request, env))
            case remote.Gives():
                self._contents.given(order)
            case remote.Explains(request):
                self._aside(request, lambda: self._explain(order))
            case remote.Submits(request, task_id):
                self._make(request, task_id, order.returns, order, self._submit)
            case remote.Invokes(request, task_id):
                self._make(request, task_id, order.returns, order, self._invoke)
            case remote.Creates(request):
                self._make(request, b"", 0, order, self._create)
            case remote.Puts(request):
                self._make(request, b"", 0, order, self._put)
            case _:
                self._answer(order.request, lambda: self._obey(order))  # type: ignore[attr-defined]  # the others have one

    def _obey(self, order: remote.Order) -> None:
        """Do what does not block, and has no answer but that it is done."""
        driver = self._driver
        match order:
            case remote.Begins():
                self._begin(order)
                return
            case remote.Follows(request, object_ids):
                for object_id in object_ids:
                    self._follow(object_id)
            case remote.Cancels(request, object_id, is_stream, force, recursive):
                subject = (
                    self._holdings.stream(object_id) if is_stream else self._holdings.ref(object_id)
                )
                if subject is not None:
                    driver.cancel(subject, force=force, recursive=recursive)
            case remote.Kills(request, actor_id, no_restart):
                driver.kill(ActorId(actor_id), no_restart=no_restart)
            case remote.Frees(request, object_ids):
                driver.free([self._holdings.ref(object_id) for object_id in object_ids])
            case _:
                raise SessionError(f"the deputy has no way to do {type(order).__name__}")
        self._done(request)

    def _aside(self, request: int, do: Callable[[], None]) -> None:
        """Do what may take long in a thread of its own."""
        threading.Thread(target=self._answer, args=(request, do), daemon=True).start()

    def _answer(self, request: int, do: Callable[[], None]) -> None:
        """Do something; if it fails, that is the answer."""
        try:
            do()
        except BaseException as error:  # noqa: BLE001 - it belongs to who has asked
            if request:
                self._say(remote.Replied(request, error=pack_error(error)))

    def _done(self, request: int) -> None:
        if request:
            self._say(remote.Replied(request))

    def _make(
        self, request: int, task_id: bytes, returns: int, order: Any, make: Callable[[Any], None]
    ) -> None:
        """Make something. What is not waited for and fails, its results do."""
        if request:
            # It may wait for room. Who has ordered it waits, too: nothing that needs it is behind.
            def make_aside() -> None:
                make(order)
                self._done(request)

            self._aside(request, make_aside)
            return
        try:
            make(order)
        except BaseException as error:  # noqa: BLE001 - as above
            packed = pack_error(error)
            for index in range(1, returns + 1):
                self._say(remote.IsThere(TaskId(task_id).object_id(index), packed, is_error=True))

    # -------------------------------------------------------------- the beginning

    def _begin(self, order: remote.Begins) -> None:
        driver = self._driver
        with driver.guard:
            driver.links.tell_daemon(order.job)
        if not driver.loop.wait(driver.welcomed, monotonic() + START_S) or driver.welcome is None:
            raise SessionError("the node daemon did not let the program's deputy join")
        if order.preload:
            driver.preload(order.preload)
        place = structs.replace(driver.context(), in_worker=False)
        facts = dumps((place, driver.links.address)).pack()
        self._say(remote.Replied(order.request, facts))

    def _bring(self, request: int, env: str) -> None:
        self._contents.bring(env)
        self._done(request)

    # -------------------------------------------------------------- references

    def _adopt(self, order: remote.Adopts) -> None:
        inside = ObjectId(order.inside) if order.inside else None
        try:
            ref = self._driver.objects.adopt(order.object_id, order.owner, inside)
        except ObjectLostError as error:
            self._say(remote.IsThere(order.object_id, pack_error(error), is_error=True))
        else:
            self._holdings.hold(ref)

    def _follow(self, object_id: bytes) -> None:
        ref = self._holdings.try_ref(object_id)
        if ref is not None:
            self._driver.when_ready(ref, lambda: self._is_ready(object_id))

    def _is_ready(self, object_id: bytes) -> None:
        ref = self._holdings.try_ref(object_id)
        if ref is None:
            return
        value = ref._entry.value
        if value is None:
            self._follow(object_id)  # It was lost meanwhile, and is made again.
        elif isinstance(value, Failure):
            self._say(remote.IsThere(object_id, value.error, is_error=True))
        else:
            self._say(remote.IsThere(object_id, value.data if isinstance(value, Inline) else b""))

    # -------------------------------------------------------------- values

    def _load_for_ever(self) -> None:
        while True:
            order = self._loads.get()
            self._answer(order.request, partial(self._load, order.request, order.object_id))

    def _load(self, request: int, object_id: bytes) -> None:
        room = Waiter()
        with self._driver.guard:
            self._letters.when_room(room.ready)
        self._driver.loop.wait(room)
        data, is_error = self._driver.values.packed(self._holdings.ref(object_id))
        if is_error:
            self._say(remote.Replied(request, error=bytes(data)))
        else:
            self._say(remote.Replied(request, bytes(data)))

    def _put(self, order: remote.Puts) -> None:
        objects = self._driver.objects
        object_id = ObjectId(order.object_id)
        refs: list[ObjectRef[Any]] = []
        objects.store_value(
            _serialized(order.data, [self._holdings.ref(each) for each in order.inner]),
            label="weft.put",
            site=order.site,
            claim=lambda value: refs.append(objects.own(object_id, value)),
        )
        self._holdings.hold(refs[0])

    # -------------------------------------------------------------- tasks and actors

    def _arguments(self, given: remote.SentArguments) -> tuple[Any, ...]:
        if not given.data:
            return ()
        inner = [self._holdings.ref(each) for each in given.inner]
        deps = [self._holdings.ref(each) for each in given.deps]
        return PackedArguments(_serialized(given.data, inner), deps)

    def _submit(self, order: remote.Submits) -> None:
        options, shape = unpack(order.spec)
        code = self._codes[order.function_id]
        self._holdings.hold_all(
            self._driver.submit(
                TaskSpec(
                    code,
                    self._arguments(order.arguments),
                    {},
                    options,
                    shape,
                    order.site,
                    TaskId(order.task_id),
                )
            )
        )

    def _invoke(self, order: remote.Invokes) -> None:
        called: CallSpec = unpack(order.spec)
        spec = structs.replace(
            called,
            args=self._arguments(order.arguments),
            task_id=TaskId(order.task_id),
        )
        self._holdings.hold_all(self._driver.call(spec))

    def _create(self, order: remote.Creates) -> None:
        meta, options, shape = unpack(order.spec)
        code = self._codes[order.function_id]
        try:
            arguments = self._arguments(order.arguments)
        except ObjectLostError as error:
            # The program has a handle of it, and may have passed it on.
            self._holdings.hold(self._driver.calling.stillborn(meta, error))
            raise
        token = self._driver.create_actor(ActorSpec(meta, code, arguments, {}, options, shape))
        if token is not None:
            self._holdings.hold(token)

    def _next(self, request: int, task_id: bytes) -> None:
        generator = self._holdings.stream(task_id)
        if generator is None:
            raise SessionError("the stream is closed")
        self._driver.when_next(
            generator, lambda: self._answer(request, lambda: self._take(request, generator))
        )

    def _take(self, request: int, generator: ObjectRefGenerator[Any]) -> None:
        """Answer with the next item, and those that have come behind it.

        One at a time if the task is to wait for its consumer: what is taken early would not count.
        """
        most = 1 if generator._stream.limit < STREAM_ITEMS else MOST_ITEMS
        refs: list[Held] = []
        while len(refs) < most and (ref := self._next_or_none(generator, refs)) is not None:
            self._holdings.hold(ref)
            self._is_ready(ref._id)
            refs.append(Held(ref._id, ref._owner))
        self._say(remote.Replied(request, refs=refs))

    def _next_or_none(
        self, generator: ObjectRefGenerator[Any], before: list[Held]
    ) -> ObjectRef[Any] | None:
        """Return the next item; None: it has not come, or there is none."""
        if before and generator._stream.would_block:
            return None
        return self._driver.next_item(generator, 0)

    # -------------------------------------------------------------- questions

    def _question(self, order: remote.Inquires) -> None:
        if order.what not in QUESTIONS:
            raise SessionError(f"a program does not ask {order.what!r} of its deputy")
        args, kwargs = unpack(order.arguments)
        answer = dumps(getattr(self._driver, order.what)(*args, **kwargs))
        for ref in answer.refs:
            self._holdings.hold(ref)
        refs = [Held(ref._id, ref._owner) for ref in answer.refs]
        self._say(remote.Replied(order.request, answer.pack(), refs=refs))

    def _explain(self, order: remote.Explains) -> None:
        subject: ObjectRef[Any] | ActorId | PlacementGroupId
        match order.kind:
            case "ActorId":
                subject = ActorId(order.subject)
            case "PlacementGroupId":
                subject = PlacementGroupId(order.subject)
            case _:
                subject = self._holdings.ref(order.subject)
        self._say(remote.Replied(order.request, self._driver.why(subject).encode()))


def _code(function_id: bytes, name: str, code: bytes) -> Code:
    """Return code that is known as its pickle alone."""
    made = Code(_not_here, name)
    made.pack(lambda _: (FunctionId(function_id), code))
    return made


def _not_here() -> None:
    raise AssertionError("a deputy runs no code of its program's")


def _serialized(data: bytes, refs: list[ObjectRef[Any]]) -> Serialized:
    """Return a packed value as what it was packed of."""
    kind, inband, buffers = layout_of(data)
    return Serialized(bytes(inband) if buffers else data, buffers, refs, kind)


def main(session_dir: str, worker_id: str, patience_s: str) -> None:
    """Be a deputy until its program has left."""
    driver = Driver(session_dir, read_cluster(session_dir), None, WorkerId.from_hex(worker_id))
    driver.on_daemon_lost = lambda _reason: os._exit(1)
    current.engine = driver
    with driver.guard:
        deputy = Deputy(driver, str(Path(session_dir, DOORS)), float(patience_s))
    driver.start(f"{session_dir}/{DAEMON_SOCKET}")
    deputy.serve()
