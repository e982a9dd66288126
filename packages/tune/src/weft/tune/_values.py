"""Configurations and results as text: JSON where JSON can say them exactly, else pickled.

Both are dictionaries. JSON text begins with a brace; a pickle is a JSON string, in base64. What
comes back equals what went in: a tuple, NaN, a set or an object of a user's class is pickled, for
JSON would change or refuse it.
"""

from __future__ import annotations

import base64
import math
import pickle
from typing import TYPE_CHECKING, Any

import msgspec

from weft.lowlevel import lazy

if TYPE_CHECKING:
    from collections.abc import Mapping

    import cloudpickle
else:
    cloudpickle = lazy("cloudpickle")

_encoder = msgspec.json.Encoder()
_PLAIN = frozenset({str, bool, type(None)})
_NUMBERS = frozenset({int, float})
# Not every reader of JSON takes larger whole numbers for what they are.
_LARGEST = 2**63 - 1


def _is_plain(value: Any) -> bool:
    """Tell whether JSON says this value exactly."""
    kind = type(value)
    if kind is float:
        return math.isfinite(value)
    if kind in _PLAIN:
        return True
    if kind is int:
        return bool(-_LARGEST <= value <= _LARGEST)
    if kind is dict:
        return all(type(key) is str and _is_plain(inner) for key, inner in value.items())
    return kind is list and all(map(_is_plain, value))


def encode(value: dict[str, Any]) -> bytes:
    """Return a dictionary as one line of text.

    Raises:
        Exception: What pickling it raises.
    """
    if _is_plain(value):
        try:
            return _encoder.encode(value)
        except ValueError:
            pass  # half a surrogate pair
    return _encoder.encode(base64.b64encode(cloudpickle.dumps(value)).decode())


def decode(text: bytes | msgspec.Raw) -> dict[str, Any]:
    """Return the dictionary that was encoded; a new one at each call."""
    value: Any = msgspec.json.decode(text)
    if isinstance(value, str):
        value = pickle.loads(base64.b64decode(value))  # noqa: S301 - this experiment wrote it
    made: dict[str, Any] = value
    return made


def simplified(metrics: Mapping[Any, Any]) -> dict[Any, Any]:
    """Return a result with numbers of array libraries (numpy, torch ...) as Python's own."""
    return {key: _simple(value) for key, value in metrics.items()}


def _simple(value: Any) -> Any:
    if type(value) in _PLAIN or type(value) in _NUMBERS:
        return value
    if isinstance(value, dict):
        return simplified(value)
    if getattr(value, "shape", None) == () and callable(item := getattr(value, "item", None)):
        return item()
    return value


def flattened(result: dict[str, Any]) -> dict[str, Any]:
    """Return a result with the values of inner dictionaries under `outer/inner`."""
    if not any(type(value) is dict for value in result.values()):
        return result
    flat: dict[str, Any] = {}
    for key, value in result.items():
        if type(value) is dict:
            flat.update({f"{key}/{inner}": found for inner, found in flattened(value).items()})
        else:
            flat[key] = value
    return flat


def packed(error: BaseException) -> str:
    """Return an exception as text; empty: it does not travel."""
    try:
        return base64.b64encode(cloudpickle.dumps(error)).decode()
    except Exception:  # noqa: BLE001 - an error that does not travel is told in words
        return ""


def unpacked(text: str) -> BaseException | None:
    """Return the exception; None: it did not travel, or its class is not here."""
    try:
        error = pickle.loads(base64.b64decode(text))  # noqa: S301 - this experiment wrote it
    except Exception:  # noqa: BLE001 - whatever its class raises, it is told in words
        return None
    return error if isinstance(error, BaseException) else None
