"""The session: the one current engine, from `init` to `shutdown`.

What is always true
1. At most one session at a time in a process; `init` and `shutdown` from several threads take
   turns.
2. A call that needs an engine starts a session with the defaults if there is none. Code that an
   inline session runs, and that outlives it, does not.
3. A process that was forked from this one has no session: the engine is not its own.
"""

from __future__ import annotations

import atexit
import os
import platform
import sys
import threading
from typing import TYPE_CHECKING, Any

from msgspec import structs

from weft._api.jobs import JobConfig
from weft._engine import Engine, current
from weft._env.inheritance import inherited
from weft._env.spec import with_environment
from weft._lazy import lazy
from weft._options import InitOptions, init_options, unknown_init_option
from weft._override import override
from weft._runtime.inline import InlineEngine
from weft._runtime.inline_calls import here
from weft._runtime.loggers import LoggingConfig, configure_logger
from weft._serialize.failures import install_excepthook, uninstall_excepthook
from weft._settings import ADDRESS
from weft.exceptions import OptionError, SessionError

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from os import PathLike
    from typing import Self

    from weft._node import finding
    from weft._runtime import local, remote
else:
    # A program that runs inline never loads what worker processes need.
    finding = lazy("weft._node.finding")
    local = lazy("weft._runtime.local")
    remote = lazy("weft._runtime.remote")

__version__ = "0.1.0"
LOCAL = "local"


class _Turns:
    """The lock of `init` and `shutdown`, and whether this process ends its session by itself."""

    __slots__ = ("installed", "lock")

    def __init__(self) -> None:
        self.lock = threading.RLock()
        self.installed = False

    def install(self) -> None:
        """Have the session ended at exit, and forgotten in forked children. Idempotent."""
        if not self.installed:
            self.installed = True
            atexit.register(shutdown)
            if sys.platform != "win32":
                os.register_at_fork(after_in_child=self.forget)

    def forget(self) -> None:
        """Drop the engine in a forked child.

        Its threads and sockets are the parent's, who may hold the lock.
        """
        self.lock = threading.RLock()
        current.engine = None
        current.at_end.clear()


_turns = _Turns()


class ClientContext:
    """What `init` returns: facts about the session. As a context manager it ends the session.

    Attributes:
        dashboard_url: None: there is no dashboard.
        python_version: Of this process.
        ray_version: Weft's version, under the name that programs from Ray ask for.
        ray_commit: Empty.
        address_info: The same facts as a dict, with ids and directories; `context["node_id"]` reads
            it.
    """

    def __init__(
        self,
        dashboard_url: str | None = None,
        python_version: str = "",
        ray_version: str = __version__,
        ray_commit: str = "",
        address_info: Mapping[str, Any] | None = None,
    ) -> None:
        """Hold the facts as they are given."""
        self.dashboard_url = dashboard_url
        self.python_version = python_version or platform.python_version()
        self.ray_version = ray_version
        self.ray_commit = ray_commit
        self.address_info = dict(address_info or {})

    def __getitem__(self, name: str) -> Any:
        return self.address_info[name]

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exc: object) -> None:
        self.disconnect()

    def disconnect(self) -> None:
        """End the session. Blocks until everything that it started is gone."""
        shutdown()

    @override
    def __repr__(self) -> str:
        return f"ClientContext(python {self.python_version}, weft {self.ray_version})"


def init(
    address: str | None = None,
    *,
    num_cpus: int | None = None,
    num_gpus: int | None = None,
    resources: Mapping[str, float] | None = None,
    labels: Mapping[str, str] | None = None,
    object_store_memory: int | None = None,
    local_mode: bool = False,
    ignore_reinit_error: bool = False,
    include_dashboard: bool | None = None,
    dashboard_host: str | None = None,
    dashboard_port: int | None = None,
    job_config: JobConfig | None = None,
    configure_logging: bool = True,
    logging_level: int | str | None = None,
    logging_format: str | None = None,
    logging_config: LoggingConfig | None = None,
    log_to_driver: bool | None = None,
    namespace: str | None = None,
    runtime_env: Mapping[str, Any] | None = None,
    enable_resource_isolation: bool = False,
    cgroup_path: str | None = None,
    system_reserved_cpu: float | None = None,
    system_reserved_memory: int | None = None,
    proxy_server_url: str | None = None,
    preload: Sequence[str] | None = None,
    engine: str | None = None,
    _temp_dir: str | PathLike[str] | None = None,
    _system_config: Mapping[str, Any] | None = None,
    **kwargs: Any,
) -> ClientContext:
    """Start a session. Blocks until the engine is up: 0.1 s with worker processes, 1 ms inline.

    A program need not call this: the first remote call does, with the defaults.

    With an address it joins a node that runs on this machine, with a job of its own: at the end its
    tasks, its objects and its actors that are not detached end, and the node goes on.

    Args:
        address: None: what WEFT_ADDRESS says, else a session of this program's own, as with
            "local". "auto": the node of this machine that `weft start` has started. A join string:
            the node of that cluster on this machine; if there is none, the cluster's head, from
            afar. Or the name or the directory of a session.
        num_cpus: CPUs to hand out; None: those that this process may use.
        num_gpus: GPUs to hand out; None: those that are visible.
        resources: Amounts of resources of your own, by name.
        labels: Labels of this node, for `label_selector`.
        object_store_memory: Bytes of shared memory for objects; None: 30 % of the machine's, at
            most nine tenths of what /dev/shm has free.
        local_mode: Same as `engine="inline"`.
        ignore_reinit_error: Return the session that runs, instead of an error, if there is one.
        include_dashboard: Taken from programs that come from Ray; there is no dashboard.
        dashboard_host: As above.
        dashboard_port: As above.
        job_config: A JobConfig, whose fields stand in for those not given here.
        configure_logging: False: leave the logger "weft" alone.
        logging_level: Of the logger "weft".
        logging_format: Of the logger "weft".
        logging_config: Format and level of this process's root logger, and of the workers'.
        log_to_driver: Show here what workers print.
        namespace: Where names of actors are looked up; None: one of the session's own.
        runtime_env: The environment of every task and actor of the session.
        enable_resource_isolation: Not in this version: True raises.
        cgroup_path: As above.
        system_reserved_cpu: As above.
        system_reserved_memory: As above.
        proxy_server_url: As above.
        preload: Modules that workers have imported before they start, so that they start quicker.
        engine: "local", with worker processes, or "inline", everything in this process. "remote":
            at the head of a cluster from afar, though this machine may have a node of it.
        _temp_dir: Where the session's directory goes.
        _system_config: Ray's internals: not taken.
        **kwargs: Nothing else is taken; an unknown name raises and says which was meant.

    Returns:
        Facts about the session; `with weft.init():` ends it at the end of the block.

    Raises:
        SessionError: There is a session already.
        OptionError: An option is unknown or wrong. Nothing was started.
    """
    given = dict(locals())  # by name, so that each parameter is spelled here and where it counts
    _check(given)
    return _begin(given, _session_options(given))


_PARAMETERS = frozenset(
    ("address", *(name for name in init.__kwdefaults__ or () if not name.startswith("_")))
)
# Taken, so that what they ask for is refused by name.
_UNSUPPORTED = (
    "enable_resource_isolation", "cgroup_path", "system_reserved_cpu", "system_reserved_memory",
    "proxy_server_url", "_system_config",
)  # fmt: skip
# Options of the session as they are given; the others depend on one another.
_OF_A_NODE = (
    "num_cpus", "num_gpus", "resources", "labels", "object_store_memory", "_temp_dir",
)  # fmt: skip
_PLAIN_OPTIONS = (
    "num_cpus", "num_gpus", "resources", "labels", "object_store_memory", "log_to_driver",
    "preload",
)  # fmt: skip


def _check(given: Mapping[str, Any]) -> None:
    """Refuse what `init` cannot do. OptionError."""
    for name in given["kwargs"]:
        raise OptionError(unknown_init_option(name, _PARAMETERS))
    for name in _UNSUPPORTED:
        if given[name]:
            raise OptionError(
                f"{name}={given[name]!r} of init is not supported in this version of Weft: "
                "leave it out"
            )
    engine = given["engine"]
    if given["local_mode"] and engine not in {None, "inline"}:
        raise OptionError(
            f"local_mode=True of init means engine='inline', and engine is {engine!r}: give one"
        )


def _session_options(given: Mapping[str, Any]) -> InitOptions:
    """Return what the session is to be; a JobConfig stands in for what was not given."""
    job = given["job_config"] or JobConfig()
    logging_config = given["logging_config"] or job.logging_config
    options = {
        **{name: given[name] for name in _PLAIN_OPTIONS},
        "address": _address(given),
        "namespace": given["namespace"] or job.namespace,
        "runtime_env": given["runtime_env"] or job.runtime_env,
        "metadata": job.metadata,
        "limits": job._limits(),
        "engine": given["engine"] or ("inline" if given["local_mode"] else None),
        "temp_dir": given["_temp_dir"],
        "logging": logging_config.to_json() if logging_config else None,
    }
    return init_options(with_environment(options, "init"))


def _address(given: Mapping[str, Any]) -> str | None:
    """Return which session is joined; None: one of this program's own. OptionError."""
    address = given["address"]
    if address in {LOCAL, ""} or given["local_mode"] or given["engine"] == "inline":
        if address not in {LOCAL, "", None}:
            raise OptionError(
                f"address={address!r} of init is for worker processes: leave it out, or "
                "engine='inline'"
            )
        return None
    whence = "address"
    if address is None:
        address, whence = ADDRESS.value() or None, ADDRESS.name
    if address is not None:
        refused = [name for name in _OF_A_NODE if given[name] not in (None, {})]
        if refused:
            raise OptionError(
                f"{', '.join(refused)} of init: the program joins a node that runs ({whence}), and "
                "what that has is said by who starts it: leave them out, or pass address='local'"
            )
    return str(address) if address is not None else None


def _begin(given: Mapping[str, Any], options: InitOptions) -> ClientContext:
    """Start the session, unless there is one."""
    with _turns.lock:
        if current.engine is not None:
            if given["ignore_reinit_error"]:
                return _describe(current.engine)
            raise SessionError(
                "weft.init() was called before in this process (or a remote call started a session "
                "by itself): call weft.shutdown() first, or pass ignore_reinit_error=True"
            )
        if given["configure_logging"]:
            configure_logger(given["logging_level"], given["logging_format"])
        if options.logging:
            LoggingConfig.from_json(options.logging).apply()
        return _describe(_start(options))


def shutdown(wait_for_processes: bool = True) -> None:
    """End the session and everything in it: tasks, actors, objects, processes.

    Blocks until they are gone. Idempotent.

    References and handles of the session raise afterwards. It runs by itself when the program ends.

    Args:
        wait_for_processes: Taken from programs that come from Ray: Weft always waits.
    """
    with _turns.lock:
        engine = current.engine
        current.engine = None
        if engine is not None:
            for tell in tuple(current.at_end):
                tell()
            uninstall_excepthook()
            inherited.end()
            engine.shutdown()


def is_initialized() -> bool:
    """Tell whether there is a session. Never blocks."""
    return current.engine is not None


def started() -> Engine:
    """Return the current engine; start a session with the defaults if there is none.

    SessionError in what is left of an inline session that has ended: it starts no other one.
    """
    if current.engine is None and here.get() is not None:
        raise SessionError("the session that this call is part of has ended")
    with _turns.lock:
        if current.engine is not None:
            return current.engine
        return _start(InitOptions(address=ADDRESS.value() or None))


def running() -> Engine:
    """Return the current engine, or raise SessionError."""
    if current.engine is None:
        raise SessionError("there is no session, or it has ended: call weft.init() first")
    return current.engine


def _start(options: InitOptions) -> Engine:
    options = structs.replace(options, runtime_env=inherited.begin(options.runtime_env))
    engine: Engine
    if options.engine == "inline":
        engine = InlineEngine(options)
    elif options.engine == "remote" or (
        options.address is not None and finding.is_foreign(options.address)
    ):
        engine = remote.join_remotely(options)
    elif options.address is not None:
        engine = local.join_node(options, finding.find_session(options.address).directory)
    else:
        engine = local.start_local(options)
    current.engine = engine
    _turns.install()
    install_excepthook()
    return engine


def _describe(engine: Engine) -> ClientContext:
    place = engine.context()
    return ClientContext(
        address_info={
            "address": place.address,
            "gcs_address": place.address,
            "node_id": place.node_id.hex(),
            "job_id": place.job_id.hex(),
            "session_name": place.session,
            "session_dir": place.temp_dir,
            "namespace": place.namespace,
            "webui_url": None,
            "engine": engine.name,
        }
    )
