"""The values of a capsule, for the call that is made again, and what stands for those it lacks.

Reading them runs code that is in the capsule.
"""

from __future__ import annotations

import contextlib
import inspect
from typing import TYPE_CHECKING, Any

from weft._capsules.facts import set_random_states
from weft._capsules.pieces import fingerprint
from weft._capsules.reading import CapsuleError
from weft._capsules.writing import raised_of
from weft._exits import amount
from weft._lazy import lazy
from weft._options import DEFAULT_TASK
from weft._runtime.arguments import Dependency
from weft._serialize.pickling import dumps, load_code, unpack
from weft._specs import Code, Shape, TaskSpec
from weft.exceptions import ObjectLostError

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping
    from pathlib import Path

    import numpy

    from weft._capsules.reading import Capsule
    from weft._capsules.records import GivenArguments, Piece
    from weft._engine import Engine
    from weft._refs import ObjectRef
else:
    numpy = lazy("numpy")


class KeptValues:
    """What a call needs. CapsuleError, wherever something is missing."""

    def __init__(self, capsule: Capsule, supplied: Mapping[str, Path]) -> None:
        """`supplied`: files with values for arguments, by name."""
        self.remarks: list[str] = []
        """What is not as it was, in lines."""
        self._capsule = capsule
        self._manifest = capsule.manifest
        self._supplied = dict(supplied)
        self._references: dict[str, ObjectRef[Any]] = {}

    def set_random_states(self) -> None:
        """Put the random generators where they were when the call began."""
        if not self._manifest.random:
            return
        try:
            set_random_states(unpack(self._capsule.member("random.pkl")))
        except ImportError as error:
            self.remarks.append(f"random numbers are not as they were: {error}")

    def code(self) -> Any:
        """Return the function, or the actor's class."""
        piece = self._manifest.code
        if not piece.file:
            raise CapsuleError(
                f"the code of {self._manifest.function} is not in the capsule: it has "
                f"{piece.size_bytes} bytes, and WEFT_CAPSULE_BYTES did not allow so many"
            )
        return self._read(piece, load_code)

    def arguments(
        self, given: GivenArguments | None, function: Callable[..., Any], *, prefix: str = ""
    ) -> tuple[tuple[Any, ...], dict[str, Any]]:
        """Return (args, kwargs). `prefix` stands before the names of those that are supplied."""
        if given is None or given.packed is None:
            return (), {}
        if not given.packed.file:
            raise CapsuleError(
                f"the arguments are not in the capsule: {amount(given.packed.size_bytes)} that "
                "could not be taken apart, or could not be read any more"
            )
        args, kwargs = self._read(given.packed, unpack)
        names = [*_positional_names(function, len(args)), *kwargs]
        values = [*args, *kwargs.values()]
        missing = []
        for index, (name, value) in enumerate(zip(names, values, strict=True)):
            piece = given.pieces[value.index] if type(value) is Dependency else None
            path = self._supplied.pop(prefix + name, None)
            if path is not None:
                values[index] = self._supplied_value(prefix + name, path, piece)
            elif piece is not None and piece.file:
                values[index] = self._read(piece, unpack)
            elif piece is not None:
                missing.append(f"{prefix}{name} ({describe(piece)})")
        if missing:
            raise CapsuleError(
                f"not in the capsule: {', '.join(missing)}; give --arg NAME=FILE for each"
            )
        return tuple(values[: len(args)]), dict(zip(kwargs, values[len(args) :], strict=True))

    def refuse_unknown(self) -> None:
        """Raise CapsuleError if a value is supplied that no argument has taken."""
        if self._supplied:
            raise CapsuleError(
                f"--arg {', '.join(self._supplied)}: {self._manifest.name} was called with no "
                "argument of this name"
            )

    def _supplied_value(self, name: str, path: Path, piece: Piece | None) -> Any:
        try:
            value = numpy.load(path) if path.suffix == ".npy" else unpack(path.read_bytes())
        except Exception as error:  # noqa: BLE001 - a file of the user's, whatever it is
            raise CapsuleError(f"--arg {name}={path}: {type(error).__name__}: {error}") from None
        if piece is not None and piece.sha256:
            now = fingerprint(value, dumps(value))
            if now.sha256 != piece.sha256:
                self.remarks.append(
                    f"{name} is not what it was, byte for byte: {describe(now)} here, "
                    f"{describe(piece)} there"
                )
        return value

    def _read(self, piece: Piece, read: Callable[[bytes], Any]) -> Any:
        """Make a value of what is kept. What the failure was is raised, else CapsuleError."""
        data = self._capsule.packed(piece)
        try:
            return read(data)
        except CapsuleError:
            raise
        except Exception as error:
            raised = self._manifest.raised
            if raised is not None and raised.type == raised_of(error).type:
                raise
            raise CapsuleError(self._why_unread(piece.file, error)) from error

    def _why_unread(self, file: str, error: Exception) -> str:
        why = f"{file} cannot be read here: {type(error).__name__}: {error}"
        if isinstance(error, ModuleNotFoundError) and error.name:
            package = error.name.partition(".")[0]
            version = self._manifest.versions.get(package)
            where = f"version {version} there" if version else "a module of the program's own"
            return f"{why} ({where}): install it, or run this where it is found"
        return why

    def reference(self, key: str, engine: Engine) -> ObjectRef[Any]:
        """Return what stands in an engine for a reference of the failed task's."""
        if key not in self._references:
            piece = self._manifest.references.get(key)
            if piece is not None and piece.file:
                made = engine.put(self._read(piece, unpack))
            else:
                why = "was too large for it" if piece else "had not been asked for"
                made = _lost(
                    f"the value of reference {key} is not in the capsule: it {why}", engine
                )
            self._references[key] = made
        return self._references[key]


def _lost(why: str, engine: Engine) -> ObjectRef[Any]:
    """Return a reference whose value is an error."""

    def fail() -> None:
        raise ObjectLostError(message=why)

    spec = TaskSpec(Code(fail, "reference"), (), {}, DEFAULT_TASK, Shape())
    ref: ObjectRef[Any] = next(iter(engine.submit(spec)))
    return ref


def _positional_names(function: Callable[..., Any], count: int) -> list[str]:
    """Return the names of the parameters that so many arguments go to; numbers where none is."""
    names: list[str] = []
    with contextlib.suppress(TypeError, ValueError):  # a callable of C that has no signature
        for parameter in inspect.signature(function).parameters.values():
            if parameter.kind not in (parameter.POSITIONAL_ONLY, parameter.POSITIONAL_OR_KEYWORD):
                break
            names.append(parameter.name)
    return [*names, *map(str, range(len(names), count))][:count]


def describe(piece: Piece) -> str:
    """Say in some words what a value is."""
    words = [piece.type or "a value"]
    if piece.shape is not None:
        words.append(f"{piece.shape} {piece.dtype}".strip())
    elif piece.length is not None:
        words.append(f"of length {piece.length}")
    return f"{' '.join(words)}, {amount(piece.size_bytes)}"
