from __future__ import annotations

import pytest

from weft._wire.messages import Bye, Hello
from weft._wire.version import WIRE, agreed, check_hello
from weft.exceptions import ProtocolError


def hello(version: int) -> Hello:
    return Hello(version, b"w", "", 42, "worker")


def test_peer_of_the_same_version_is_accepted() -> None:
    same = hello(WIRE)
    assert check_hello(same) is same


@pytest.mark.parametrize(("ours", "theirs", "both"), [(5, 4, 4), (5, 5, 5), (5, 6, 5)])
def test_neighbouring_releases_speak_the_older_ones_version(
    ours: int, theirs: int, both: int
) -> None:
    assert check_hello(hello(theirs), ours) == hello(both)


@pytest.mark.parametrize(("ours", "theirs"), [(5, 3), (5, 7), (3, 5), (7, 5), (1, 1000)])
def test_both_sides_of_distant_releases_refuse_with_the_same_line(ours: int, theirs: int) -> None:
    for mine, other in ((ours, theirs), (theirs, ours)):
        with pytest.raises(ProtocolError) as refused:
            check_hello(hello(other), mine)
        assert str(refused.value) == (
            f"the peer (process 42) speaks wire version {other}, this process {mine}: "
            "install neighbouring releases of weft-core"
        )
    assert agreed(ours, theirs) is agreed(theirs, ours) is None


@pytest.mark.parametrize("first", [Bye(), None])
def test_peer_that_does_not_say_hello_is_refused(first: object) -> None:
    with pytest.raises(ProtocolError, match="instead of Hello"):
        check_hello(first)
