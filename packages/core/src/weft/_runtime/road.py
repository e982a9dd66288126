"""The way from a program to its deputy, through the port of the head: one connection at a time.

Nothing ever connects to the program, so it may be behind any router. A connection that breaks, or
on which nothing comes although a sign was asked for, is made again, after pauses that grow. Before
that the head is asked whether the deputy lives. What was said meanwhile is kept (`letters.py`).
"""

from __future__ import annotations

import socket
from typing import TYPE_CHECKING, Any, TypeVar

from weft._clock import monotonic
from weft._ids import WorkerId
from weft._runtime.letters import Letters
from weft._runtime.peers import hello
from weft._transport.addresses import SUFFIX, program_name
from weft._transport.arrivals import Arrivals
from weft._transport.credentials import NODE, Credentials, error_words, fetch_credentials
from weft._transport.opening import CallingPart, call
from weft._transport.secure import SecureConnection
from weft._transport.sockets import Poller
from weft._transport.timers import Timers
from weft._wire.codec import pack, unpack
from weft._wire.messages import Answer, Ask, Hello
from weft._wire.version import check_hello
from weft.exceptions import AuthenticationError, ProtocolError, SessionError, WeftError

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from weft._runtime.loop import Loop
    from weft._transport.join import JoinString
    from weft._wire.messages import Message

T = TypeVar("T")

PATIENCE_S = 600.0
"""How long a program may be cut off, or asleep."""
HURRY_S = 2.0
"""The same when it is about to end, and has goodbye to say."""
SIGN_S = 10.0
"""So often it asks for a sign while nothing else comes; three that stay out are too many."""
PAUSES_S = (0.1, 0.5, 1.0, 2.0, 5.0)
"""Before a connection is made again; the last one from then on."""
QUESTION_S = 30.0


class Head:
    """The head of a cluster, as somebody from outside asks it."""

    def __init__(self, join: JoinString) -> None:
        """Fetch the certificate. Blocks.

        SessionError: nobody answers there. AuthenticationError: it is another cluster.
        """
        self.join = join
        try:
            self._credentials: Credentials = fetch_credentials(join)
        except OSError as error:
            raise SessionError(f"no head answers at {join.address}: {error_words(error)}") from None

    def look_up(self) -> str:
        """Return the address of its host. Blocks. OSError: it has none."""
        join = self.join
        found = socket.getaddrinfo(join.host, join.port, type=socket.SOCK_STREAM)
        return str(found[0][4][0])

    def connect(
        self,
        host: str,
        poller: Poller,
        arrivals: Arrivals,
        name: str,
        receive: Callable[[Any, Sequence[Message]], None],
        lost: Callable[[Any, str], None],
    ) -> SecureConnection:
        """Begin to connect to whom the port at `host` gives calls for a name.

        OSError: there is no way there.
        """
        part = CallingPart(self._credentials, name, host, self.join.port)
        sock = call(host, self.join.port)
        return SecureConnection(poller, sock, receive, lost, part=part, arrivals=arrivals)

    def ask(self, what: str, body: object, kind: type[T]) -> T:
        """Ask the head's daemon. Blocks.

        SessionError: it cannot be reached, or refuses. AuthenticationError: the token is wrong.
        """
        poller, timers = Poller(), Timers()
        heard: list[Message] = []
        lost: list[str] = []
        try:
            connection = self.connect(
                self.look_up(),
                poller,
                Arrivals(timers.call_later),
                NODE,
                lambda _, messages: heard.extend(messages),
                lambda _, why: lost.append(why),
            )
            try:
                connection.queue(hello(WorkerId.from_random(), "", "guest"))
                connection.queue(Ask(1, what, pack(body)))
                connection.flush()
                answer = self._await(poller, timers, heard, lost)
                if not isinstance(answer, Answer):
                    failure = connection.failure
                    if isinstance(failure, AuthenticationError):
                        raise failure
                    why = (lost or ["it does not answer"])[0]
                    raise SessionError(f"the head at {self.join.address} cannot be asked: {why}")
            finally:
                connection.close()
        except AuthenticationError:
            raise
        except ProtocolError as error:
            raise SessionError(f"the head at {self.join.address}: {error}") from None
        except OSError as error:
            raise SessionError(
                f"no head answers at {self.join.address}: {error_words(error)}"
            ) from None
        finally:
            poller.close()
        if answer.error:
            raise SessionError(f"the head at {self.join.address} refuses: {answer.error}")
        return unpack(answer.body, kind)

    def _await(
        self, poller: Poller, timers: Timers, heard: list[Message], lost: list[str]
    ) -> Message | None:
        until = monotonic() + QUESTION_S
        while True:
            for message in heard:
                if isinstance(message, Hello):
                    check_hello(message)
                elif isinstance(message, Answer):
                    return message
            heard.clear()
            if lost or monotonic() >= until:
                return None
            poller.poll(timers.sleep_s(until))
            timers.ring()


class Road:
    """Keeps a program connected to its deputy. Inside the guard, if not said otherwise."""

    def __init__(
        self,
        loop: Loop,
        timers: Timers,
        head: Head,
        deputy: bytes,
        *,
        deliver: Callable[[bytes], None],
        failed: Callable[[SessionError], None],
        lives: Callable[[], bool],
        patience_s: float,
    ) -> None:
        """Begin without a connection.

        `failed`: there will be none any more. `lives()`: the head says that the deputy does;
        it blocks, and may raise SessionError.
        """
        self._loop = loop
        self._timers = timers
        self._arrivals = Arrivals(timers.call_later)
        self._head = head
        self._name = program_name(deputy) + SUFFIX
        self._failed = failed
        self._lives = lives
        self._patience_s = patience_s
        self._sign_s = min(SIGN_S, patience_s / 4)
        self._losses = 0
        """Connections that were lost, since anything was heard."""
        self._is_over = False
        self.letters = Letters(deliver, self._parted)

    def begin(self) -> None:
        """Connect, and stay connected."""
        self._loop.later(self._connect)
        self._timers.call_later(self._sign_s, self._look)

    def _look(self) -> None:
        """Give up a connection that says nothing; ask for a sign on another."""
        if self._is_over:
            return
        self._timers.call_later(self._sign_s, self._look)
        letters = self.letters
        if letters.connection is None:
            return
        if monotonic() - letters.heard_at > 3 * self._sign_s:
            connection = letters.connection
            connection.close()
            letters.lost(connection, "nothing was heard of the driver on the head")
        else:
            letters.ask_for_a_sign()

    def _parted(self, reason: str) -> None:
        if not self._is_over:
            self._try_again()

    def _try_again(self) -> None:
        pause_s = PAUSES_S[min(self._losses, len(PAUSES_S) - 1)]
        self._losses += 1
        self._timers.call_later(pause_s, lambda: self._loop.later(self._connect))
        self._loop.nudge()  # Who reads may wait for longer.

    def _connect(self) -> None:
        """Without the guard: it blocks."""
        if self._is_over:
            return
        silent_s = monotonic() - self.letters.heard_at
        failure: SessionError | None = None
        is_begun = False
        try:
            if self._losses and not self._lives():
                failure = SessionError(
                    f"the driver for this program on {self._head.join.address} is gone, and what "
                    "the program had there: call weft.init() again"
                )
            else:
                self._call(self._head.look_up())
                is_begun = True
        except AuthenticationError as error:
            failure = SessionError(str(error))
        except (WeftError, OSError) as error:
            if silent_s > self._patience_s:
                failure = SessionError(
                    f"{self._head.join.address} was not reached for {silent_s:.0f} s "
                    f"({error_words(error)}), so what the program had there has ended: call "
                    "weft.init() again"
                )
        with self._loop.guard:
            if failure is not None:
                self._is_over = True
                self._failed(failure)
            elif not is_begun:
                self._try_again()

    def _call(self, host: str) -> None:
        """Begin a connection. Without the guard. OSError: there is no way there."""
        with self._loop.guard:
            if self._is_over:
                return
            connection = self._head.connect(
                host,
                self._loop.poller,
                self._arrivals,
                self._name,
                self._received,
                self.letters.lost,
            )
            self.letters.use(connection)

    def _received(self, connection: SecureConnection, messages: Sequence[Message]) -> None:
        self._losses = 0
        self.letters.received(connection, messages)

    def hurry(self) -> None:
        """Be patient for a moment only: the program wants to end."""
        self._patience_s = HURRY_S

    def close(self) -> None:
        """Connect no more; what was said is sent as far as that goes."""
        self._is_over = True
        self.letters.close()
