"""Start a session on this machine.

One helper process, the node's daemon, and this process as its driver.
"""

from __future__ import annotations

import os
import signal
import sys
import threading
from typing import TYPE_CHECKING, Any

from weft._clock import monotonic
from weft._ids import WorkerId
from weft._launch import NodeOptions, Started, start_daemon
from weft._override import override
from weft._runtime.runtime import Runtime
from weft._serialize.refs import hooks
from weft._settings import CAPSULES
from weft._wire.messages import Bye, Output
from weft.exceptions import DaemonDiedError

if TYPE_CHECKING:
    from weft._engine import Engine
    from weft._options import InitOptions

# The daemon's interpreter starts in a tenth of this on a loaded two-core machine.
START_S = 30.0
# Exit hooks of actors run meanwhile; then the daemon ends what is left.
END_S = 10.0


class Driver(Runtime):
    """The user's program in a session that it started."""

    def __init__(self, started: Started, worker_id: WorkerId) -> None:
        super().__init__(
            worker_id=worker_id,
            session_dir=started.session_dir,
            role="driver",
            cluster=None,
        )
        self._started = started
        self._is_lost = False
        self._old_handler: Any = None
        self.on_output = show_output
        self.on_daemon_lost = self._daemon_lost

    def take_interrupts(self) -> None:
        """Keep Ctrl-C out of the runtime's middle, if the program has no handler of its own."""
        is_main = threading.current_thread() is threading.main_thread()
        if is_main and signal.getsignal(signal.SIGINT) is signal.default_int_handler:
            self._old_handler = signal.signal(signal.SIGINT, self._interrupted)

    def _interrupted(self, _number: int, _frame: object) -> None:
        self.guard.interrupt(KeyboardInterrupt())

    def _daemon_lost(self, reason: str) -> None:
        """Fail what waits: nothing can be started or fetched any more. Inside the guard."""
        self._is_lost = True
        error = daemon_died(f"the node daemon is gone ({reason})", self._started.last_words())
        self.fail_everything(error)

    @override
    def shutdown(self) -> None:
        """End the session; see Engine."""
        if self.closing and self.loop.closed:
            return
        self.closing = True
        with self.guard:
            if not self.links.daemon.connection.closed:
                self.peers.send(self.links.daemon, Bye())
                self.peers.flush()
        deadline = monotonic() + END_S
        if not self._is_lost:
            self.loop.wait(self.left, deadline)
        self.close()
        if self._started.process.wait(max(0.1, deadline - monotonic())) is None:
            self._started.process.kill()
            self._started.process.wait(1.0)
        if self._old_handler is not None and signal.getsignal(signal.SIGINT) == self._interrupted:
            signal.signal(signal.SIGINT, self._old_handler)
        hooks.reset()


def daemon_died(what: str, words: str) -> DaemonDiedError:
    """Return the error that says so, with the daemon's last line; the rest is a note."""
    *before, last = words.splitlines() or [""]
    why = f": {last.strip()}" if last else ""
    error = DaemonDiedError(f"{what}{why}; call weft.init() again")
    if before:
        error.add_note(words)
    return error


def show_output(output: Output) -> None:
    """Write what a worker wrote where the program's own output goes.

    On a terminal with a prefix.
    """
    stream = sys.stderr if output.is_stderr else sys.stdout
    text = output.data.decode(errors="replace")
    if stream.isatty():
        prefix = f"({output.label or 'worker'} pid={output.pid}) "
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
        runtime_env=options.runtime_env,
        temp_dir=options.temp_dir,
    )
    started = start_daemon(node=node)
    if started.warning:
        sys.stderr.write(f"weft: {started.warning}\n")
    driver = Driver(started, WorkerId(os.urandom(16)))
    driver.start(started.address)
    if not driver.loop.wait(driver.welcomed, monotonic() + START_S) or driver.welcome is None:
        words = started.last_words() or f"it said nothing for {START_S:g} s"
        driver.close()
        started.process.kill()
        raise daemon_died("the node daemon did not start", words)
    driver.take_interrupts()
    return driver
