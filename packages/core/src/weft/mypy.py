"""A plug-in for mypy: `@weft.remote` above a class.

mypy takes no notice of what a class's decorator returns, so that `Counter.remote(...)` is an error
to it. With this in pyproject.toml the constructor's arguments and the handle are typed, and methods
have `.remote` also without `@weft.method`:

    [tool.mypy]
    plugins = ["weft.mypy"]

To mypy such a class gets a metaclass that has the verbs `remote`, `options` and `bind`, and its
methods become what `@weft.method` would make of them. A class with a metaclass of its own, such as
an abstract one, gets verbs that take anything.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from mypy.nodes import MDEF, FuncDef, SymbolTableNode, TypeInfo, Var
from mypy.plugin import Plugin
from mypy.plugins.common import add_attribute_to_class
from mypy.types import AnyType, CallableType, Instance, Parameters, TypeOfAny, get_proper_type

from weft._override import override

if TYPE_CHECKING:
    from collections.abc import Callable

    from mypy.plugin import ClassDefContext
    from mypy.types import Type

_CLASSES: Final = "weft._api.actors"
_METHOD: Final = "weft._api.methods.DecoratedMethod"
_DECORATOR: Final = "weft._api.decorators.remote"
_STREAMS: Final = frozenset({"Iterator", "Generator", "AsyncIterator", "AsyncGenerator"})


class WeftPlugin(Plugin):
    """What mypy asks about names of Weft."""

    @override
    def get_class_decorator_hook_2(self, fullname: str) -> Callable[[ClassDefContext], bool] | None:
        """Return what is done for a class under the decorator `fullname`."""
        return _make_remote if fullname == _DECORATOR else None


def plugin(version: str) -> type[Plugin]:
    """Return the plug-in; mypy calls this.

    Args:
        version: Of mypy.
    """
    return WeftPlugin


def _make_remote(context: ClassDefContext) -> bool:
    """Change what mypy thinks of a class. False: ask again when more is known."""
    info = context.cls.info
    kind = "GenericRemoteType" if info.type_vars else "RemoteType"
    metaclass = _class(context, f"{_CLASSES}.{kind}")
    decorated = _class(context, _METHOD)
    reference = _class(context, "weft._refs.ObjectRef")
    stream = _class(context, "weft._refs.ObjectRefGenerator")
    if metaclass is None or decorated is None or reference is None or stream is None:
        return False
    if info.metaclass_type is None or info.metaclass_type.type.fullname == "builtins.type":
        info.declared_metaclass = info.metaclass_type = Instance(metaclass, [])
    else:
        for verb in ("remote", "options", "bind"):
            anything = AnyType(TypeOfAny.explicit)
            add_attribute_to_class(context.api, context.cls, verb, anything, is_classvar=True)
    for name, symbol in list(info.names.items()):
        plain = symbol.node
        is_method = isinstance(plain, FuncDef) and not plain.is_static and not plain.is_class
        if not is_method or (name.startswith("__") and name.endswith("__")):
            continue
        signature = get_proper_type(plain.type) if isinstance(plain, FuncDef) else None
        if not isinstance(signature, CallableType) or not signature.arg_types:
            continue
        if not signature.variables:
            method = Var(name, _method(signature, decorated, reference, stream))
            method.info = info
            method._fullname = f"{info.fullname}.{name}"
            method.is_initialized_in_class = method.is_classvar = True
            info.names[name] = SymbolTableNode(MDEF, method)
    return True


def _class(context: ClassDefContext, fullname: str) -> TypeInfo | None:
    symbol = context.api.lookup_fully_qualified_or_none(fullname)
    return symbol.node if symbol is not None and isinstance(symbol.node, TypeInfo) else None


def _method(
    signature: CallableType, decorated: TypeInfo, reference: TypeInfo, stream: TypeInfo
) -> Type:
    """Return the type that `@weft.method` would give a method of this signature."""
    parameters = Parameters(
        signature.arg_types[1:], signature.arg_kinds[1:], signature.arg_names[1:]
    )
    returned = get_proper_type(signature.ret_type)
    made = Instance(reference, [returned])
    if isinstance(returned, Instance) and returned.args:
        name = returned.type.name
        if name == "Coroutine":
            made = Instance(reference, [returned.args[2]])
        elif name in _STREAMS:
            made = Instance(stream, [returned.args[0]])
    return Instance(decorated, [parameters, returned, made])
