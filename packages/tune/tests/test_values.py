from __future__ import annotations

import math
import threading
from typing import Any

import hypothesis.strategies as st
import numpy as np
import pytest
from hypothesis import given

from weft.tune._values import decode, encode, flattened, packed, simplified, unpacked

plain = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text() | st.binary(),
    lambda inner: st.lists(inner) | st.dictionaries(st.text() | st.integers(), inner)
    | st.tuples(inner, inner),
    max_leaves=8,
)  # fmt: skip


def same(a: Any, b: Any) -> bool:
    """Equal, of equal types, and NaN is NaN."""
    if type(a) is not type(b):
        return False
    if isinstance(a, float):
        return a == b or (math.isnan(a) and math.isnan(b))
    if isinstance(a, dict):
        return list(a) == list(b) and all(same(a[key], b[key]) for key in a)
    if isinstance(a, list | tuple):
        return len(a) == len(b) and all(map(same, a, b))
    return bool(a == b)


@given(st.dictionaries(st.text(), plain))
def test_every_value_comes_back_as_it_was_and_takes_one_line(value: dict[str, Any]) -> None:
    text = encode(value)
    assert b"\n" not in text
    assert same(decode(text), value)


@pytest.mark.parametrize("value", [2**70, "\ud800", {1, 2}, (1, 2), math.nan, np.arange(3)])
def test_value_that_json_cannot_say_is_pickled(value: Any) -> None:
    text = encode({"x": value})
    assert text.startswith(b'"')
    found = decode(text)["x"]
    assert type(found) is type(value)
    assert np.array_equal(found, value) or math.isnan(value)


def test_functions_and_classes_of_users_are_pickled_by_value() -> None:
    assert decode(encode({"f": lambda x: x + 1}))["f"](2) == 3


def test_numbers_of_array_libraries_become_pythons_own() -> None:
    found = simplified({"a": np.float32(0.5), "b": {"c": np.array(3)}, "d": np.arange(2), "e": "x"})
    assert found["a"] == 0.5
    assert type(found["a"]) is float
    assert found["b"] == {"c": 3}
    assert isinstance(found["d"], np.ndarray)


def test_inner_dictionaries_have_paths() -> None:
    assert flattened({"a": {"b": {"c": 1}, "d": 2}, "e": 3}) == {"a/b/c": 1, "a/d": 2, "e": 3}
    whole = {"a": 1}
    assert flattened(whole) is whole


def test_exceptions_travel_or_do_not() -> None:
    error = unpacked(packed(KeyError("x")))
    assert isinstance(error, KeyError)
    held = ValueError("x")
    held.lock = threading.Lock()  # type: ignore[attr-defined]
    assert packed(held) == ""
    assert unpacked("AAAA") is None
    assert unpacked(packed(3)) is None  # type: ignore[arg-type]
