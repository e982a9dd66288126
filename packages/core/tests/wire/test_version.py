from __future__ import annotations

import pytest

from weft._wire.messages import Bye, Hello
from weft._wire.version import WIRE, check_hello
from weft.exceptions import ProtocolError


def test_peer_of_the_same_version_is_accepted() -> None:
    hello = Hello(WIRE, b"w", "", 1, "worker")
    assert check_hello(hello) is hello


@pytest.mark.parametrize("version", [WIRE - 1, WIRE + 1])
def test_peer_of_another_version_is_refused_with_what_to_do(version: int) -> None:
    with pytest.raises(ProtocolError, match=f"process 42.*version {version}.*same release"):
        check_hello(Hello(version, b"w", "", 42, "worker"))


@pytest.mark.parametrize("first", [Bye(), None])
def test_peer_that_does_not_say_hello_is_refused(first: object) -> None:
    with pytest.raises(ProtocolError, match="instead of Hello"):
        check_hello(first)
