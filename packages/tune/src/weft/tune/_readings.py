"""How rules that look at results find a number in them.

A name is a key of the result, or a path into nested results: `"eval/loss"` is `result["eval"]
["loss"]`. What is missing or no number is the user's mistake, and is told with the names that were
reported. NaN and infinities are numbers; what they are worth is up to the rule.
"""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import suppress
from typing import Any

from weft.exceptions import OptionError

_ABSENT = object()
_SHOWN_NAMES = 20
"""Of the names that a message lists."""


def _names(result: Mapping[str, Any]) -> list[str]:
    """Return every name that could have been asked for, nested ones as paths."""
    names: list[str] = []
    for key, value in result.items():
        if isinstance(value, Mapping):
            names += [f"{key}/{name}" for name in _names(value)]
        else:
            names.append(str(key))
    return sorted(names)


def _find(result: Mapping[str, Any], name: str) -> Any:
    if name in result:
        return result[name]
    found: Any = result
    for key in name.split("/"):
        if not isinstance(found, Mapping) or key not in found:
            return _ABSENT
        found = found[key]
    return found


def has_reading(result: Mapping[str, Any], name: str) -> bool:
    """Return whether a result has something under a name."""
    return _find(result, name) is not _ABSENT


def read_number(result: Mapping[str, Any], name: str, *, reader: str, trial_id: str) -> float:
    """Return the number that a trial reported under a name; for messages: who asks for it.

    Raises:
        OptionError: There is none, or it is no number.
    """
    value = _find(result, name)
    if value is _ABSENT:
        names = _names(result)
        more = f" and {len(names) - _SHOWN_NAMES} more" if len(names) > _SHOWN_NAMES else ""
        reported = ", ".join(names[:_SHOWN_NAMES]) + more if names else "nothing"
        raise OptionError(
            f"{reader} looks at {name!r}, which trial {trial_id} did not report; it reported: "
            f"{reported}"
        )
    if type(value) is float:
        return value
    if not isinstance(value, str | bytes):  # float("0.5") is a number; reporting it, a mistake
        with suppress(TypeError, ValueError, OverflowError):
            return float(value)
    raise OptionError(
        f"{reader} looks at {name!r}, for which trial {trial_id} reported no number but "
        f"{value!r:.80} ({type(value).__name__})"
    )
