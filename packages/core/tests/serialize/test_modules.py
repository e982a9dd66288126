"""Modules that other processes cannot import: which they are, and how their code travels."""

from __future__ import annotations

import subprocess
import sys
import textwrap
from typing import TYPE_CHECKING, Any

import cloudpickle
import pytest

from weft._serialize import dump_code, dumps, load_code, unpack, unpack_failure
from weft._serialize.modules import goes_by_value
from weft.exceptions import PicklingError, TaskError

if TYPE_CHECKING:
    import pathlib
    from collections.abc import Callable, Iterator

# ------------------------------------------------------------------ which they are


@pytest.mark.parametrize(
    "name",
    ["builtins", "sys", "os.path", "posixpath", "xml.dom", "_thread", "pytest", "weft._serialize"],
)
def test_what_was_imported_is_found_again(name: str) -> None:
    assert not goes_by_value(name)


@pytest.mark.parametrize("name", [None, "__main__", "__mp_main__", "no_such_module", "no.such"])
def test_the_program_and_what_is_nowhere_go_by_value(name: str | None) -> None:
    assert goes_by_value(name)


def test_modules_made_by_hand_are_not_found(make_module: Any) -> None:
    make_module("made_for_test")
    make_module("made_for_test.inside")
    assert goes_by_value("made_for_test")
    assert goes_by_value("made_for_test.inside")


def test_a_file_is_found_if_the_search_leads_to_it(
    load_module: Any, tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    load_module("in_tmp_path")
    assert goes_by_value("in_tmp_path")
    load_module("on_the_path")
    monkeypatch.syspath_prepend(tmp_path)
    assert not goes_by_value("on_the_path")


def test_a_link_leads_to_its_file(
    load_module: Any, tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    load_module("linked_for_test")
    (tmp_path / "link").symlink_to(tmp_path)
    monkeypatch.syspath_prepend(tmp_path / "link")
    assert not goes_by_value("linked_for_test")


def test_a_file_or_folder_of_the_same_name_elsewhere_does_not_count(
    load_module: Any, tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "path" / "twin_folder").mkdir(parents=True)
    (tmp_path / "path" / "twin_file.py").touch()
    monkeypatch.syspath_prepend(tmp_path / "path")
    for name in ("twin_file", "twin_folder"):
        load_module(name)
        assert goes_by_value(name)


def test_a_part_of_a_package_is_found_with_it_unless_its_file_is_elsewhere(
    make_module: Any, load_module: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    make_module("json.made_for_test")
    monkeypatch.setitem(sys.modules, "json.second_name_for_test", textwrap)
    load_module("json.loaded_for_test")
    assert not goes_by_value("json.made_for_test")
    assert not goes_by_value("json.second_name_for_test")
    assert goes_by_value("json.loaded_for_test")


def test_a_package_goes_by_value_with_its_parts(
    load_module: Any,
) -> None:
    load_module("package_for_test", file="package_for_test/__init__.py")
    load_module("package_for_test.part", file="package_for_test/part.py")
    assert goes_by_value("package_for_test.part")
    assert goes_by_value("package_for_test")


def test_a_package_on_the_path_is_found_with_its_parts(
    load_module: Any, tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    load_module("package_for_test", file="package_for_test/__init__.py")
    load_module("package_for_test.part", file="package_for_test/part.py")
    monkeypatch.syspath_prepend(tmp_path)
    assert not goes_by_value("package_for_test.part")
    assert not goes_by_value("package_for_test")


def test_finders_are_asked_again_when_the_name_stands_for_another_module(
    load_module: Any, tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "path").mkdir()
    monkeypatch.syspath_prepend(tmp_path / "path")
    for folder, expected in [("other", True), ("path", False), ("another", True)]:
        load_module("again_for_test", file=f"{folder}/again_for_test.py")
        assert goes_by_value("again_for_test") is expected


def test_finders_are_asked_once_and_import_nothing(
    make_module: Any, tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: list[str] = []

    class Finder:
        def find_spec(self, name: str, path: Any = None, target: Any = None) -> None:
            asked.append(name)

    monkeypatch.setattr(sys, "meta_path", [object(), Finder(), *sys.meta_path])
    (tmp_path / "never_imported.py").write_text("1 / 0")
    monkeypatch.syspath_prepend(tmp_path)
    make_module("asked_for_test")
    for _ in range(3):
        assert goes_by_value("asked_for_test")
        assert not goes_by_value("never_imported")
    assert asked == ["asked_for_test", "never_imported"]
    assert "never_imported" not in sys.modules


# ------------------------------------------------------------------ how their code travels

SOURCE = """
    import enum
    from dataclasses import dataclass
    from typing import Generic, TypeVar

    FACTOR = 3
    T = TypeVar("T")

    def scale(x): return FACTOR * x
    def scale_twice(x): return scale(scale(x))
    def count_down(n): return n and count_down(n - 1)

    class Shape:
        def area(self): return scale(self.side())
        def side(self): return 1
    class Square(Shape):
        def __init__(self, length): self.length = length
        def side(self): return super().side() + self.length
    class Box(Generic[T]):
        def __init__(self, item: T): self.item = item
    @dataclass(frozen=True)
    class Point:
        x: int
        y: int = 2
    class Colour(enum.Enum):
        RED = "r"
        def paint(self): return self, Colour.RED
    class Odd(ValueError):
        def __init__(self, number, reason): self.number = number; super().__init__(reason)

    def make_square(length): return Square(length)
    def move(point): return Point(point.x + 1)
    def refuse(number): raise Odd(number, "it is odd")
    def is_here(module_name): import sys; return module_name in sys.modules
"""


@pytest.fixture(params=["made by hand", "loaded from a file"])
def module(request: pytest.FixtureRequest, make_module: Any, load_module: Any) -> Any:
    """A module that another process cannot import."""
    make = make_module if request.param == "made by hand" else load_module
    return make("nowhere_for_test", textwrap.dedent(SOURCE))


CHILD = """
    import sys
    from weft._serialize import dumps, load_code, pack_failure, unpack

    def read():
        return sys.stdin.buffer.read(int.from_bytes(sys.stdin.buffer.read(4), "little"))

    while code := read():
        arguments = read()
        try:
            answer = b"+" + dumps(load_code(code)(*unpack(arguments))).pack()
        except Exception as error:
            answer = b"-" + pack_failure(error, task="t")
        sys.stdout.buffer.write(len(answer).to_bytes(4, "little") + answer)
        sys.stdout.buffer.flush()
"""


@pytest.fixture(scope="module")
def call_elsewhere() -> Iterator[Callable[..., Any]]:
    """The function that calls a function in another process: call_elsewhere(function, *args)."""
    command = [sys.executable, "-c", textwrap.dedent(CHILD)]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as child:
        assert child.stdin is not None
        assert child.stdout is not None
        pipe, answers = child.stdin, child.stdout

        def call(function: Any, *args: Any) -> Any:
            for packed in (dump_code(function)[1], dumps(args).pack()):
                pipe.write(len(packed).to_bytes(4, "little") + packed)
            pipe.flush()
            answer = answers.read(int.from_bytes(answers.read(4), "little"))
            if answer[:1] == b"-":
                raise unpack_failure(answer[1:])
            return unpack(answer[1:])

        yield call
        pipe.write(bytes(4))


@pytest.mark.slow
def test_a_function_takes_what_it_uses_of_its_module_along(
    module: Any, call_elsewhere: Any
) -> None:
    assert call_elsewhere(module.scale, 2) == 6
    assert call_elsewhere(module.scale_twice, 2) == 18
    assert call_elsewhere(module.count_down, 5) == 0
    assert call_elsewhere(module.is_here, "sys")
    assert not call_elsewhere(module.is_here, "nowhere_for_test")


@pytest.mark.slow
def test_a_function_of_the_program_takes_functions_of_the_module_along(
    module: Any, call_elsewhere: Any
) -> None:
    scale = module.scale
    assert call_elsewhere(lambda: scale(2)) == 6
    assert call_elsewhere(lambda function: function(3), module.scale) == 9
    assert call_elsewhere(lambda method: method(), module.Square(1).area) == 6


@pytest.mark.slow
def test_instances_travel_there_and_come_home_as_what_they_were(
    module: Any, call_elsewhere: Any
) -> None:
    assert call_elsewhere(lambda shape: shape.area(), module.Square(1)) == 6
    made = call_elsewhere(module.make_square, 2)
    assert type(made) is module.Square
    assert made.area() == 9
    assert call_elsewhere(module.move, module.Point(1)) == module.Point(2)
    assert call_elsewhere(module.Colour.paint, module.Colour.RED) == (module.Colour.RED,) * 2
    assert type(call_elsewhere(lambda box: box, module.Box(1))) is module.Box
    assert call_elsewhere(lambda variable: variable, module.T) is module.T


@pytest.mark.slow
def test_a_subclass_takes_its_base_along(module: Any, call_elsewhere: Any) -> None:
    class Cube(module.Square):
        def side(self) -> Any:
            return 10 * super().side()

    area, cube = call_elsewhere(lambda cube: (cube.area(), cube), Cube(1))
    assert area == 60
    assert type(cube) is Cube


@pytest.mark.slow
def test_an_error_of_the_module_is_caught_by_its_class(module: Any, call_elsewhere: Any) -> None:
    with pytest.raises(module.Odd, match="it is odd") as caught:
        call_elsewhere(module.refuse, 3)
    assert caught.value.number == 3
    assert isinstance(caught.value, TaskError)


@pytest.mark.slow
def test_a_module_that_a_function_uses_travels_with_it(
    load_module: Any, call_elsewhere: Any
) -> None:
    helper = load_module("helper_for_test", "LENGTH = 4")
    user = load_module(
        "user_for_test",
        "import sys, helper_for_test\n"
        "def measure(): return helper_for_test.LENGTH, helper_for_test.user.__name__, sys.maxsize",
    )
    helper.user = user
    assert call_elsewhere(user.measure) == (4, "user_for_test", sys.maxsize)


def test_what_cannot_travel_in_a_module_is_named(load_module: Any) -> None:
    module = load_module("locked_for_test", "import threading\nLOCK = threading.Lock()")

    def use() -> Any:
        return module

    with pytest.raises(PicklingError) as caught:
        dump_code(use)
    assert caught.value.path == "use.__closure__['module'].LOCK"


def test_cloudpickle_is_not_told(module: Any) -> None:
    """What the program pickles by itself is left alone."""
    dump_code(module.scale)
    assert cloudpickle.loads(cloudpickle.dumps(module.scale)) is module.scale


def test_functions_on_the_path_go_by_reference(
    load_module: Any, tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.syspath_prepend(tmp_path)
    module = load_module("importable_for_test", textwrap.dedent(SOURCE))
    values = [module.scale, module.Square, module.T, module]
    assert len(dumps(values[:3]).pack()) < 150
    for each, found in zip(values, unpack(dumps([*values, lambda: 1]).pack()), strict=False):
        assert found is each
    assert load_code(dump_code(module.Square)[1]) is module.Square
