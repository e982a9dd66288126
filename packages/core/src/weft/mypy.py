"""A plug-in for mypy: `@weft.remote` above a class.

mypy takes no notice of what a class's decorator returns, so that `Counter.remote(...)` is an error to
it. With this in pyproject.toml it is typed as with `Counter = weft.remote(PlainCounter)`, and methods
need no `@weft.method` to have `.remote`:

    [tool.mypy]
    plugins = ["weft.mypy"]

Facts about mypy's plug-ins. A class's decorators are seen while names are bound, when no signature is
known yet; so the attributes that are added here are generic over the class, and mypy works the
signature out when one is called.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from mypy.nodes import MDEF, FuncDef, SymbolTableNode, TypeInfo, Var
from mypy.plugin import Plugin
from mypy.plugins.common import add_attribute_to_class
from mypy.types import CallableType, Instance, Parameters, TypeType, get_proper_type
from mypy.typevars import fill_typevars_with_any

if TYPE_CHECKING:
    from collections.abc import Callable

    from mypy.plugin import ClassDefContext
    from mypy.types import ProperType, Type

_ACTORS: Final = "weft._api.actors"
_DECORATOR: Final = "weft._api.decorators.remote"
_STREAMS: Final = {"Iterator", "Generator", "AsyncIterator", "AsyncGenerator"}
_REFERENCES: Final = ("ObjectRef", "ObjectRefGenerator")


class WeftPlugin(Plugin):
    """What mypy asks about names of Weft."""

    def get_class_decorator_hook_2(self, fullname: str) -> Callable[[ClassDefContext], bool] | None:
        """Return what is done for a class under the decorator `fullname`."""
        return _make_remote if fullname == _DECORATOR else None


def _make_remote(context: ClassDefContext) -> bool:
    """Add `remote`, `options` and `bind` to a class, and `remote` to its methods.

    False: ask again when more is known.
    """
    info = context.cls.info
    metaclass = _class(context, f"{_ACTORS}.RemoteType")
    decorated = _class(context, f"{_ACTORS}.DecoratedMethod")
    references = {name: _class(context, f"weft._refs.{name}") for name in _REFERENCES}
    if metaclass is None or decorated is None or None in references.values():
        return False
    info.declared_metaclass = info.metaclass_type = Instance(metaclass, [])
    for name, symbol in list(info.names.items()):
        plain = symbol.node
        if not isinstance(plain, FuncDef) or plain.is_static or plain.is_class or _is_own(name):
            continue
        kind = get_proper_type(plain.type)
        if not isinstance(kind, CallableType) or kind.variables or not kind.arg_types:
            continue
        parameters = Parameters(kind.arg_types[1:], kind.arg_kinds[1:], kind.arg_names[1:])
        reference, value = _reference_to(get_proper_type(kind.ret_type))
        made = references[reference]
        assert made is not None
        method = Var(name, Instance(decorated, [parameters, kind.ret_type, Instance(made, [value])]))
        method.info = info
        method._fullname = f"{info.fullname}.{name}"
        method.is_initialized_in_class = True
        method.is_classvar = True
        info.names[name] = SymbolTableNode(MDEF, method)
    return True


def _class(context: ClassDefContext, fullname: str) -> TypeInfo | None:
    symbol = context.api.lookup_fully_qualified_or_none(fullname)
    return symbol.node if symbol is not None and isinstance(symbol.node, TypeInfo) else None


def _is_own(name: str) -> bool:
    return name.startswith("__") and name.endswith("__")


def _reference_to(result: ProperType) -> tuple[str, Type]:
    """Return what a call that returns `result` gives: (kind of reference, type of its value)."""
    if isinstance(result, Instance) and result.args:
        name = result.type.fullname.rpartition(".")[2]
        if name == "Coroutine":
            return "ObjectRef", result.args[2]
        if name in _STREAMS:
            return "ObjectRefGenerator", result.args[0]
    return "ObjectRef", result


def plugin(version: str) -> type[Plugin]:
    """Return the plug-in; mypy calls this."""
    return WeftPlugin
