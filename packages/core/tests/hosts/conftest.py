"""Several hosts on this machine, made of namespaces of the kernel, with cables that can be cut.

    host 1   10.77.0.1 --+
    host 2   10.77.0.2 --+-- a bridge, in a namespace of its own
    host 3   10.77.0.3 --+

Each host has a network, a name, processes, shared memory and a temporary folder of its own, which
no other host sees. All is tied to processes that end with the test: nothing is left, however it
ends.

A cable is cut at the host (its interface goes down), or in one direction: what is sent goes to
an address that no card has, and nobody is told.

`forwarder.py` stands between two hosts where that is asked for: each has the other's address as
one of its own, at which the forwarder takes its calls.
"""

from __future__ import annotations

import contextlib
import json
import os
import select
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

HERE = Path(__file__).parent
NEEDED = ("unshare", "nsenter", "ip", "mount", "faketime")
FOLDER = "/mnt"
"""Of each host's own, in memory."""
STORE = "/dev/shm"
NO_CARD = "02:00:00:00:00:fe"
PORT = 7700
START_S = 30.0


def environment() -> dict[str, str]:
    return {
        **{name: value for name, value in os.environ.items() if not name.startswith("WEFT_")},
        "PYTHONPATH": os.pathsep.join(path for path in sys.path if path),
        "PYTHONDONTWRITEBYTECODE": "1",
        "WEFT_TEMP_DIR": FOLDER,
        "WEFT_SPILL": f"{FOLDER}/spill",
        "WEFT_CHECK": "1",
    }


def checked(*words: str) -> str:
    ended = subprocess.run(words, capture_output=True, text=True, check=False, timeout=START_S)
    assert ended.returncode == 0, f"{' '.join(words)}: {ended.stderr}"
    return ended.stdout


class Space:
    """A first process in namespaces of its own."""

    KINDS: tuple[str, ...] = ("--net",)

    def __init__(self, script: str = "true") -> None:
        run = f'set -e; {script}; exec "$0" "$1"'
        self._outer = subprocess.Popen(
            [
                "unshare", *self.KINDS, "--fork", "--kill-child", "sh", "-c", run,
                sys.executable, str(HERE / "first_process.py"),
            ],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
        )  # fmt: skip
        assert self._outer.stdout is not None
        assert self._outer.stderr is not None
        if self._outer.stdout.readline() != b"ready\n":
            words = self._outer.stderr.read().decode()
            self.end()
            raise OSError(words)
        children = Path(f"/proc/{self._outer.pid}/task/{self._outer.pid}/children")
        self.pid = int(children.read_text())

    def inside(self, *words: str) -> list[str]:
        """Return the command that runs another here."""
        return ["nsenter", f"--target={self.pid}", *self.KINDS, "--", *words]

    def run(self, *words: str) -> str:
        return checked(*self.inside(*words))

    def end(self) -> None:
        """Kill all that runs here."""
        self._outer.kill()
        self._outer.communicate()


class Host(Space):
    KINDS = ("--net", "--uts", "--ipc", "--mount", "--pid")

    def __init__(self, number: int, switch: Space) -> None:
        self.number = number
        self.address = f"10.77.0.{number}"
        self.card = f"02:00:00:00:00:{number:02x}"
        self.name = f"weft-host-{number}"
        # With a forwarder a host has another's address too: it is not to say so on the bridge.
        super().__init__(
            f"mount --make-rprivate /; mount -t proc proc /proc; mount -t tmpfs tmpfs {FOLDER}; "
            "echo 1 >/proc/sys/net/ipv4/conf/all/arp_ignore; "
            f"mount -t tmpfs -o size=2g tmpfs {STORE}; hostname {self.name}; ip link set lo up"
        )
        checked(
            "nsenter", f"--target={switch.pid}", "--net", "--", "ip", "link", "add",
            f"port{number}", "type", "veth", "peer", "name", "eth0", "address", self.card,
            "netns", str(self.pid),
        )  # fmt: skip
        switch.run("ip", "link", "set", f"port{number}", "master", "bridge", "up")
        self.run("ip", "addr", "add", f"{self.address}/24", "dev", "eth0")
        self.run("ip", "link", "set", "eth0", "up")
        self.environment = environment()

    # ------------------------------------------------------------------ programs

    def popen(self, *words: str, **options: Any) -> subprocess.Popen[bytes]:
        return subprocess.Popen(self.inside(*words), env=self.environment, **options)

    def weft(self, *arguments: str, said: str = "") -> str:
        """Run a command of Weft's; it has to end well."""
        ended = self.try_weft(*arguments, said=said)
        assert ended.returncode == 0, f"{arguments}: {ended.stderr}"
        return ended.stdout

    def try_weft(self, *arguments: str, said: str = "") -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            self.inside(sys.executable, "-m", "weft", *arguments),
            env=self.environment,
            input=said,
            capture_output=True,
            text=True,
            check=False,
            timeout=START_S,
        )

    def start(self, join: str = "", *arguments: str) -> Node:
        """Start a node, or without a join string a head."""
        who = ("--address", "-") if join else ("--head",)
        said = self.weft(
            "start", *who, "--host", self.address, "--port", str(PORT), "--format", "json",
            *arguments, said=join,
        )  # fmt: skip
        return Node(self, json.loads(said))

    def let_others_read(self) -> None:
        """Have other users find Python and Weft, also if these lie in somebody's closed home."""
        hidden: dict[Path, list[Path]] = {}
        needed = {Path(each) for each in (sys.prefix, sys.base_prefix, *sys.path)}
        # Not twice what is below another.
        for place in [each for each in needed if each.is_dir() and needed.isdisjoint(each.parents)]:
            for above in reversed(place.parents):
                if not above.stat().st_mode & 0o001:
                    hidden.setdefault(above, []).append(place)
                    break
        self.run("chmod", "1777", FOLDER)
        for above, places in hidden.items():
            kept = [f"{FOLDER}/open/{number}" for number in range(len(places))]
            for place, at in zip(sorted(places), kept, strict=True):
                self.run("mkdir", "-p", at)
                self.run("mount", "--bind", str(place), at)
            self.run("mount", "-t", "tmpfs", "-o", "mode=755", "tmpfs", str(above))
            for place, at in zip(sorted(places), kept, strict=True):
                self.run("mkdir", "-p", str(place))
                self.run("mount", "--bind", at, str(place))

    def python(self, user: int, *words: str, said: str = "") -> subprocess.CompletedProcess[str]:
        """Run Python as a user."""
        who = ("setpriv", f"--reuid={user}", f"--regid={user}", "--clear-groups", "--")
        return subprocess.run(
            self.inside(*who, sys.executable, *words),
            env={**self.environment, "HOME": FOLDER},
            input=said,
            capture_output=True,
            text=True,
            check=False,
            timeout=START_S,
        )

    def processes(self) -> dict[int, str]:
        """Return the processes of this host by their numbers outside, with their commands."""
        space = Path(f"/proc/{self.pid}/ns/pid").readlink()
        found = {}
        for entry in Path("/proc").iterdir():
            with contextlib.suppress(OSError):
                if entry.name.isdigit() and (entry / "ns/pid").readlink() == space:
                    words = (entry / "cmdline").read_bytes().replace(b"\0", b" ")
                    found[int(entry.name)] = words.decode(errors="replace")
        return found

    def daemon(self) -> int:
        """Return the daemon's process: the only one of its kind that is nobody's child."""
        (found,) = self._of_generation(0)
        return found

    def workers(self) -> list[int]:
        """Return the workers: a daemon's template forks them."""
        return self._of_generation(2)

    def control(self) -> list[int]:
        """Return the control service, if it runs."""
        return [pid for pid, words in self.processes().items() if "_control.main" in words]

    def _of_generation(self, wanted: int) -> list[int]:
        nodes = {pid for pid, words in self.processes().items() if "_node.boot" in words}

        def generation(pid: int) -> int:
            words = Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()
            parent = int(words[1])
            return 1 + generation(parent) if parent in nodes else 0

        return [pid for pid in nodes if generation(pid) == wanted]

    # ------------------------------------------------------------------ the cable

    def cut(self) -> None:
        self.run("ip", "link", "set", "eth0", "down")

    def mend(self) -> None:
        self.run("ip", "link", "set", "eth0", "up")

    def cut_off(self, others: list[Host], direction: str) -> Callable[[], None]:
        """Cut it off from the others, in both directions or one; return what mends that."""
        if direction == "both":
            self.cut()
            return self.mend
        says = direction == "what it says"
        pairs = [(self, other) if says else (other, self) for other in others]
        for sender, receiver in pairs:
            sender._know(receiver, NO_CARD)

        def mend() -> None:
            for sender, receiver in pairs:
                sender._know(receiver, receiver.card)

        return mend

    def _know(self, other: Host, card: str) -> None:
        self.run(
            "ip", "neigh", "replace", other.address, "lladdr", card, "nud", "permanent",
            "dev", "eth0",
        )  # fmt: skip

    # ------------------------------------------------------------------ the disk, the clock

    def add_disk(self, size_mib: int) -> None:
        """Have nodes that start here spill to a disk of this size."""
        disk = f"{FOLDER}/spill"
        self.run("mkdir", disk)
        self.run("mount", "-t", "tmpfs", "-o", f"size={size_mib}m", "tmpfs", disk)

    def grow_disk(self, size_mib: int) -> None:
        self.run("mount", "-o", f"remount,size={size_mib}m", f"{FOLDER}/spill")

    def add_clock(self) -> None:
        """Let the time of day of what starts here be set; other clocks go on as they do."""
        (library,) = Path("/usr/lib").glob("*/faketime/libfaketimeMT.so.1")
        self.set_clock("+0")
        self.environment |= {
            "LD_PRELOAD": str(library),
            "FAKETIME_TIMESTAMP_FILE": f"{FOLDER}/clock",
            "FAKETIME_CACHE_DURATION": "1",
            "FAKETIME_DONT_FAKE_MONOTONIC": "1",
            "FAKETIME_DISABLE_SHM": "1",
            # With the fix waits of other clocks end at once: threads spin for the interpreter.
            "FAKETIME_FORCE_MONOTONIC_FIX": "0",
        }

    def set_clock(self, offset: str) -> None:
        """Let the time of day be so many seconds from now, like +60 or -60."""
        at = Path(f"/proc/{self.pid}/root{FOLDER}/clock")
        at.with_suffix(".next").write_text(offset)
        at.with_suffix(".next").rename(at)


class Node:
    """A node of Weft on a host."""

    def __init__(self, host: Host, told: dict[str, Any]) -> None:
        self.host = host
        self.told = told
        self.join: str = told.get("join", "")
        self.session_dir: str = told["session_dir"]

    @property
    def folder(self) -> Path:
        """The session's, as seen from outside."""
        return Path(f"/proc/{self.host.pid}/root{self.session_dir}")

    def log(self) -> str:
        return (self.folder / "daemon.log").read_text()


class Driver:
    """A program on a host that works as it is told."""

    def __init__(self, host: Host, program: str, *arguments: str) -> None:
        self._process = host.popen(
            sys.executable, str(HERE / program), *arguments,
            stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE, bufsize=0,
        )  # fmt: skip
        self._heard = b""
        self.answer(START_S)

    def tell(self, what: str) -> None:
        assert self._process.stdin is not None
        self._process.stdin.write(what.encode() + b"\n")

    def answer(self, within_s: float) -> Any:
        """Return the next line."""
        out = self._process.stdout
        assert out is not None
        until = time.monotonic() + within_s
        while b"\n" not in self._heard:
            left = until - time.monotonic()
            if left <= 0 or not select.select([out], [], [], left)[0]:
                raise AssertionError(f"the driver said nothing for {within_s} s")
            more = os.read(out.fileno(), 1 << 16)
            if not more:
                raise AssertionError(f"the driver ended: {self.end()}")
            self._heard += more
        line, self._heard = self._heard.split(b"\n", 1)
        return json.loads(line)

    def ask(self, what: str, within_s: float = START_S) -> Any:
        self.tell(what)
        return self.answer(within_s)

    def end(self) -> str:
        self._process.kill()
        return self._process.communicate()[1].decode()


class Forwarder:
    """Stands between two hosts, whose nodes listen at `PORT`; see `forwarder.py`."""

    def __init__(self, first: Host, second: Host, middle: Space) -> None:
        for host, other in ((first, second), (second, first)):
            host.run("ip", "addr", "add", f"{other.address}/32", "dev", "lo")
        ends = [f"{host.pid},{host.address}" for host in (first, second)]
        self._process = subprocess.Popen(
            [sys.executable, str(HERE / "forwarder.py"), *ends, str(middle.pid), str(PORT)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
        )
        self._hear()

    def order(self, what: str) -> None:
        assert self._process.stdin is not None
        self._process.stdin.write(what.encode() + b"\n")
        self._process.stdin.flush()
        self._hear()

    def _hear(self) -> None:
        assert self._process.stdout is not None
        assert self._process.stdout.readline() == b"done\n"

    def end(self) -> None:
        self._process.kill()
        self._process.communicate()


class Hosts:
    """All hosts of a test, their nodes and drivers."""

    def __init__(self) -> None:
        self._spaces = contextlib.ExitStack()
        self.switch = self._keep(Space())
        self.switch.run("ip", "link", "add", "bridge", "type", "bridge")
        self.switch.run("ip", "link", "set", "bridge", "up")
        self.switch.run("ip", "addr", "add", "10.77.0.254/24", "dev", "bridge")
        self.all: list[Host] = []
        self.drivers: list[Driver] = []

    def _keep(self, space: Any) -> Any:
        self._spaces.callback(space.end)
        return space

    def add(self) -> Host:
        self.all.append(self._keep(Host(len(self.all) + 1, self.switch)))
        return self.all[-1]

    def put_between(self, first: Host, second: Host) -> Forwarder:
        """Have all that two hosts say to each other go through a forwarder."""
        return self._keep(Forwarder(first, second, self.switch))

    def start_node(self, host: Host, *arguments: str) -> Node:
        return host.start(self.join, "--num-cpus", "2", *arguments)

    def drive(self, host: Host, program: str, *arguments: str) -> Driver:
        self.drivers.append(Driver(host, program, *arguments))
        return self.drivers[-1]

    def close(self) -> None:
        for driver in self.drivers:
            driver.end()
        self._spaces.close()


def check_possible() -> None:
    """Skip the test where hosts cannot be made; fail it in CI."""
    missing = [name for name in NEEDED if shutil.which(name) is None]
    reason = f"there is no {missing[0]} here: .ci/hosts installs it" if missing else ""
    if not reason:
        tried = subprocess.run(
            ["unshare", *Host.KINDS, "--fork", "ip", "link", "add", "type", "bridge"],
            capture_output=True, text=True, check=False, timeout=START_S,
        )  # fmt: skip
        if tried.returncode:
            reason = f"no hosts can be made here: {tried.stderr.strip()}"
    if reason:
        assert not os.environ.get("CI"), reason
        pytest.skip(reason)


@pytest.fixture
def make_cluster() -> Callable[..., Cluster]:
    """Starts the nodes of hosts that a test has prepared."""
    return Cluster


@pytest.fixture
def hosts() -> Iterator[Hosts]:
    """Three hosts without nodes."""
    check_possible()
    made = Hosts()
    try:
        for _ in range(3):
            made.add()
        yield made
    finally:
        made.close()


class Cluster:
    """A node on each of three hosts: the first is the head."""

    def __init__(self, hosts: Hosts, second: tuple[str, ...] = ()) -> None:
        """`second`: what its node is told besides."""
        self.hosts = hosts
        self.head, self.second, self.third = hosts.all
        head = self.start_head()
        self.join = head.join
        self.nodes = [head, self.start_node(self.second, *second), self.start_node(self.third)]

    def start_head(self) -> Node:
        """Start the head, or start it again: it knows what it knew."""
        return self.head.start(
            "", "--num-cpus", "2", "--credentials", f"{FOLDER}/credentials",
            "--journal", f"sqlite:{FOLDER}/journal",
        )  # fmt: skip

    def start_node(self, host: Host, *arguments: str) -> Node:
        return host.start(self.join, "--num-cpus", "2", *arguments)

    def drive(self, host: Host, program: str = "workload.py", *arguments: str) -> Driver:
        return self.hosts.drive(host, program, *arguments)

    def cut_off(self, host: Host, direction: str) -> Callable[[], None]:
        return host.cut_off([other for other in self.hosts.all if other is not host], direction)

    def wait_for_nodes(self, driver: Driver, many: int, within_s: float) -> None:
        """Wait until so many live, as the driver's node knows it."""
        wait_until(lambda: driver.ask("nodes") == many, within_s)


@pytest.fixture
def cluster(hosts: Hosts) -> Cluster:
    """A node on each of three hosts."""
    return Cluster(hosts)


def wait_until(condition: Callable[[], object], within_s: float) -> None:
    until = time.monotonic() + within_s
    while not condition():
        assert time.monotonic() < until, f"waited {within_s} s in vain"
        time.sleep(0.05)


@pytest.fixture
def wait() -> Callable[[Callable[[], object], float], None]:
    """The function that waits for a condition."""
    return wait_until


def kill(pids: list[int]) -> None:
    assert pids
    for pid in pids:
        with contextlib.suppress(ProcessLookupError):
            os.kill(pid, signal.SIGKILL)


@pytest.fixture
def killed() -> Callable[[list[int]], None]:
    """The function that kills processes, of which there has to be one."""
    return kill
