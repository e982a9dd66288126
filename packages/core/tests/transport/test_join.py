from __future__ import annotations

import contextlib
import pickle

import pytest
from hypothesis import given
from hypothesis import strategies as st

from weft._transport.join import JoinString
from weft.exceptions import OptionError

TOKEN, FINGERPRINT = bytes(range(16)), bytes(range(100, 132))
GOOD = "weft://head:6379#AAECAwQFBgcICQoLDA0ODw.ZGVmZ2hpamtsbW5vcHFyc3R1dnd4eXp7fH1-f4CBgoM"


def test_join_string_says_where_the_head_is_and_what_proves_it() -> None:
    join = JoinString.parse(f" {GOOD}\n")
    assert join == JoinString("head", 6379, TOKEN, FINGERPRINT)
    assert join.format() == GOOD


@given(
    st.sampled_from(["head", "10.0.0.1", "::1", "fe80::1", "a-b.c_d.example.org"]),
    st.integers(1, 65535),
    st.binary(min_size=16, max_size=16),
    st.binary(min_size=32, max_size=32),
)
def test_what_is_formatted_is_parsed(host: str, port: int, token: bytes, pin: bytes) -> None:
    join = JoinString(host, port, token, pin)
    assert JoinString.parse(join.format()) == join


def test_ipv6_address_stands_in_brackets() -> None:
    join = JoinString("::1", 80, TOKEN, FINGERPRINT)
    assert join.address == "[::1]:80"
    assert join.format().startswith("weft://[::1]:80#")


def test_token_is_in_no_print() -> None:
    join = JoinString.parse(GOOD)
    for text in (repr(join), str(join), f"{join}"):
        assert text == "JoinString(weft://head:6379#...)"


SECRETS = GOOD.partition("#")[2]


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("", "begins with weft://"),
        ("head:6379", "begins with weft://"),
        ("http://head:6379#x.y", "begins with weft://"),
        ("weft://head:6379", "'head:6379' ends before its '#': quote it"),
        (f"weft://head#{SECRETS}", "not HOST:PORT"),
        (f"weft://:6379#{SECRETS}", "not HOST:PORT"),
        (f"weft://a b:6379#{SECRETS}", "not HOST:PORT"),
        (f"weft://::1:6379#{SECRETS}", "stands in brackets"),
        (f"weft://[::1#{SECRETS}", "not HOST:PORT"),
        (f"weft://[head]:6379#{SECRETS}", "not HOST:PORT"),
        (f"weft://head:#{SECRETS}", "port"),
        (f"weft://head:0#{SECRETS}", "from 1 to 65535"),
        (f"weft://head:65536#{SECRETS}", "from 1 to 65535"),
        (f"weft://head:6379x#{SECRETS}", "from 1 to 65535"),
        (f"weft://head:\u0661#{SECRETS}", "from 1 to 65535"),
        (f"weft://{'h' * 300}:6379#{SECRETS}", "..."),
        ("weft://head:6379#", "token of 0 letters"),
        ("weft://head:6379#AAECAwQFBgcICQoLDA0ODw", "fingerprint of 0 letters"),
        (GOOD[:-1], "fingerprint of 42 letters"),
        (GOOD + "A", "fingerprint of 44 letters"),
        (GOOD.replace("AAEC", "AA+C"), "token of 22 letters"),
        (GOOD.replace("ODw.", "ODx."), "token of 22 letters"),
        (GOOD.replace("#", "#="), "token of 23 letters"),
    ],
)
def test_wrong_join_string_is_refused_in_one_line_without_its_token(text: str, words: str) -> None:
    with pytest.raises(OptionError) as met:
        JoinString.parse(text)
    message = str(met.value)
    assert words in message
    assert "copy the whole line that `weft start --head` printed" in message
    assert "\n" not in message
    assert "AwQFBgcI" not in message
    assert len(message) < 300


@given(st.text(max_size=80))
def test_no_text_does_more_than_be_refused(text: str) -> None:
    for join in (text, f"weft://{text}", f"weft://head:1#{text}"):
        with contextlib.suppress(OptionError):
            JoinString.parse(join)


def test_join_string_travels() -> None:
    join = JoinString.parse(GOOD)
    assert pickle.loads(pickle.dumps(join)) == join
