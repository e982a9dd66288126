"""Values and code to bytes and back: pickle 5, large buffers out of band.

    dumps(value) -> Serialized, .pack() or .write_into(memory)     unpack(memory) -> value
    dump_code(function) -> (FunctionId, bytes)                     load_code(bytes) -> function

Three ways, the first that does:
1. Numbers, strings and shallow containers of them: `pickle.dumps`, which is C from end to end.
2. Anything that can be named by reference: a C pickler that asks `reducer_override` about
   instances, functions and classes. Here references are recorded and arrays leave the pickle.
   Classes of `__main__` and local ones are in it by value, but pickled and read only once.
3. Functions of `__main__`, lambdas, closures: the same on top of cloudpickle, which writes them by
   value. Tried when the second way meets one, or fails.
What is said here of `__main__` holds of every module that another process cannot import, as
modules.py tells.

The packed layout. A value without buffers is its pickle, so the first byte is pickle's 0x80. Else:

    byte 0      1: a pickle with buffers   2: bytes   3: bytearray
    byte 4      number of buffers, u32
    byte 8      length of the pickle, then of each buffer, u64
    then        the pickle; each buffer, at the next multiple of 64

What is always true
1. `unpack(dumps(v).pack())` equals `v` and shares no mutable memory with it. bytearray and
   memoryview stay what they are.
2. Buffers of an unpacked value are read-only views on the memory given; they keep it alive.
3. References come in the order in which they were met, each once.
4. A function or class that its module knows under its name goes by reference if that module can be
   imported elsewhere; also if the name leads to a wrapper around it that has it as `__wrapped__`.
5. What cannot be pickled raises PicklingError, which names the path to the part to blame.
6. Code that went by value is run by the same minor release of Python only: bytecode is no format
   for others, which may crash on it. Whatever else is pickled is read by any.

It does not copy buffers before `pack` or `write_into`: until then the value must not change.
"""

from __future__ import annotations

import pickle
import sys
import weakref
from importlib import import_module
from io import BytesIO
from operator import is_
from struct import Struct
from types import CodeType, FunctionType, ModuleType
from typing import TYPE_CHECKING, Any, TypeVar

import msgspec

from weft._error_parts import put_together, reduces_by_default, take_apart
from weft._ids import ID_BYTES, FunctionId
from weft._lazy import lazy
from weft._override import override
from weft._refs import ObjectRef
from weft._serialize.arrays import IN_BAND_BYTES, LIBRARIES, reducers_of
from weft._serialize.blame import explain
from weft._serialize.modules import MAIN, goes_by_value
from weft._serialize.refs import reduce_ref
from weft.exceptions import OtherPythonError

if TYPE_CHECKING:
    import hashlib
    from collections.abc import Callable, Sequence

    import cloudpickle

    from weft._ids import ObjectId
else:
    cloudpickle = lazy("cloudpickle")
    hashlib = lazy("hashlib")

_PLAIN = 0x80
_PICKLE, _BYTES, _BYTEARRAY = 1, 2, 3
RAW_TYPES: dict[int, type[bytes | bytearray]] = {_BYTES: bytes, _BYTEARRAY: bytearray}
"""By the kind of the packed layout: what a value is that is a buffer and no pickle."""
_ALIGNMENT = 64
_HEAD = Struct("<B3xI")
_HEAD_BYTES = _HEAD.size
_LENGTH_BYTES = 8
RAW_BYTES = 16 * 1024
"""From this size a value that is just bytes stays outside of the pickle, which saves a copy."""

_SHALLOW = 16
_SCALARS = frozenset({int, float, str, bytes, bool, complex, type(None)})

_dumps = pickle.dumps
_loads = pickle.loads

PYTHON = f"{sys.version_info[0]}.{sys.version_info[1]}"
"""The release whose bytecode this process runs. A patch release changes none."""

Memory = bytes | bytearray | memoryview


class Serialized(msgspec.Struct):
    """A value as a pickle and the buffers that lie outside of it."""

    inband: bytes
    buffers: list[memoryview] = []
    refs: list[ObjectRef[Any]] = []
    """References inside the value. Whoever holds this object keeps them alive."""
    kind: int = _PICKLE
    """Of the packed layout; means nothing without buffers."""

    @property
    def size_bytes(self) -> int:
        """Length of the packed form."""
        if not self.buffers:
            return len(self.inband)
        end = _HEAD_BYTES + _LENGTH_BYTES * (1 + len(self.buffers)) + len(self.inband)
        for buffer in self.buffers:
            end += -end % _ALIGNMENT + buffer.nbytes
        return end

    def parts(self) -> list[bytes | memoryview]:
        """Return what the packed form consists of, in order. Nothing is copied."""
        if not self.buffers:
            return [self.inband]
        parts: list[bytes | memoryview] = [self._header(), self.inband]
        end = len(parts[0]) + len(self.inband)
        for buffer in self.buffers:
            gap = -end % _ALIGNMENT
            if gap:
                parts.append(bytes(gap))
            parts.append(buffer)
            end += gap + buffer.nbytes
        return parts

    def pack(self) -> bytes:
        """Return the packed form; without buffers it is the pickle itself, not copied."""
        return b"".join(self.parts()) if self.buffers else self.inband

    def write_into(self, memory: memoryview) -> None:
        """Write the packed form to the start of `memory`, which has at least `size_bytes` bytes."""
        end = 0
        for part in self.parts():
            start, end = end, end + len(part)
            memory[start:end] = part

    def _header(self) -> bytes:
        lengths = [len(self.inband), *[buffer.nbytes for buffer in self.buffers]]
        head = _HEAD.pack(self.kind, len(self.buffers))
        return head + b"".join([length.to_bytes(_LENGTH_BYTES, "little") for length in lengths])


# ------------------------------------------------------------------ writing


def dumps(value: Any, *, name: str = "value") -> Serialized:
    """Serialize a value.

    Args:
        value: Anything. Its large buffers are not copied yet, so it must not change before `pack`
            or `write_into`.
        name: What an error calls the value.

    Raises:
        PicklingError: A part of it cannot travel; the message names the path to it.
    """
    kind = type(value)
    if kind in _SCALARS:
        if kind is bytes and len(value) >= RAW_BYTES:
            return Serialized(b"", [memoryview(value)], [], _BYTES)
        return Serialized(_dumps(value, 5))
    if kind is tuple or kind is list:
        if len(value) <= _SHALLOW and _SCALARS.issuperset(map(type, value)):
            return Serialized(_dumps(value, 5))
    elif kind is dict:
        if (
            len(value) <= _SHALLOW
            and _SCALARS.issuperset(map(type, value.values()))
            and _SCALARS.issuperset(map(type, value))
        ):
            return Serialized(_dumps(value, 5))
    elif kind is bytearray and len(value) >= RAW_BYTES:
        return Serialized(b"", [memoryview(value)], [], _BYTEARRAY)
    return _dump_any(value, name)


def dumps_call(args: tuple[Any, ...], kwargs: dict[str, Any], *, name: str = "") -> Serialized:
    """Serialize the arguments of a call, as `dumps((args, kwargs))` does, but quicker.

    Raises:
        PicklingError: An argument cannot travel; the message names it as `args[0]` or
            `kwargs['x']`.
    """
    if _SCALARS.issuperset(map(type, args)) and (
        not kwargs or _SCALARS.issuperset(map(type, kwargs.values()))
    ):
        return Serialized(_dumps((args, kwargs), 5))
    return _dump_any((args, kwargs), name, call=True)


def _dump_any(value: Any, name: str, *, call: bool = False) -> Serialized:
    try:
        return _dump_by_reference(value)
    except Exception:  # noqa: BLE001 - cloudpickle may know better; if not, its error counts
        try:
            return _dump_by_value(value)
        except Exception as error:  # noqa: BLE001 - any code of the user's may run here
            blamed: dict[str, Any]
            if call:
                args, kwargs = value
                where = f"{name}: " if name else ""
                blamed = {f"{where}args[{index}]": arg for index, arg in enumerate(args)}
                blamed |= {f"{where}kwargs[{key!r}]": arg for key, arg in kwargs.items()}
            else:
                blamed = {name: value}
            raise explain(blamed, error, can_pickle, reduce_instance) from None


class _Buffers(list[memoryview]):
    """The buffers of one dump. An object of its own, or the pickler would refer to itself."""

    __slots__ = ()

    def take(self, buffer: pickle.PickleBuffer) -> bool:
        """Keep a buffer out of the pickle; True if it is too small for that."""
        content = buffer.raw()
        if content.nbytes < IN_BAND_BYTES:
            return True
        self.append(content)
        return False


class _NeedsValue(Exception):  # noqa: N818 - no error, a signal
    """Something must be pickled by value."""


class _Pickler(pickle.Pickler):
    """The second way: all by reference, but classes of the program as `_reduce_class` says."""

    met: dict[ObjectId, ObjectRef[Any]]

    @override
    def reducer_override(self, obj: Any) -> Any:
        kind = type(obj)
        reduce = _reducers.get(kind)
        if reduce is not None:
            return reduce(obj)
        if kind is ObjectRef:
            return reduce_ref(obj, self.met)
        if kind is FunctionType or isinstance(obj, type):
            if "<locals>" in obj.__qualname__ or goes_by_value(obj.__module__):
                if kind is FunctionType:
                    raise _NeedsValue
                return _reduce_class(obj)
            # pickle itself checks that the name leads to the object, and fails if not.
            return NotImplemented
        if kind.__module__ in _unseen:
            return _meet(kind, obj)
        if isinstance(obj, BaseException) and reduces_by_default(obj):
            return put_together, take_apart(obj)
        return NotImplemented


def _dump_by_reference(value: Any) -> Serialized:
    file = BytesIO()
    buffers = _Buffers()
    pickler = _Pickler(file, 5, buffer_callback=buffers.take)
    met: dict[ObjectId, ObjectRef[Any]] = {}
    pickler.met = met
    pickler.dump(value)
    return Serialized(file.getvalue(), buffers, list(met.values()) if met else [])


def _dump_by_value(value: Any, *, is_code: bool = False) -> Serialized:
    file = BytesIO()
    buffers = _Buffers()
    pickler = _ByValue.pickler()(file, 5, buffer_callback=buffers.take)
    met: dict[ObjectId, ObjectRef[Any]] = {}
    pickler.met = met
    pickler.is_code = is_code
    pickler.dump(value)
    return Serialized(file.getvalue(), buffers, list(met.values()) if met else [])


class _ByValue:
    """The third way, made when it is first needed, since cloudpickle takes 11 ms to load."""

    made: Any = None

    @classmethod
    def pickler(cls) -> Any:
        """Return the class of the pickler."""
        if cls.made is None:
            ours: Any = _Pickler.reducer_override

            class ValuePickler(cloudpickle.Pickler):  # type: ignore[misc]  # cloudpickle has no types
                def reducer_override(self, obj: Any) -> Any:
                    if type(obj) is CodeType:
                        return _reduce_bytecode(obj)
                    if not isinstance(obj, type | FunctionType):
                        return ours(self, obj)
                    if _is_importable(obj):
                        return NotImplemented
                    if wrapped := _reduce_wrapped(obj):
                        return wrapped
                    # Not left to cloudpickle, which takes all of sys.modules for importable.
                    if isinstance(obj, FunctionType):
                        return self._dynamic_function_reduce(obj)
                    if obj.__module__ == "builtins":  # such as type(None), which no name leads to
                        return super().reducer_override(obj)
                    if self.is_code:
                        return cloudpickle.cloudpickle._dynamic_class_reduce(obj)
                    return _reduce_class(obj)

            cls.made = ValuePickler
        return cls.made


def can_pickle(value: Any) -> BaseException | None:
    """Return None if `value` can travel, else the error; for the search for the part to blame."""
    try:
        _dump_by_value(value)
    except Exception as error:  # noqa: BLE001 - the question is whether there is one
        # Its traceback leads to the frame of who asks, which has the error.
        return error.with_traceback(None)
    return None


def reduce_instance(obj: Any) -> Any:
    """Return what pickle writes for an instance."""
    reduce = _reducers.get(type(obj))
    reduced = NotImplemented if reduce is None else reduce(obj)
    return obj.__reduce_ex__(5) if reduced is NotImplemented else reduced


# ------------------------------------------------------------------ what goes by reference


def _is_importable(target: Any) -> bool:
    """Tell whether another process finds a function or class under its module and name."""
    module_name: Any = getattr(target, "__module__", None)
    if goes_by_value(module_name):
        return False
    return _look_up(sys.modules.get(module_name), target.__qualname__) is target


def _look_up(found: Any, qualname: str) -> Any:
    for part in qualname.split("."):
        found = getattr(found, part, None)
        if found is None:
            return None
    return found


def _reduce_wrapped(target: Any) -> tuple[Any, ...] | None:
    """Return how to find a target that hides behind its decorated name, or None."""
    module_name: Any = getattr(target, "__module__", None)
    if goes_by_value(module_name):
        return None
    found = _look_up(sys.modules.get(module_name), target.__qualname__)
    depth = 0
    while found is not None and depth < 8:
        if found is target:
            return load_wrapped, (module_name, target.__qualname__, depth)
        found = getattr(found, "__wrapped__", None)
        depth += 1
    return None


def load_wrapped(module_name: str, qualname: str, depth: int) -> Any:
    """Find what a decorated name hides. Its name is part of the format of pickles."""
    found = _look_up(import_module(module_name), qualname)
    for _ in range(depth):
        found = found.__wrapped__
    return found


# ------------------------------------------------------------------ classes that go by value


class _ClassCode(msgspec.Struct):
    """A class that was pickled by value, so that its next instance need not."""

    alive: weakref.ref[type]
    members: list[Any]
    version: int
    reduced: tuple[Any, ...]


_class_codes: dict[int, _ClassCode] = {}
"""By the id of the class: a metaclass may have any `__hash__`."""

_versions: dict[str, int] = {}
"""Of the classes that came from another process, by cloudpickle's id of the class."""

_kept: dict[str, type] = {}
KEPT_CLASSES = 256
"""So many of the classes that came from elsewhere live on without an instance."""


def _reduce_bytecode(code: CodeType) -> tuple[Any, ...]:
    _, parts = cloudpickle.cloudpickle._code_reduce(code)
    return load_bytecode, (PYTHON, code.co_qualname, *parts)


def load_bytecode(python: str, name: str, *parts: Any) -> CodeType:
    """Make code that went by value. Its name is part of the format.

    OtherPythonError: another minor release of Python has compiled it.
    """
    if python != PYTHON:
        while name.endswith(("comp>", "genexpr>")):
            name = name.rpartition(".<locals>.")[0]
        raise OtherPythonError(name.rpartition("<locals>.")[2], python, PYTHON)
    return CodeType(*parts)


def _reduce_class(cls: type) -> tuple[Any, ...]:
    """Return how a class travels by value: its pickle is made once, and read once by each process.

    A class whose members were set anew meanwhile is pickled anew; a change inside a member, such as
    a list, goes unseen, as does one of a global that its methods use. The process that the class
    comes from never takes its own class back: cloudpickle alone would replace the methods by copies
    with globals of their own.
    """
    known = _class_codes.get(id(cls))
    members = vars(cls)
    version = 0
    if known is not None and known.alive() is cls:
        if len(members) == len(known.members) and all(map(is_, members.values(), known.members)):
            return known.reduced
        version = known.version + 1
    if cls.__module__ == "builtins":  # such as type(None), which no name leads to
        raise _NeedsValue
    serialized = _dump_by_value(cls, is_code=True)
    code = serialized.pack()
    tracker: str = cloudpickle.cloudpickle._get_or_create_tracker_id(cls)
    if serialized.refs:
        _held_by_code[tracker] = serialized.refs
    return _remember(cls, version, (load_class, (tracker, version, code)))


def _remember(cls: type, version: int, reduced: tuple[Any, ...]) -> tuple[Any, ...]:
    key = id(cls)
    alive = weakref.ref(cls, lambda _: _class_codes.pop(key, None))
    _class_codes[key] = _ClassCode(alive, list(vars(cls).values()), version, reduced)
    return reduced


def load_class(tracker: str, version: int, code: bytes) -> type:
    """Find the class that was pickled by value, or make it. Its name is part of the format."""
    tracked = sys.modules.get("cloudpickle.cloudpickle")
    if tracked is not None:
        known: type | None = tracked._DYNAMIC_CLASS_TRACKER_BY_ID.get(tracker)
        if known is not None and version <= _versions.get(tracker, version):
            return known
    cls: type = unpack(code)
    _versions[tracker] = version
    _kept[tracker] = cls
    if len(_kept) > KEPT_CLASSES:
        _kept.pop(next(iter(list(_kept))), None)
    _remember(cls, version, (load_class, (tracker, version, code)))
    return cls


# ------------------------------------------------------------------ classes with a way of their own


def _reduce_memoryview(view: memoryview) -> tuple[Any, ...]:
    content = pickle.PickleBuffer(view if view.c_contiguous else view.tobytes())
    return rebuild_memoryview, (content, view.format, view.shape)


def rebuild_memoryview(content: Memory, layout: str, shape: tuple[int, ...]) -> memoryview:
    """Make the memoryview that was pickled. Its name is part of the format of pickles."""
    view = memoryview(content)
    if layout == "B" and len(shape) == 1:
        return view
    cast: Any = view.cast("B").cast
    shaped: memoryview = cast(layout, shape)
    return shaped


_OF_THE_IMPORT = frozenset({"__builtins__", "__loader__", "__spec__"})
"""What a module was loaded with, which need not travel, and may not be able to."""


def _reduce_module(module: ModuleType) -> Any:
    name = module.__name__
    if name in MAIN or not goes_by_value(name):
        return NotImplemented  # cloudpickle lets it be imported
    state = {key: value for key, value in vars(module).items() if key not in _OF_THE_IMPORT}
    # The members are state, no arguments: they may lead back to the module.
    return make_module, (name,), state


def make_module(name: str) -> ModuleType:
    """Make a module that goes by value. Its name is part of the format of pickles."""
    return ModuleType(name)


def _reduce_type_variable(variable: TypeVar) -> Any:
    if not goes_by_value(variable.__module__):
        return NotImplemented
    tool = cloudpickle.cloudpickle
    return tool._make_typevar, tool._decompose_typevar(variable)


_reducers: dict[type, Callable[[Any], Any]] = {
    memoryview: _reduce_memoryview,
    ModuleType: _reduce_module,
    TypeVar: _reduce_type_variable,
}
_unseen = set(LIBRARIES)


def _meet(kind: type, obj: Any) -> Any:
    """The first value of a library whose values have reducers: install them, then reduce it."""
    for cls, reduce in reducers_of(kind.__module__).items():
        _reducers.setdefault(cls, reduce)
    _unseen.discard(kind.__module__)
    reduce_it = _reducers.get(kind)
    return NotImplemented if reduce_it is None else reduce_it(obj)


def register_reducer(cls: type, reduce: Callable[[Any], Any]) -> None:
    """Say how instances of exactly `cls` travel.

    `reduce(obj)` returns what `__reduce__` may, or NotImplemented for the usual way.

    Takes effect in this process, from any thread, at the next dump.
    """
    _reducers[cls] = reduce


def deregister_reducer(cls: type) -> None:
    """Forget what `register_reducer` was told about `cls`, if anything."""
    _reducers.pop(cls, None)
    _unseen.update(name for name in _LATE if name == cls.__module__)


_LATE = frozenset(_unseen)

# ------------------------------------------------------------------ reading


def unpack(memory: Memory) -> Any:
    """Make the value of its packed form.

    Large arrays in it are read-only views on `memory`, which they keep alive. Whatever the value's
    classes raise while they are unpickled comes out as it is.
    """
    if memory[0] == _PLAIN:
        return _loads(memory)
    kind, inband, buffers = layout_of(memory)
    if kind == _PICKLE:
        return _loads(inband, buffers=buffers)
    return RAW_TYPES[kind](buffers[0])


def unpack_by(memory: Memory, unpickler: type[pickle.Unpickler]) -> Any:
    """As `unpack`, by an unpickler that may stand in for what the pickle names."""
    kind, inband, buffers = layout_of(memory)
    if kind == _PICKLE:
        return unpickler(BytesIO(inband), buffers=buffers).load()
    return RAW_TYPES[kind](buffers[0])


def layout_of(memory: Memory) -> tuple[int, memoryview, list[memoryview]]:
    """Return what a packed value consists of: (kind, its pickle, the buffers outside of that)."""
    view = memoryview(memory).toreadonly()
    if view[0] == _PLAIN:
        return _PICKLE, view, []
    kind, number = _HEAD.unpack_from(view)
    if kind != _PICKLE and kind not in RAW_TYPES:
        raise ValueError(f"this is no packed value: it begins with {kind}")
    end = _HEAD_BYTES + _LENGTH_BYTES * (1 + number)
    lengths = view[_HEAD_BYTES:end].cast("Q")
    inband = view[end : end + lengths[0]]
    end += lengths[0]
    buffers = []
    for length in lengths[1:]:
        start = end + -end % _ALIGNMENT
        end = start + length
        buffers.append(view[start:end])
    return kind, inband, buffers


# ------------------------------------------------------------------ code

_held_by_code: dict[bytes | str, Sequence[ObjectRef[Any]]] = {}


def dump_code(target: Callable[..., Any]) -> tuple[FunctionId, bytes]:
    """Serialize a function or class: (id, pickle). The id is a hash of the pickle.

    References in its closure or globals are kept alive as long as this process lives, since nobody
    counts them in code.

    Raises:
        PicklingError: Something that it uses cannot travel; the message names the path to it.
    """
    name = getattr(target, "__qualname__", type(target).__qualname__).rpartition("<locals>.")[2]
    try:
        serialized = _dump_by_value(target, is_code=True)
    except Exception as error:  # noqa: BLE001 - any code of the user's may run here
        raise explain({name: target}, error, can_pickle, reduce_instance) from None
    code = serialized.pack()
    digest = hashlib.blake2b(code, digest_size=ID_BYTES).digest()
    if serialized.refs:
        _held_by_code[digest] = serialized.refs
    return FunctionId(digest), code


def load_code(code: Memory) -> Any:
    """Make the function or class of its pickle."""
    return unpack(code)
