"""Which modules' functions and classes go by value: those that no import elsewhere leads to.

`sys.modules` does not tell: a module there may be made by hand, or loaded from a file that no
search leads to, as pytest does in its importlib mode. So the finders of `sys.meta_path` are asked,
as an import would, but nothing is imported. Workers search where their driver does.

What is always true
1. A module that was loaded from a file under its name can be found if the search for that leads to
   the file, and the same holds of its package. A file of the same name elsewhere does not count.
2. Any other can be found if the search leads to anything, or if its package can be found: importing
   that makes it, as with `torch._C._nn`, or gives another module a second name.
3. The finders are asked once for each module; again when its name stands for another one.
"""

from __future__ import annotations

import os
import sys
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Sequence
    from importlib.machinery import ModuleSpec

MAIN = frozenset({"__main__", "__mp_main__"})

_CLOUDPICKLE = "cloudpickle.cloudpickle"
_UNKNOWN = object()
_modules: dict[str, Any] = sys.modules
_found: dict[str, Any] = {}
"""The modules that were found, by name."""
_not_found: dict[str, ModuleSpec | None] = {}
"""By name; only the spec, which shows whether the name stands for another module since."""


class _Chosen:
    """What `cloudpickle.register_pickle_by_value` was told; None until cloudpickle is loaded."""

    names: set[str] | None = None


def goes_by_value(name: str | None) -> bool:
    """Tell whether functions and classes of a module go by value.

    So do those of the program itself, of modules that the user named to cloudpickle, and of those
    that cannot be found.
    """
    # This runs for every function and class of every pickle, so the usual answers come first.
    if name is None or name in MAIN:
        return True
    chosen = _Chosen.names
    if (
        _found.get(name, _UNKNOWN) is _modules.get(name)
        and not chosen
        and (chosen is not None or _CLOUDPICKLE not in _modules)
    ):
        return False
    return not _can_be_found(name) or _is_chosen(name)


def _is_chosen(name: str) -> bool:
    cloudpickle = _modules.get(_CLOUDPICKLE)
    if cloudpickle is None:
        return False
    chosen: set[str] = cloudpickle._PICKLE_BY_VALUE_MODULES
    _Chosen.names = chosen
    return any(name == each or name.startswith(f"{each}.") for each in chosen)


def _can_be_found(name: str) -> bool:
    module = _modules.get(name)
    spec: ModuleSpec | None = getattr(module, "__spec__", None)
    if _found.get(name, _UNKNOWN) is module:
        return True
    if _not_found.get(name, _UNKNOWN) is spec:
        return False
    answer = _search(name, spec)
    if answer:
        _found[name] = module
    else:
        _not_found[name] = spec
    return answer


def _search(name: str, spec: ModuleSpec | None) -> bool:
    package = name.rpartition(".")[0]
    if package and goes_by_value(package):
        return False
    found = _find(name, getattr(_modules.get(package), "__path__", ()) if package else None)
    if spec is not None and spec.has_location and spec.name == name:
        return found is not None and _is_same_file(found.origin, spec.origin)
    return found is not None or bool(package)


def _find(name: str, places: Sequence[str] | None) -> ModuleSpec | None:
    finders: list[Any] = sys.meta_path
    for finder in list(finders):
        # An import passes over those that have none, too.
        find_spec = getattr(finder, "find_spec", None)
        found: ModuleSpec | None = find_spec(name, places) if find_spec is not None else None
        if found is not None:
            return found
    return None


def _is_same_file(one: str | None, other: str | None) -> bool:
    if one is None or other is None:
        return False
    return one == other or os.path.realpath(one) == os.path.realpath(other)
