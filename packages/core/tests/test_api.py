"""The API's own part: what it hands to the engine, and what it refuses before."""

import asyncio
import copy
import inspect
import logging
import os
import pickle
import subprocess
import sys
import textwrap
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

import weft
from weft._api.signatures import ANY_ARGUMENTS, checker, parameters_of
from weft._engine import current
from weft._specs import CallSpec, TaskSpec
from weft.actor import ActorHandle
from weft.exceptions import CrossLanguageError, OptionError, SessionError, TaskError, WeftError
from weft.job_config import JobConfig
from weft.remote_function import RemoteFunction


@pytest.fixture
def inline() -> Iterator[None]:
    weft.init(engine="inline", num_cpus=2)
    yield
    weft.shutdown()


class Recording:
    """An engine that notes what it is handed."""

    name = "recording"

    def __init__(self) -> None:
        self.specs: list[Any] = []

    def submit(self, spec: TaskSpec) -> list[str]:
        self.specs.append(spec)
        return ["ref"] * spec.options.num_returns  # type: ignore[operator]  # numbers alone here

    def call(self, spec: CallSpec) -> list[str]:
        self.specs.append(spec)
        return ["ref"]

    def create_actor(self, spec: Any) -> None:
        self.specs.append(spec)

    def shutdown(self) -> None:
        pass


@pytest.fixture
def engine() -> Iterator[Recording]:
    recording = Recording()
    current.engine = recording  # type: ignore[assignment]  # as much of an engine as is needed
    yield recording
    current.engine = None


# ------------------------------------------------------------------ signatures


def test_stub_takes_what_the_function_takes() -> None:
    def function(
        a: int, /, b: int, c: int = 1, *rest: int, d: int, e: int = 2, **more: int
    ) -> None: ...

    stub = checker(parameters_of(function), "function")
    assert str(inspect.signature(stub)) == "(a, /, b, c=None, *rest, d, e=None, **more)"


@pytest.mark.parametrize(
    "function",
    [
        lambda: 1,
        lambda a: a,
        lambda a, b=1: a,
        lambda *, a: a,
        lambda *, a=1, b: a,
        lambda a, /: a,
        lambda a, /, b: a,
        lambda *args: args,
        lambda **kwargs: kwargs,
        lambda a, *args, b, **kwargs: a,
    ],
)
def test_stub_agrees_with_python(function: Callable[..., Any]) -> None:
    stub = checker(parameters_of(function), "f")
    for args in [(), (1,), (1, 2), (1, 2, 3)]:
        for kwargs in [{}, {"a": 1}, {"b": 1}, {"a": 1, "b": 2}, {"c": 3}]:
            assert fits(stub, args, kwargs) == fits(function, args, kwargs)


def fits(function: Callable[..., Any], args: tuple[Any, ...], kwargs: dict[str, Any]) -> bool:
    try:
        function(*args, **kwargs)
    except TypeError:
        return False
    return True


def test_stub_names_the_users_function() -> None:
    with pytest.raises(TypeError, match=r"^Counter\.add\(\) missing 1 required .* 'by'$"):
        checker(parameters_of(lambda by: by), "Counter.add")()


def test_what_has_no_signature_takes_anything() -> None:
    assert parameters_of(dict) == ANY_ARGUMENTS
    checker(ANY_ARGUMENTS, "dict")(1, 2, a=3)


def test_first_parameter_of_a_method_is_left_out() -> None:
    assert [each.name for each in parameters_of(lambda self, a: a, without_first=True)] == ["a"]


# ------------------------------------------------------------------ what engines are handed


def test_wrong_arguments_send_nothing(engine: Recording) -> None:
    function = weft.remote(lambda a: a)
    with pytest.raises(TypeError):
        function.remote()
    with pytest.raises(TypeError):
        weft.remote(Plain).remote(1, 2)  # type: ignore[call-arg]
    assert engine.specs == []


def test_task_is_handed_over_with_code_and_shape_made_once(engine: Recording) -> None:
    function = weft.remote(num_cpus=2)(lambda a, b=1: a)
    assert function.remote(3, b=4) == "ref"
    function.remote(5)
    first, second = engine.specs
    assert (first.args, first.kwargs, second.args) == ((3,), {"b": 4}, (5,))
    assert first.code is second.code
    assert first.shape is second.shape
    assert dict(first.shape.amounts) == {"CPU": 20_000}


def test_options_share_the_code(engine: Recording) -> None:
    function = weft.remote(lambda: 1)
    function.remote()
    function.options(num_returns=3).remote()
    assert engine.specs[0].code is engine.specs[1].code
    assert function.options(num_returns=3).remote() == ["ref"] * 3
    assert function.options(num_returns=0).remote() is None


def test_call_is_handed_over_with_the_methods_options(engine: Recording) -> None:
    class Worker:
        @weft.method(concurrency_group="io", max_task_retries=4, retry_exceptions=[KeyError])
        def work(self, a: int) -> None: ...

        def plain(self) -> None: ...

    made = weft.remote(concurrency_groups={"io": 2}, max_task_retries=7)(Worker).remote()
    made.work.options(name="n", timeout=2).remote(1)
    made.plain.remote()
    _, call, plain = engine.specs
    assert (call.method, call.args, call.concurrency_group) == ("work", (1,), "io")
    assert (call.max_task_retries, call.retry_exceptions) == (4, (KeyError,))
    assert (call.name, call.timeout_s) == ("n", 2)
    assert (plain.max_task_retries, plain.retry_exceptions, plain.name) == (
        7,
        False,
        "Worker.plain",
    )


def test_method_of_a_handle_is_made_once_and_keeps_no_cycle(engine: Recording) -> None:
    handle: Any = weft.remote(Plain).remote()
    assert handle.work is handle.work
    assert handle not in (value for value in vars(handle).values())


class Plain:
    """Plain."""

    def work(self) -> int:
        return 1


# ------------------------------------------------------------------ remote functions and classes


def test_remote_function_travels_by_plain_pickle() -> None:
    again = pickle.loads(pickle.dumps(weft.remote(num_cpus=3)(os.getpid)))
    assert isinstance(again, RemoteFunction)
    assert again._options.num_cpus == 3


def test_remote_class_keeps_name_doc_and_class() -> None:
    made = weft.remote(Plain)
    assert (made.__name__, made.__doc__) == ("Plain", "Plain.")
    assert made.__wrapped__ is Plain
    assert repr(made) == "ActorClass(Plain)"


@pytest.mark.parametrize("made", [weft.remote(Plain), weft.remote(len)])
def test_what_is_remote_cannot_be_made_remote_again(made: Any) -> None:
    with pytest.raises(TypeError, match="already"):
        weft.remote(made)


@pytest.mark.parametrize("args", [(), (1, 2), (len, len)])
def test_decorator_says_how_it_is_written(args: tuple[Any, ...]) -> None:
    with pytest.raises(TypeError, match=r"weft\.remote"):
        weft.remote(*args)  # type: ignore[call-overload]


def test_method_says_how_it_is_written() -> None:
    with pytest.raises(TypeError, match=r"@weft\.method"):
        weft.method(3)  # type: ignore[call-overload]


def test_options_of_actors_are_refused_for_functions() -> None:
    with pytest.raises(OptionError, match="max_restarts of len is an option of an actor"):
        weft.remote(max_restarts=1)(len)


def test_handles_can_be_copied(inline: None) -> None:
    handle: Any = weft.remote(Plain).remote()
    assert copy.copy(handle) is handle
    assert copy.deepcopy([handle])[0] is handle
    assert not hasattr(handle, "__array__")


def test_other_languages_are_refused() -> None:
    with pytest.raises(CrossLanguageError, match="Python only"):
        weft.java_function("A", "b")
    with pytest.raises(CrossLanguageError, match="Python only"):
        weft.cpp_function("b")
    assert weft.Language.PYTHON.name == "PYTHON"


def test_ids_have_rays_names() -> None:
    for kind in (weft.ActorID, weft.JobID, weft.NodeID, weft.ObjectID, weft.TaskID, weft.WorkerID):
        drawn = kind.from_random()
        assert kind.from_hex(drawn.hex()) == kind.from_binary(drawn.binary()) == drawn
        assert kind.nil().is_nil()


# ------------------------------------------------------------------ sessions


def test_init_returns_facts_and_ends_the_session_with_the_block() -> None:
    with weft.init(engine="inline", namespace="mine") as context:
        assert context["namespace"] == "mine"
        assert context["engine"] == "inline"
        assert context.ray_version == weft.__version__
        assert context.python_version.startswith(f"{sys.version_info.major}.")
        assert context.dashboard_url is None
    assert not weft.is_initialized()


def test_shutdown_without_a_session_does_nothing() -> None:
    weft.shutdown()
    weft.shutdown()


def test_unknown_keyword_of_init_names_the_nearest() -> None:
    with pytest.raises(OptionError, match="num_cpus"):
        weft.init(num_cpu=1)
    with pytest.raises(OptionError, match=r"did you mean address\?"):
        weft.init(adress="auto")
    assert not weft.is_initialized()


@pytest.mark.parametrize(
    "given",
    [
        {"address": "auto", "num_cpus": 1},
        {"address": "auto", "engine": "inline"},
        {"address": "10.0.0.1:6379"},
        {"enable_resource_isolation": True},
        {"_system_config": {"a": 1}},
        {"local_mode": True, "engine": "local"},
        {"engine": "inline", "runtime_env": {"env_vars": {"A": "1"}}},
        {"num_cpus": -1},
    ],
)
def test_what_init_cannot_do_is_refused_before_anything_starts(given: dict[str, Any]) -> None:
    with pytest.raises(OptionError, match=next(iter(given)).replace("engine", "runtime_env")):
        weft.init(**given)
    assert not weft.is_initialized()


def test_local_mode_is_the_inline_engine() -> None:
    with weft.init(local_mode=True) as context:
        assert context["engine"] == "inline"


def test_dashboard_options_are_taken_and_change_nothing() -> None:
    with weft.init(
        "local",
        engine="inline",
        include_dashboard=False,
        dashboard_host="0.0.0.0",
        dashboard_port=8265,
    ) as context:
        assert context.dashboard_url is None


def test_job_config_stands_in_for_what_is_not_given() -> None:
    config = JobConfig(ray_namespace="from job", metadata={"a": "b"})
    with weft.init(engine="inline", job_config=config) as context:
        assert context["namespace"] == "from job"
    with weft.init(engine="inline", job_config=config, namespace="own") as context:
        assert context["namespace"] == "own"


@pytest.mark.parametrize(
    ("limits", "words"),
    [
        ({"quota": {"CPU": -1}}, "quota={'CPU': -1} of JobConfig cannot be"),
        ({"quota": {"CPU": "1"}}, "has to hold numbers, and 'CPU' is '1'"),
        ({"quota": {"CPU": True}}, "has to hold numbers, and 'CPU' is True"),
        ({"quota": [1]}, "has to be a dict of amounts by name"),
        ({"weight": 0}, "weight=0 of JobConfig has to be a whole number from 1 to 1,000,000"),
        ({"weight": 1.5}, "weight=1.5 of JobConfig has to be a whole number"),
        ({"priority": "high"}, "priority='high' of JobConfig has to be a whole number from -1,000"),
    ],
)
def test_wrong_limits_of_a_job_are_refused(limits: dict[str, Any], words: str) -> None:
    with pytest.raises(OptionError) as raised:
        JobConfig(**limits)
    assert words in str(raised.value)
    config = JobConfig(quota={"CPU": 2})
    for name, value in limits.items():
        setattr(config, name, value)
    with pytest.raises(OptionError), weft.init(engine="inline", job_config=config):
        pass


def test_job_config_is_made_of_json() -> None:
    config = JobConfig.from_json({"namespace": "n", "runtime_env": {"env_vars": {"A": "1"}}})
    assert (config.namespace, config.runtime_env) == ("n", {"env_vars": {"A": "1"}})
    with pytest.raises(OptionError, match="lifetime"):
        config.set_default_actor_lifetime("detached")


def test_logging_level_is_that_of_wefts_logger() -> None:
    with weft.init(engine="inline", logging_level="ERROR"):
        assert logging.getLogger("weft").level == logging.ERROR
    logging.getLogger("weft").setLevel(logging.NOTSET)


def test_logging_config_survives_json_and_refuses_unknown_encodings() -> None:
    config = weft.LoggingConfig("JSON", "DEBUG", ["name"])
    again = weft.LoggingConfig.from_json(config.to_json())
    assert again.to_dict() == config.to_dict()
    with pytest.raises(OptionError, match="encoding"):
        weft.LoggingConfig("XML")


def test_references_of_an_ended_session_are_refused() -> None:
    with weft.init(engine="inline"):
        ref = weft.put([1])
    for verb in (weft.get, lambda ref: weft.wait([ref])):
        with pytest.raises(SessionError, match="ended"):
            verb(ref)
        with weft.init(engine="inline"), pytest.raises(SessionError, match="ended"):
            verb(ref)
    assert not weft.is_initialized()


def test_handles_of_an_ended_session_are_refused() -> None:
    with weft.init(engine="inline"):
        handle: Any = weft.remote(Plain).remote()
    with pytest.raises(SessionError, match="ended"):
        handle.work.remote()
    with pytest.raises(SessionError, match="ended"):
        weft.kill(handle)


def test_cluster_facts_need_a_session() -> None:
    for verb in (weft.nodes, weft.cluster_resources, weft.available_resources, weft.timeline):
        with pytest.raises(SessionError, match=r"weft\.init"):
            verb()


def test_threads_that_start_a_session_at_once_start_one(monkeypatch: pytest.MonkeyPatch) -> None:
    started: list[Any] = []

    def start_local(options: Any) -> Any:
        started.append(Recording())
        return started[-1]

    monkeypatch.setattr("weft._api.session.local.start_local", start_local)
    function = weft.remote(lambda: 1)
    threads = [threading.Thread(target=function.remote) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    weft.shutdown()
    assert len(started) == 1
    assert len(started[0].specs) == 8


# ------------------------------------------------------------------ the inline engine's own


def test_breakpoint_works_in_an_inline_task(tmp_path: Path) -> None:
    script = tmp_path / "program.py"
    script.write_text(
        textwrap.dedent(
            """
            import weft
            weft.init(engine="inline")

            @weft.remote
            def task(secret):
                breakpoint()
                return secret

            print("got", weft.get(task.remote(42)))
            """
        )
    )
    done = subprocess.run(
        [sys.executable, script],
        input="p secret + 1\nc\n",
        capture_output=True,
        text=True,
        check=True,
        timeout=60,
    )
    assert "43" in done.stdout
    assert "got 42" in done.stdout


def test_hello_world_is_quiet_and_leaves_nothing(tmp_path: Path) -> None:
    code = (
        "import weft; weft.init(engine='inline'); print(weft.get(weft.remote(lambda: 1).remote()))"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True, timeout=60
    )
    assert (done.stdout, done.stderr) == ("1\n", "")


def test_inline_refuses_what_needs_processes(inline: None) -> None:
    with pytest.raises(OptionError, match=r"timeout=1.* inline"):
        weft.remote(timeout=1)(len).remote([])
    with pytest.raises(OptionError, match=r"runtime_env=.* inline"):
        weft.remote(runtime_env={"env_vars": {"A": "1"}})(len).remote([])
    with pytest.raises(OptionError, match=r"runtime_env of Plain.* inline"):
        weft.remote(runtime_env={"env_vars": {"A": "1"}})(Plain).remote()


def test_inline_names_a_deadlock_instead_of_waiting(inline: None) -> None:
    class Selfish:
        def outer(self) -> int:
            return weft.get(weft.get_runtime_context().current_actor.inner.remote())  # type: ignore[no-any-return]

        def inner(self) -> int:
            return 1

    selfish: Any = weft.remote(Selfish).remote()
    with pytest.raises(WeftError, match=r"deadlock: Selfish\.inner waits until Selfish is free"):
        weft.get(selfish.outer.remote())


def test_story_of_three_nested_tasks_is_short(inline: None) -> None:
    @weft.remote
    def through(level: int) -> Any:
        if level == 0:
            raise ValueError("at the bottom")
        return weft.get(through.remote(level - 1))

    with pytest.raises(ValueError, match="at the bottom") as caught:
        weft.get(through.remote(2))
    assert isinstance(caught.value, TaskError)
    story = "\n".join(caught.value.__notes__)
    assert 3 <= len(story.splitlines()) <= 15
    assert "weft/_" not in story


def test_ctrl_c_in_an_inline_task_reaches_the_program(inline: None) -> None:
    @weft.remote
    def interrupted() -> None:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        interrupted.remote()
    assert weft.get(weft.remote(len).remote([])) == 0


def test_inline_gpus_are_numbered(inline: None) -> None:
    weft.shutdown()
    with weft.init(engine="inline", num_gpus=2):
        assert weft.get(weft.remote(num_gpus=2)(weft.get_gpu_ids).remote()) == [0, 1]


def test_inline_engine_leaves_no_threads() -> None:
    class Async:
        async def work(self) -> int:
            await asyncio.sleep(0)
            return 1

        def __weft_terminate__(self) -> None:
            ended.append(1)

    ended: list[int] = []
    before = threading.active_count()
    with weft.init(engine="inline"):
        made: Any = weft.remote(Async).remote()
        threaded: Any = weft.remote(max_concurrency=2)(Plain).remote()
        assert weft.get([made.work.remote(), threaded.work.remote()]) == [1, 1]
    for thread in threading.enumerate():
        if thread.name.startswith("weft-"):
            thread.join(10)
    assert threading.active_count() == before
    assert ended == [1]
    assert isinstance(made, ActorHandle)


def test_forked_child_has_no_session(inline: None) -> None:
    pid = os.fork()
    if pid == 0:
        os._exit(3 if weft.is_initialized() else 0)
    assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == 0
    assert weft.is_initialized()
