"""Values to bytes and back."""

from __future__ import annotations

import collections
import dataclasses
import enum
import fractions
import functools
import pathlib
import subprocess
import sys
import textwrap
import types
from typing import TYPE_CHECKING, Any, NamedTuple, NoReturn

import cloudpickle
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from weft._ids import IdSource, ObjectId
from weft._override import override
from weft._refs import ObjectRef
from weft._serialize import (
    deregister_reducer,
    dumps,
    dumps_call,
    hooks,
    register_reducer,
    unpack,
)
from weft._serialize.pickling import RAW_BYTES, Serialized
from weft.exceptions import PicklingError
from weft.util.serialization import deregister_serializer, register_serializer

if TYPE_CHECKING:
    from collections.abc import Iterator


def back(value: Any) -> Any:
    """Send a value through both forms of packing."""
    serialized = dumps(value)
    packed = serialized.pack()
    assert len(packed) == serialized.size_bytes
    memory = memoryview(bytearray(serialized.size_bytes))
    serialized.write_into(memory)
    assert bytes(memory) == packed
    return unpack(packed)


scalars: Any = st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text()
scalars |= st.binary() | st.complex_numbers(allow_nan=False) | st.binary().map(bytearray)
values: Any = st.recursive(
    scalars,
    lambda inner: (
        st.lists(inner)
        | st.tuples(inner, inner)
        | st.dictionaries(st.text() | st.integers(), inner)
        | st.frozensets(st.integers() | st.text())
        | st.builds(collections.deque, st.lists(inner))
        | st.fractions().map(fractions.Fraction)
    ),
    max_leaves=20,
)


def same(left: Any, right: Any) -> Any:
    return type(left) is type(right) and left == right


@given(values)
@settings(deadline=None)
def test_every_value_comes_back_as_itself(value: Any) -> None:
    assert same(back(value), value)


@given(st.lists(values, max_size=4), st.dictionaries(st.text(), values, max_size=4))
@settings(deadline=None)
def test_arguments_come_back_as_themselves(args: Any, kwargs: Any) -> None:
    found_args, found_kwargs = unpack(dumps_call(tuple(args), kwargs).pack())
    assert found_args == tuple(args)
    assert found_kwargs == kwargs
    assert found_kwargs is not kwargs


@pytest.mark.parametrize("size", [0, 1, RAW_BYTES - 1, RAW_BYTES, RAW_BYTES + 63, 1_000_003])
@pytest.mark.parametrize("kind", [bytes, bytearray])
def test_bytes_and_bytearray_keep_their_type_at_every_size(kind: Any, size: Any) -> None:
    value = kind(range(256)) * (size // 256) + kind(size % 256)
    found = back(value)
    assert type(found) is kind
    assert found == value
    assert type(back([value])[0]) is kind


@pytest.mark.parametrize("size", [0, 8, 4096, 200_000])
def test_memoryview_comes_back_as_memoryview(size: Any) -> None:
    found = back(memoryview(bytes(size)))
    assert type(found) is memoryview
    assert found == bytes(size)


def test_memoryview_keeps_format_and_shape() -> None:
    view = memoryview(bytearray(range(96))).cast("i", (4, 6))
    found = back([view, view[::2]])
    assert found[0].format == "i"
    assert found[0].shape == (4, 6)
    assert found[0].tolist() == view.tolist()
    assert found[1].tolist() == view[::2].tolist()


def test_value_without_buffers_is_just_its_pickle() -> None:
    packed = dumps((1, "a")).pack()
    assert packed[0] == 0x80
    assert len(packed) < 24


def test_buffers_are_aligned_and_read_only_and_not_copied() -> None:
    value = [memoryview(bytearray(range(256)) * 100) for _ in range(3)]
    serialized = dumps(value)
    assert len(serialized.buffers) == 3
    memory = memoryview(bytearray(serialized.size_bytes))
    serialized.write_into(memory)
    found = unpack(memory)
    for view in found:
        assert view.readonly
        assert view.obj is memory.obj
    memory[:] = bytes(len(memory))
    assert found[0][5] == 0


def test_write_into_leaves_what_lies_behind_alone() -> None:
    memory = memoryview(bytearray(b"x" * 100))
    dumps("abc").write_into(memory)
    assert unpack(memory) == "abc"
    assert memory[-50:] == b"x" * 50


def test_garbage_is_refused() -> None:
    with pytest.raises(ValueError, match="no packed value"):
        unpack(b"\x07" + bytes(40))


# ------------------------------------------------------------------ references


class FakeEngine:
    def __init__(self) -> None:
        self.released: list[Any] = []

    def release(self, object_id: Any) -> None:
        self.released.append(object_id)


@pytest.fixture
def make_ref() -> Iterator[Any]:
    engine: Any = FakeEngine()
    ids = IdSource()
    hooks.rebuild_ref = lambda object_id, owner: ObjectRef(ObjectId(object_id), engine, owner)
    yield lambda owner="unix:a": ObjectRef(ids.task_id().object_id(1), engine, owner)
    hooks.reset()


def test_references_are_recorded_once_in_the_order_met(make_ref: Any) -> None:
    a, b = make_ref(), make_ref("unix:b")
    serialized = dumps({"x": [b, a], "y": b})
    assert serialized.refs == [b, a]
    assert isinstance(serialized.refs, list)
    found = unpack(serialized.pack())
    assert found == {"x": [b, a], "y": b}
    assert found["y"].owner_address() == "unix:b"
    assert found["y"] is found["x"][0]


def test_a_reference_alone_is_recorded(make_ref: Any) -> None:
    ref = make_ref()
    assert dumps(ref).refs == [ref]
    assert dumps_call((ref,), {}).refs == [ref]


def test_references_next_to_code_are_recorded(make_ref: Any) -> None:
    ref = make_ref()
    serialized = dumps([lambda: 1, ref, lambda: ref])
    assert serialized.refs == [ref]
    assert unpack(serialized.pack())[2]() == ref


def test_reference_without_an_engine_says_so(make_ref: Any) -> None:
    packed = dumps(make_ref()).pack()
    hooks.reset()
    with pytest.raises(RuntimeError, match="no session runs"):
        unpack(packed)


def test_values_without_references_have_an_empty_list() -> None:
    assert dumps(1).refs == []
    assert dumps([fractions.Fraction(1)]).refs == []
    assert Serialized(b"").buffers == []


# ------------------------------------------------------------------ code inside values


def module_function(x: Any) -> Any:
    return x + 1


class ModuleClass:
    def __init__(self, x: Any) -> None:
        self.x = x


def test_functions_of_importable_modules_go_by_reference() -> None:
    packed = dumps([textwrap.dedent, fractions.Fraction, fractions.Fraction(1)]).pack()
    assert len(packed) < 150
    found = unpack(packed)
    assert found[0] is textwrap.dedent
    assert found[1] is fractions.Fraction


def test_a_decorated_function_is_found_behind_its_name(
    load_module: Any, tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.syspath_prepend(tmp_path)
    module = load_module("decorated_for_test", "def f(): return 7\nclass C: pass")
    plain, cls = module.f, module.C

    class Remote:
        def __init__(self, wrapped: Any) -> None:
            self.__wrapped__ = wrapped

    module.f, module.C = Remote(plain), Remote(cls)
    packed = dumps([plain, cls()]).pack()
    assert b"cloudpickle" not in packed
    found = unpack(packed)
    assert found[0] is plain
    assert type(found[1]) is cls


def test_modules_chosen_for_cloudpickle_go_by_value() -> None:
    module: Any = types.ModuleType("by_value_for_test")
    exec("def f(): return 3\nclass C:\n  x = 4", module.__dict__)
    sys.modules[module.__name__] = module
    cloudpickle.register_pickle_by_value(module)
    try:
        packed = dumps([module.f, module.C()]).pack()
    finally:
        cloudpickle.unregister_pickle_by_value(module)
        del sys.modules[module.__name__]
    function, instance = unpack(packed)
    assert function() == 3
    assert instance.x == 4


def test_lambdas_closures_partials_and_bound_methods_travel() -> None:
    offset = 10

    def closure(x: Any) -> Any:
        return x + offset

    class Local:
        def double(self, x: Any) -> Any:
            return 2 * x

    functions = [lambda x: x * 3, closure, functools.partial(closure, 1), Local().double]
    assert [
        function(1) if function.__class__ is not functools.partial else function()
        for function in back(functions)
    ] == [3, 11, 11, 2]


def test_modules_travel() -> None:
    assert back([pathlib, lambda: 1])[0] is pathlib


@dataclasses.dataclass
class Point:
    x: int
    y: list[int]


class Colour(enum.Enum):
    RED = 1


def local_kinds() -> Any:
    @dataclasses.dataclass(frozen=True)
    class LocalPoint:
        x: int

    class LocalColour(enum.Enum):
        RED = 1

    class LocalTuple(NamedTuple):
        a: int
        b: int

    return LocalPoint, LocalColour, LocalTuple


def test_instances_of_local_classes_keep_their_class() -> None:
    point, colour, pair = local_kinds()
    found = back([point(1), colour.RED, pair(1, 2), point(2)])
    assert found == [point(1), colour.RED, (1, 2), point(2)]
    assert type(found[0]) is point
    assert found[1] is colour.RED
    assert type(found[2]) is pair


def test_a_local_class_is_pickled_once() -> None:
    point, _, _ = local_kinds()
    first = dumps(point(1)).pack()
    assert dumps(point(1)).pack() == first


def test_a_class_keeps_its_own_methods_when_it_comes_home() -> None:
    """cloudpickle alone would replace them by copies with globals of their own."""

    class Counter:
        def value(self) -> Any:
            return 1

    method = Counter.value
    back([Counter(), lambda: 1])
    back(Counter())
    assert Counter.value is method


@pytest.mark.slow
def test_classes_of_main_travel_and_change_between_processes(tmp_path: pathlib.Path) -> None:
    program = """
        import subprocess, sys
        from weft._serialize import dumps, unpack, load_code, dump_code

        BASE = 1

        class Config:
            scale = 2
            def __init__(self, x): self.x = x
            def value(self): return self.x * self.scale + BASE

        pipes = dict(stdin=subprocess.PIPE, stdout=subprocess.PIPE)
        child = subprocess.Popen([sys.executable, "-c", CHILD], **pipes)

        def ask(obj):
            packed = dumps(obj).pack()
            child.stdin.write(len(packed).to_bytes(4, "little") + packed); child.stdin.flush()
            size = int.from_bytes(child.stdout.read(4), "little")
            return unpack(child.stdout.read(size))

        instance, number = ask(Config(5))
        assert type(instance) is Config and number == 11, (instance, number)
        Config.scale = 3
        instance, number = ask(Config(5))
        assert number == 16, number
        BASE = 100
        assert instance.value() == 115, "its methods have lost their globals"
        function, number = ask(lambda: 0)
        assert number == 0
        child.stdin.close(); child.wait()
    """
    child = """
        import sys
        from weft._serialize import dumps, unpack
        kinds = set()
        while head := sys.stdin.buffer.read(4):
            obj = unpack(sys.stdin.buffer.read(int.from_bytes(head, "little")))
            packed = dumps((obj, obj.value() if hasattr(obj, "value") else obj())).pack()
            sys.stdout.buffer.write(len(packed).to_bytes(4, "little") + packed)
            sys.stdout.buffer.flush()
            kinds.add(type(obj))
    """
    file = tmp_path / "program.py"
    file.write_text(f"CHILD = {textwrap.dedent(child)!r}\n" + textwrap.dedent(program))
    done = subprocess.run([sys.executable, file], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr


def test_instances_of_module_classes_travel() -> None:
    found = back([ModuleClass(1), Point(1, [2]), Colour.RED])
    assert found[0].x == 1
    assert found[1] == Point(1, [2])
    assert found[2] is Colour.RED


def test_shared_and_circular_structure_survives() -> None:
    inner = [1]
    value = {"a": inner, "b": inner, "c": fractions.Fraction(1)}
    value["self"] = value
    found = back(value)
    assert found["a"] is found["b"]
    assert found["self"] is found


# ------------------------------------------------------------------ serializers of users


class Guarded:
    def __init__(self, x: Any) -> None:
        self.x = x

    @override
    def __reduce__(self) -> NoReturn:
        raise TypeError("cannot pickle 'Guarded' object")


def test_register_serializer_is_used_until_it_is_forgotten() -> None:
    register_serializer(Guarded, serializer=lambda g: g.x, deserializer=Guarded)
    try:
        assert back([Guarded(3)])[0].x == 3
        assert back(Guarded(4)).x == 4
    finally:
        deregister_serializer(Guarded)
    with pytest.raises(PicklingError, match="Guarded"):
        dumps(Guarded(3))
    deregister_serializer(Guarded)


def test_register_reducer_may_leave_an_instance_to_the_usual_way() -> None:
    register_reducer(Point, lambda point: NotImplemented)
    try:
        assert back(Point(1, [])) == Point(1, [])
    finally:
        deregister_reducer(Point)


def test_a_serializer_for_a_class_of_a_library_replaces_ours() -> None:
    numpy = pytest.importorskip("numpy")
    register_serializer(numpy.ndarray, serializer=lambda array: array.tolist(), deserializer=tuple)
    try:
        assert back([numpy.arange(3)]) == [(0, 1, 2)]
    finally:
        deregister_serializer(numpy.ndarray)
    assert isinstance(back(numpy.arange(3)), numpy.ndarray)


def test_import_of_the_serializer_is_light() -> None:
    code = "import sys, weft._serialize, weft.exceptions; print(*sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    loaded = set(done.stdout.split())
    assert not loaded & {"cloudpickle", "numpy", "ctypes", "asyncio"}
