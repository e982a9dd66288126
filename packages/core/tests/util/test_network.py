from __future__ import annotations

import ipaddress

import pytest

from weft.util import get_node_ip_address


def test_address_is_one() -> None:
    assert ipaddress.ip_address(get_node_ip_address()).version == 4
    assert get_node_ip_address("127.0.0.1:53") == "127.0.0.1"


def test_address_to_look_for_has_a_port() -> None:
    with pytest.raises(ValueError, match="has to be like"):
        get_node_ip_address("10.0.0.1")
