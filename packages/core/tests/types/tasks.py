"""Remote functions as type checkers see them. Read by mypy and pyright, never run."""

from collections.abc import Iterator
from typing import Any, assert_type

import weft
from weft import ObjectRef, ObjectRefGenerator
from weft.remote_function import RemoteFunction


@weft.remote
def area(width: float, height: float = 1.0, *, unit: str = "m") -> str:
    return f"{width * height} {unit}"


@weft.remote(num_cpus=2, max_retries=0)
def length(text: str) -> int:
    return len(text)


@weft.remote
def count(limit: int) -> Iterator[int]:
    yield from range(limit)


@weft.remote(num_returns=2)
def halves(text: str) -> tuple[str, str]:
    return text[:1], text[1:]


@weft.remote(num_returns="dynamic")
def parts(text: str) -> Iterator[str]:
    yield from text


@weft.remote(num_returns="streaming", backpressure=4)
def words(text: str) -> Iterator[str]:
    yield from text.split()


assert_type(area.remote(2.0), ObjectRef[str])
assert_type(area.remote(2.0, height=3.0, unit="km"), ObjectRef[str])
assert_type(weft.get(area.remote(2.0)), str)
remote_length: RemoteFunction[[str], ObjectRef[int]] = length

# A reference stands for its value.
assert_type(length.remote(area.remote(2.0)), ObjectRef[int])
assert_type(area.remote(2.0, length.remote("a")), ObjectRef[str])
assert_type(length.remote(text=area.remote(2.0)), ObjectRef[int])

# Generators give streams.
assert_type(count.remote(3), ObjectRefGenerator[int])
for item in count.remote(3):
    assert_type(item, ObjectRef[int])
assert_type(words.remote("a b"), ObjectRefGenerator[str])


async def consume() -> list[int]:
    total = await length.remote("abc")
    assert_type(total, int)
    return [await ref async for ref in count.remote(total)]


# Several returns give a list.
first, second = halves.remote("ab")
assert_type(first, ObjectRef[Any])
for each in weft.get(parts.remote("ab")):
    assert_type(each, ObjectRef[Any])

# Options keep the parameters.
assert_type(area.options(num_cpus=0.5, name="a").remote(2.0), ObjectRef[str])
assert_type(length.options(num_returns=2).remote("a"), list[ObjectRef[Any]])
assert_type(length.options(num_returns="streaming").remote("a"), ObjectRefGenerator[Any])

# A list of references gives a list of values.
assert_type(weft.get([length.remote("a"), length.remote("b")]), list[int])
ready, rest = weft.wait([length.remote("a"), length.remote("b")], num_returns=2, timeout=1.5)
assert_type(ready, list[ObjectRef[int]])
assert_type(weft.put({"a": 1}), ObjectRef[dict[str, int]])
weft.cancel(ready[0], force=True)

plain = weft.remote(len)
with weft.init(num_cpus=2, engine="inline") as context:
    print(context["node_id"])
