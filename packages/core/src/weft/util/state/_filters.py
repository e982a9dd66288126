"""Filters: which records are wanted, by (key, operator, value)."""

from __future__ import annotations

from operator import eq, ge, gt, le, lt, ne
from typing import TYPE_CHECKING, Any

from weft.util.state.common import DEFAULT_LIMIT, MAX_LIMIT
from weft.util.state.exception import StateApiException

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Sequence

    import msgspec

    from weft.util.state.common import Filter

OPERATORS: dict[str, Callable[[Any, Any], bool]] = {
    "=": eq,
    "!=": ne,
    "<": lt,
    "<=": le,
    ">": gt,
    ">=": ge,
    "in": lambda value, wanted: value in wanted,
}
Test = tuple[str, "Callable[[Any], bool]"]


def tests(filters: Iterable[Filter] | None, kind: type[msgspec.Struct]) -> list[Test]:
    """Return (field, test) of each filter. StateApiException: one cannot be understood."""
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
    if operator == "in" and isinstance(value, str):
        value = value.split(",")
    compare = OPERATORS[operator]
    folds = key == "state"

    def test(found: Any) -> bool:
        if operator == "in":
            return any(_fits(eq, found, each, folds=folds) for each in value)
        return _fits(compare, found, value, folds=folds)

    return key, test


def _fits(
    compare: Callable[[Any, Any], bool], found: Any, wanted: Any, *, folds: bool = False
) -> bool:
    """Compare as the field's type asks: a command line has text only."""
    if found is None:
        return compare is ne and wanted is not None
    if isinstance(wanted, str) and not isinstance(found, str):
        wanted = _typed(wanted, found)
    if folds and isinstance(wanted, str):
        wanted = wanted.upper() if found.isupper() else wanted.lower()
    try:
        return bool(compare(found, wanted))
    except TypeError:
        return False


def _typed(wanted: str, like: Any) -> Any:
    if isinstance(like, bool):
        return {"true": True, "1": True, "false": False, "0": False}.get(wanted.lower(), wanted)
    try:
        return float(wanted) if isinstance(like, int | float) else wanted
    except ValueError:
        return wanted


def checked_limit(limit: int | None) -> int:
    """Return how many records are wanted. StateApiException: it is no such number."""
    if limit is None:
        return DEFAULT_LIMIT
    if not 1 <= limit <= MAX_LIMIT:
        raise StateApiException(f"limit is a number from 1 to {MAX_LIMIT:,}, not {limit!r}")
    return limit


def select(records: Iterable[Any], wanted: Sequence[Test]) -> list[Any]:
    """Return those records that pass all tests."""
    return [record for record in records if all(test(getattr(record, key)) for key, test in wanted)]
