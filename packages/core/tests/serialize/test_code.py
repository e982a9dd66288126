"""Functions and classes to bytes and back, and what is said of those that cannot travel."""

from __future__ import annotations

import io
import json
import platform
import re
import socket
import subprocess
import sys
import textwrap
import threading
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Any, NoReturn

import pytest

from weft._override import override
from weft._serialize import dump_code, dumps, dumps_call, load_code, pickling, unpack
from weft.exceptions import OtherPythonError, PicklingError
from weft.util.check_serialize import inspect_serializability

if TYPE_CHECKING:
    import pathlib

LOCK = threading.Lock()


@dataclass
class Config:
    sock: Any
    name: str = "x"


@pytest.fixture
def sock() -> Any:
    with socket.socket() as made:
        yield made


# ------------------------------------------------------------------ code


def test_code_of_an_importable_function_is_its_name() -> None:
    function_id, code = dump_code(textwrap.dedent)
    assert len(code) < 60
    assert load_code(code) is textwrap.dedent
    assert dump_code(textwrap.dedent) == (function_id, code)
    assert len(function_id) == 16


def test_code_of_a_closure_travels_and_its_id_is_stable() -> None:
    offset = [3]

    def add(x: int, *, y: int = 2) -> int:
        return x + y + offset[0]

    class Counter:
        def __init__(self) -> None:
            self.n = add(1)

    first = dump_code(add)
    assert dump_code(add) == first
    assert load_code(first[1])(1) == 6
    assert dump_code(Counter) == dump_code(Counter)
    assert load_code(dump_code(Counter)[1])().n == 6
    offset[0] = 4
    assert dump_code(add)[0] != first[0]


def test_different_functions_have_different_ids() -> None:
    assert dump_code(lambda: 1)[0] != dump_code(lambda: 2)[0]


@pytest.mark.slow
def test_a_program_runs_its_own_functions_elsewhere(tmp_path: pathlib.Path) -> None:
    """Recursion, globals, classes that refer to each other, and a decorator's wrapper."""
    program = """
        import subprocess, sys
        from weft._serialize import dump_code

        FACTOR = 3
        class Node:
            def __init__(self, depth): self.leaf = Leaf(self) if depth == 0 else Node(depth - 1)
            def sum(self): return FACTOR + self.leaf.sum()
        class Leaf:
            def __init__(self, owner: "Node"): self.owner = type(owner) is Node
            def sum(self): return int(self.owner)
        def decorated(function):
            class Remote:
                def __init__(self, f): self.f = f
                def __call__(self, *a): return self.f(*a)
            return Remote(function)
        @decorated
        def fib(n): return n if n < 2 else fib(n - 1) + fib(n - 2)
        def run(): return fib(10) + Node(2).sum()

        code = dump_code(run)[1]
        child = "import sys; from weft._serialize import load_code; "
        child += "print(load_code(sys.stdin.buffer.read())())"
        out = subprocess.run([sys.executable, "-c", child], input=code, capture_output=True)
        print(out.stdout.decode(), out.stderr.decode())
    """
    file = tmp_path / "program.py"
    file.write_text(textwrap.dedent(program))
    done = subprocess.run([sys.executable, file], capture_output=True, text=True, check=False)
    assert done.stdout.strip() == str(55 + 3 * 3 + 1), done.stdout + done.stderr


# ------------------------------------------------------------------ who is to blame


def blamed(value: Any, **names: str) -> str:
    with pytest.raises(PicklingError) as caught:
        dumps(value, **names)
    assert isinstance(caught.value, TypeError)
    assert str(caught.value).startswith(f"{caught.value.path}: {caught.value.reason}")
    assert "\n" not in str(caught.value)
    return f"{caught.value.path}: {caught.value.reason}"


def test_error_names_the_path_through_closure_and_attribute(sock: Any) -> None:
    cfg = Config(sock)

    def f() -> Any:
        return cfg

    with pytest.raises(PicklingError) as caught:
        dump_code(f)
    path = re.escape("f.__closure__['cfg'].sock")
    assert re.match(rf"{path}: cannot pickle '(_?socket\.)?socket' object", str(caught.value))
    assert caught.value.offender is sock


@pytest.mark.parametrize(
    ("make", "path"),
    [
        (lambda lock: lock, "value"),
        (lambda lock: [1, {"a": (2, lock)}], "value[1]['a'][1]"),
        (lambda lock: {"cfg": Config(lock)}, "value['cfg'].sock"),
        (lambda lock: {lock: 1}, f"value key {'<unlocked _thread.lock'}"),
        (lambda lock: partial(print, 1, end=lock), "value.keywords['end']"),
        (lambda lock: Config(lock).__repr__, "value.__self__.sock"),
        (lambda lock: lambda x=lock: x, "value.__defaults__[0]"),
        (lambda lock: ValueError("x", lock), "value.args[1]"),
        (
            lambda lock: type("Local", (), {"lock": lock, "__qualname__": "a.<locals>.b"}),
            "value.lock",
        ),
        (lambda lock: [Config(Config(Config(lock)))], "value[0].sock.sock.sock"),
    ],
)
def test_error_names_the_path(make: Any, path: str) -> None:
    assert blamed(make(LOCK)).startswith(path)
    assert "cannot pickle '_thread.lock' object" in blamed(make(LOCK))


def test_error_names_the_argument() -> None:
    with pytest.raises(PicklingError, match=r"^args\[1\]\.sock: cannot pickle"):
        dumps_call((1, Config(LOCK)), {})
    with pytest.raises(PicklingError, match=r"^f: kwargs\['x'\]: cannot pickle"):
        dumps_call((1,), {"x": LOCK}, name="f")


def test_error_names_a_global() -> None:
    namespace: dict[str, Any] = {"LOCK": LOCK, "__name__": "__main__"}
    exec("def f():\n  def g(): return LOCK\n  return g()", namespace)
    assert blamed(namespace["f"], name="f").startswith("f.__globals__['LOCK']: cannot pickle")


def test_error_of_the_objects_own_code_is_told() -> None:
    class Stubborn:
        @override
        def __getstate__(self) -> NoReturn:
            raise ValueError("not today")

    assert blamed([Stubborn()]) == "value[0]: its own code raised ValueError: not today"


def test_endless_nesting_is_told() -> None:
    deep: list[Any] = []
    for _ in range(100_000):
        deep = [deep]
    assert blamed(deep) == "value: it is nested too deep (RecursionError)"


def test_circular_values_are_searched_once() -> None:
    value: dict[str, Any] = {}
    value["self"] = value
    value["lock"] = LOCK
    assert blamed(value).startswith("value['lock']")


def test_pickling_error_can_be_pickled_without_its_offender() -> None:
    with pytest.raises(PicklingError) as caught:
        dumps([LOCK])
    found = load_code(dumps(caught.value).pack())
    assert found.path == "value[0]"
    assert found.offender is None


# ------------------------------------------------------------------ inspect_serializability


def test_inspect_serializability_prints_what_is_to_blame(sock: Any) -> None:
    cfg = Config(sock)

    def f() -> Any:
        return cfg, LOCK

    out = io.StringIO()
    fine, failures = inspect_serializability(f, print_file=out)
    assert not fine
    assert {failure.path for failure in failures} >= {"f.__closure__['cfg'].sock"}
    failure = next(each for each in failures if each.path.endswith(".sock"))
    assert failure.obj is sock
    assert failure.parent is cfg
    assert failure.name == failure.path
    lines = out.getvalue().splitlines()
    assert lines[0] == "f cannot be sent to a task:"
    assert any(line.startswith("  f.__closure__['cfg'].sock: cannot pickle") for line in lines)


def test_inspect_serializability_of_something_fine(capsys: pytest.CaptureFixture[str]) -> None:
    assert inspect_serializability([1, 2], name="numbers") == (True, set())
    assert capsys.readouterr().out == "numbers can be sent to a task.\n"


def test_inspect_serializability_goes_as_deep_as_asked() -> None:
    out = io.StringIO()
    _, failures = inspect_serializability([[[[LOCK]]]], name="x", depth=2, print_file=out)
    assert {failure.path for failure in failures} == {"x[0][0]"}


# ------------------------------------------------------------------ another release of Python


def test_code_by_value_of_another_minor_release_is_refused_by_name(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def area(side: int) -> list[int]:
        return [max(side * other for other in range(size)) for size in range(1, side)]

    monkeypatch.setattr(pickling, "PYTHON", "3.99")
    _, code = dump_code(area)
    packed = dumps({"sides": [1, 2], "measure": area}).pack()
    data = dumps({"sides": [1, 2], "named": json.dumps}).pack()
    monkeypatch.undo()
    name = "area"
    for load in (lambda: load_code(code), lambda: unpack(packed)):
        with pytest.raises(OtherPythonError) as refused:
            load()
        told = refused.value
        assert (told.name, told.compiled_by, told.run_by) == (name, "3.99", pickling.PYTHON)
        assert str(told) == (
            f"{name} comes by value from Python 3.99, and this process runs Python "
            f"{pickling.PYTHON}: start all processes with the same minor release, or put {name} "
            "into a module that both can import"
        )
        assert "\n" not in str(told)
    assert unpack(data) == {"sides": [1, 2], "named": json.dumps}


def test_methods_of_a_class_by_value_are_refused_and_a_class_without_any_is_not(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    class Shape:
        sides = 4

    class Square(Shape):
        def area(self) -> int:
            return 4

    monkeypatch.setattr(pickling, "PYTHON", "3.99")
    _, plain = dump_code(Shape)
    _, code = dump_code(Square)
    monkeypatch.undo()
    assert load_code(plain).sides == 4
    with pytest.raises(OtherPythonError, match=r"Square\.area comes by value from Python 3\.99"):
        load_code(code)


def test_release_is_that_of_the_bytecode_without_the_patch() -> None:
    assert ".".join(platform.python_version_tuple()[:2]) == pickling.PYTHON
