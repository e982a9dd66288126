"""Filters: which records are wanted, by (key, operator, value)."""

from __future__ import annotations

from functools import cache
from operator import contains, eq, ge, gt, le, lt, ne
from types import UnionType
from typing import TYPE_CHECKING, Any, NamedTuple, get_args

import msgspec

from weft.util.state.common import DEFAULT_LIMIT, MAX_LIMIT, STATES
from weft.util.state.exception import StateApiException

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Sequence

    from weft.util.state.common import Filter

OPERATORS: dict[str, Callable[[Any, Any], bool]] = {
    "=": eq,
    "!=": ne,
    "<": lt,
    "<=": le,
    ">": gt,
    ">=": ge,
    "in": contains,
}
_BOOLEANS = {"true": True, "1": True, "false": False, "0": False}
_RANGES = (lt, le, gt, ge)


class Test(NamedTuple):
    """A filter that is understood."""

    key: str
    passes: Callable[[Any], bool]
    is_range: bool = False
    """What lies between two values that pass passes, and between two that do not, nothing does."""


def tests(filters: Iterable[Filter] | None, kind: type[msgspec.Struct]) -> list[Test]:
    """Return what each filter asks. StateApiException: one cannot be understood."""
    return [_test(wanted, kind) for wanted in filters or ()]


def _test(wanted: Filter, kind: type[msgspec.Struct]) -> Test:
    if len(wanted) != 3:
        raise StateApiException(f"a filter is (key, operator, value), not {wanted!r}")
    key, operator, value = wanted
    if key not in kind.__struct_fields__:
        known = ", ".join(sorted(kind.__struct_fields__))
        raise StateApiException(f"{kind.__name__} has no {key!r}; it has {known}")
    if operator not in OPERATORS:
        raise StateApiException(
            f"there is no operator {operator!r}; there are {' '.join(OPERATORS)}"
        )
    if operator == "in":
        values = value.split(",") if isinstance(value, str) else value
        return Test(key, frozenset(_read(each, kind, key) for each in values).__contains__)
    compare = OPERATORS[operator]
    value = _read(value, kind, key)

    def passes(found: Any) -> bool:
        if found is None or value is None:
            return compare is (eq if found is value else ne)
        return compare(found, value)

    return Test(key, passes, compare in _RANGES)


def _read(value: Any, kind: type[msgspec.Struct], key: str) -> Any:
    """Return a value as the field's type asks: a command line has text only."""
    if value is None:
        return None
    types = _types(kind)[key]
    if bool in types:
        read = _BOOLEANS.get(str(value).lower())
        if read is None:
            raise StateApiException(f"{key} is true or false, not {value!r}")
        return read
    if int in types or float in types:
        try:
            return float(value)
        except (TypeError, ValueError):
            raise StateApiException(f"{key} is a number, not {value!r}") from None
    if str not in types or not isinstance(value, str):
        raise StateApiException(f"{key} cannot be compared with {value!r}")
    if key == "state" and kind in STATES:
        for state in STATES[kind]:
            if state.lower() == value.lower():
                return state
        raise StateApiException(f"there is no state {value!r}; there are {', '.join(STATES[kind])}")
    return value


@cache
def _types(kind: type[msgspec.Struct]) -> dict[str, set[object]]:
    """Return what a field's values may be, by its name."""
    return {
        field.name: set(get_args(field.type)) if isinstance(field.type, UnionType) else {field.type}
        for field in msgspec.structs.fields(kind)
    }


def checked_limit(limit: int | None) -> int:
    """Return how many records are wanted. StateApiException: it is no such number."""
    if limit is None:
        return DEFAULT_LIMIT
    if not 1 <= limit <= MAX_LIMIT:
        raise StateApiException(f"limit is a number from 1 to {MAX_LIMIT:,}, not {limit!r}")
    return limit


def select(records: Iterable[Any], wanted: Sequence[Test]) -> list[Any]:
    """Return those records that pass all tests."""
    return [
        record
        for record in records
        if all(test.passes(getattr(record, test.key)) for test in wanted)
    ]
