"""Start a session on this machine, or join a node that runs here.

A session is one helper process, the node's daemon, and this process as its driver. A node that was
started by itself has as many drivers as join it, and lives on when they end.
"""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING

from weft._clock import monotonic
from weft._ids import WorkerId
from weft._launch import (
    ClusterFile,
    DaemonProcess,
    NodeOptions,
    home_of,
    last_words,
    read_cluster,
    start_daemon,
)
from weft._override import override
from weft._runtime.interrupts import Interrupts
from weft._runtime.jobs import begins_job
from weft._runtime.runtime import Runtime
from weft._runtime.tools import Tool
from weft._serialize.refs import hooks
from weft._settings import CAPSULES
from weft._transport.addresses import DAEMON_SOCKET
from weft._wire.messages import Bye, Message, Output
from weft.exceptions import DaemonDiedError, SessionError

if TYPE_CHECKING:
    from weft._engine import Engine
    from weft._options import InitOptions

# The daemon's interpreter starts in a tenth of this on a loaded two-core machine.
START_S = 30.0
# Exit hooks of actors run meanwhile; then the daemon ends what is left.
END_S = 10.0


class Driver(Runtime):
    """The user's program, in a session that it started or has joined."""

    def __init__(
        self,
        session_dir: str,
        cluster: ClusterFile | None,
        process: DaemonProcess | None,
        worker_id: WorkerId | None = None,
    ) -> None:
        """Begin one.

        `process`: the daemon that it has started, which ends with it; None: it has joined.
        `worker_id`: None: it draws one.
        """
        super().__init__(
            worker_id=worker_id or WorkerId.from_random(),
            session_dir=session_dir,
            role="driver",
            cluster=cluster,
        )
        self._session_dir = session_dir
        self._process = process
        self._is_lost = False
        self._interrupts = Interrupts(self.guard)
        self.on_output = show_output
        self.on_daemon_lost = self._daemon_lost

    def begin(self, address: str, first: Message | None = None) -> None:
        """Connect to the daemon, say `first`, and wait to be welcomed. DaemonDiedError."""
        self.start(address)
        if first is not None:
            with self.guard:
                self.links.tell_daemon(first)
        in_time = self.loop.wait(self.welcomed, monotonic() + START_S)
        if in_time and self.welcome is not None:
            self._interrupts.begin()
            return
        words = last_words(self._session_dir) or f"it said nothing for {START_S:g} s"
        self.close()
        if self._process is not None:
            self._process.kill()
            raise daemon_died("the node daemon did not start", words)
        raise daemon_died("the node daemon did not let this driver join", words)

    def _daemon_lost(self, reason: str) -> None:
        """Fail what waits: nothing can be started or fetched any more. Inside the guard."""
        self._is_lost = True
        error = daemon_died(f"the node daemon is gone ({reason})", last_words(self._session_dir))
        self.fail_everything(error)

    def leave(self, deadline: float) -> None:
        """Say goodbye, and wait until what was this driver's has ended."""
        self.closing = True
        with self.guard:
            if not self.links.daemon.connection.closed:
                self.peers.send(self.links.daemon, Bye())
                self.peers.flush()
        if not self._is_lost:
            self.loop.wait(self.left, deadline)

    @override
    def shutdown(self) -> None:
        """End the session, or this driver's part in it; see Engine."""
        if self.closing and self.loop.closed:
            return
        deadline = monotonic() + END_S
        self.leave(deadline)
        self.close()
        process = self._process
        if process is not None and process.wait(max(0.1, deadline - monotonic())) is None:
            process.kill()
            process.wait(1.0)
        self._interrupts.end()
        hooks.reset()


def daemon_died(what: str, words: str, advice: str = "call weft.init() again") -> DaemonDiedError:
    """Return the error that says so, with the daemon's last line; the rest is a note."""
    *before, last = words.splitlines() or [""]
    why = f": {last.strip()}" if last else ""
    error = DaemonDiedError(f"{what}{why}; {advice}")
    if before:
        error.add_note(words)
    return error


def show_output(output: Output) -> None:
    """Write what a worker wrote where the program's own output goes.

    On a terminal with a prefix: (f pid=12), or (f pid=12, node=10.0.0.7:41234) of another node.
    """
    stream = sys.stderr if output.is_stderr else sys.stdout
    text = output.data.decode(errors="replace")
    if stream.isatty():
        at = f", node={output.node}" if output.node else ""
        prefix = f"({output.label or 'worker'} pid={output.pid}{at}) "
        text = "".join(prefix + line for line in text.splitlines(keepends=True))
    stream.write(text)
    stream.flush()


def start_local(options: InitOptions) -> Engine:
    """Start a daemon and connect to it.

    DaemonDiedError, with its last words, if it does not come up.
    """
    node = NodeOptions(
        num_cpus=options.num_cpus,
        num_gpus=options.num_gpus,
        resources=options.resources,
        labels=options.labels,
        object_store_memory=options.object_store_memory,
        namespace=options.namespace,
        # Workers have imported what leaves capsules before a task fails.
        preload=(*options.preload, *(["weft._runtime.job_capsules"] if CAPSULES.value() else [])),
        log_to_driver=options.log_to_driver,
        logging=options.logging,
        limits=options.limits,
        runtime_env=options.runtime_env,
        temp_dir=options.temp_dir,
    )
    started = start_daemon(node=node)
    if started.warning:
        sys.stderr.write(f"weft: {started.warning}\n")
    driver = Driver(started.session_dir, None, started.process)
    driver.begin(started.address)
    return driver


def join_node(options: InitOptions, session_dir: str) -> Engine:
    """Be a driver of a node of this machine that runs already, with a job of one's own.

    SessionError if it is gone.
    """
    cluster = read_cluster(session_dir)
    daemon = home_of(session_dir, cluster).daemon_address() if cluster is not None else ""
    first = begins_job(options, daemon)
    # The daemon may be starting: it answers when callers from other nodes can be taken.
    with Tool(session_dir, START_S) as tool:
        tool.ask("session")
    try:
        driver = Driver(session_dir, cluster, None)
        driver.begin(f"{session_dir}/{DAEMON_SOCKET}", first)
    except OSError as error:
        raise SessionError(
            f"the node in {session_dir} cannot be joined: {error.strerror}; see `weft status`"
        ) from None
    if options.preload:
        driver.preload(options.preload)
    return driver
