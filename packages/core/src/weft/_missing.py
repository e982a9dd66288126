"""What happens when a library of Weft is used without being installed: the error says what to do.

The libraries are distributions of their own that add `weft.data`, `weft.train`, ... to the package
`weft`. Where one is missing, `install()` makes each of these raise ModuleNotFoundError, which says
"pip install weft-data":

    import weft.data            from weft import data            weft.data

Where it is there, `weft.data` loads it, whether or not it was imported before.

Facts about Python's imports
- `import weft.data` asks the finders of `sys.meta_path` in order. Ours is the last: it is asked
  only when nothing else has found the library, and answers for the libraries' names alone.
- `importlib.util.find_spec("weft.data")` asks in the same way, so it raises too, where for other
  names it returns None.
- `from weft import data` and `weft.data` ask the package's `__getattr__`. It is set at run time:
  type checkers would take a written one as leave to use any name.
"""

from __future__ import annotations

import importlib
import sys
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Sequence
    from importlib.machinery import ModuleSpec
    from types import ModuleType

DISTRIBUTION_OF = {
    **{name: f"weft-{name}" for name in ("cluster", "data", "rllib", "serve", "train", "tune")},
    "air": "weft-tune",
}
"""What to install for each library."""
ON_DEMAND = frozenset({"dag", "internal", "testing", "util"})
"""Parts of the core that are loaded when they are first used: `weft.util.ActorPool`."""


class LibraryFinder:
    """The finder of last resort: it finds nothing, and says what to install."""

    @staticmethod
    def find_spec(
        name: str, path: Sequence[str] | None = None, target: ModuleType | None = None
    ) -> ModuleSpec | None:
        """Return None, or raise ModuleNotFoundError if `name` is a library of Weft."""
        package, _, library = name.partition(".")
        if package == "weft" and library in DISTRIBUTION_OF:
            raise ModuleNotFoundError(
                f"{name} is not installed: pip install {DISTRIBUTION_OF[library]}", name=name
            )
        return None


def install() -> None:
    """Make the package `weft` name the distribution of a library that is missing. Idempotent."""
    if LibraryFinder not in sys.meta_path:
        sys.meta_path.append(LibraryFinder)
    vars(sys.modules["weft"])["__getattr__"] = _library


def _library(name: str) -> ModuleType:
    if name in DISTRIBUTION_OF or name in ON_DEMAND:
        return importlib.import_module(f"weft.{name}")
    raise AttributeError(f"module 'weft' has no attribute {name!r}")
