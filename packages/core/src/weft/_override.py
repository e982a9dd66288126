"""The mark of a method that replaces one of a base class.

The standard library's `typing.override` is there from Python 3.12 on only, and `typing_extensions`
is no dependency.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from typing_extensions import override
else:

    def override(method: object) -> object:
        """Return the method."""
        return method


__all__ = ["override"]
