"""Values of options: sizes in bytes, and several values by name."""

from __future__ import annotations

import re
from typing import TypeVar

import click
import msgspec

T = TypeVar("T")

_UNITS = {"": 1, "B": 1} | {
    f"{prefix}{suffix}": base**power
    for power, prefix in enumerate("KMGT", 1)
    for suffix, base in (("", 1024), ("iB", 1024), ("B", 1000))
}
_SIZE = re.compile(r"([0-9]+(?:\.[0-9]+)?)\s*([KMGT]?(?:i?B)?)")


def size(text: str) -> int:
    """Read a number of bytes: 4GiB, 500MB, 1000000. BadParameter: it is none."""
    found = _SIZE.fullmatch(text.strip())
    if found is None or found[2] not in _UNITS:
        raise click.BadParameter(f"{text!r} is no size: write it like 4GiB, 500MB or 1000000")
    return int(float(found[1]) * _UNITS[found[2]])


def amounts(text: str) -> dict[str, float]:
    """Read numbers by name: `a=1,b=0.5`, or the same as a JSON object. BadParameter: not so."""
    return _pairs(text, float, "a=1,b=0.5")


def texts(text: str) -> dict[str, str]:
    """Read texts by name: `zone=a,kind=b`, or the same as a JSON object. BadParameter: not so."""
    return _pairs(text, str, "zone=a,kind=b")


def _pairs(text: str, kind: type[T], example: str) -> dict[str, T]:
    try:
        if text.lstrip().startswith("{"):
            return msgspec.json.decode(text, type=dict[str, kind])  # type: ignore[valid-type]
        pairs = [pair.split("=", 1) for pair in text.split(",") if pair.strip()]
        return {
            name.strip(): msgspec.convert(each.strip(), kind, strict=False) for name, each in pairs
        }
    except ValueError:
        raise click.BadParameter(f"{text!r}: write it like {example}, or as JSON") from None
