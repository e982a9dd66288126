"""Values of options: sizes in bytes, and several values by name."""

from __future__ import annotations

import re
from typing import Any

import click
import msgspec

from weft._override import override

_UNITS = {"": 1, "B": 1} | {
    f"{prefix}{suffix}": base**power
    for power, prefix in enumerate("KMGT", 1)
    for suffix, base in (("", 1024), ("iB", 1024), ("B", 1000))
}
_SIZE = re.compile(r"([0-9]+(?:\.[0-9]+)?)\s*([KMGT]?(?:i?B)?)")


class Size(click.ParamType):
    """A number of bytes: 4GiB, 500MB, 1000000."""

    name = "size"

    @override
    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> int:
        """Read it, as click asks for it."""
        found = _SIZE.fullmatch(str(value).strip())
        if found is None or found[2] not in _UNITS:
            self.fail(f"{value!r} is no size: write it like 4GiB, 500MB or 1000000", param, ctx)
        return int(float(found[1]) * _UNITS[found[2]])


class Pairs(click.ParamType):
    """Values by name: `a=1,b=2`, or the same as a JSON object."""

    name = "pairs"

    def __init__(self, *, are_numbers: bool = False) -> None:
        self._are_numbers = are_numbers

    @override
    def convert(
        self, value: Any, param: click.Parameter | None, ctx: click.Context | None
    ) -> dict[str, Any]:
        """Read them, as click asks for it."""
        if isinstance(value, dict):
            return value
        text = str(value).strip()
        try:
            if text.startswith("{"):
                kind = dict[str, float] if self._are_numbers else dict[str, str]
                return msgspec.json.decode(text, type=kind)
            pairs = [pair.split("=", 1) for pair in text.split(",") if pair.strip()]
            return {
                name.strip(): float(each) if self._are_numbers else each.strip()
                for name, each in pairs
            }
        except ValueError as error:
            example = "a=1,b=0.5" if self._are_numbers else "zone=a,kind=b"
            self.fail(f"{value!r} ({error}): write it like {example}", param, ctx)
