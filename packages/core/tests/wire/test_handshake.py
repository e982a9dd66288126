from __future__ import annotations

import pickle

import msgspec
import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from weft._wire.handshake import (
    MOST_WORDS,
    VERSION,
    ClientHandshake,
    Handshake,
    ServerHandshake,
)
from weft._wire.version import agreed
from weft.exceptions import AuthenticationError, ProtocolError

TOKEN = b"t" * 16
NONCES = b"s" * 32, b"c" * 32


def pair(
    server_token: bytes = TOKEN,
    client_token: bytes = TOKEN,
    server_version: int = 5,
    client_version: int = 5,
) -> tuple[ServerHandshake, ClientHandshake]:
    return (
        ServerHandshake(server_token, NONCES[0], server_version),
        ClientHandshake(client_token, NONCES[1], client_version),
    )


def is_over(end: Handshake) -> bool:
    return end.is_proven or end.failure is not None


def talk(first: Handshake, second: Handshake) -> list[bytes]:
    """Carry all that both say; return it."""
    said = []
    ends = [(first, second), (second, first)]
    while any(not is_over(end) for end in (first, second)):
        before = len(said)
        for speaker, hearer in ends:
            data = speaker.say()
            if data:
                said.append(data)
                if not is_over(hearer):
                    hearer.receive(data)
        if len(said) == before:
            break
    return said


def failure(end: Handshake) -> ProtocolError:
    assert end.failure is not None
    assert not end.is_proven
    assert "\n" not in str(end.failure)
    return end.failure


def test_both_sides_prove_the_token() -> None:
    server, client = pair()
    said = talk(server, client)
    assert server.is_proven
    assert client.is_proven
    assert (server.version, client.version) == (5, 5)
    assert [len(each) for each in said] == [38, 70, 33]
    assert TOKEN not in b"".join(said)


def test_bytes_are_as_they_are_written_down() -> None:
    """These never change: an older release has to understand as much of a newer one."""
    server, client = pair()
    said = talk(server, client)
    assert said[0] == b"weft\x05\x00" + NONCES[0]
    assert said[1][:38] == b"weft\x05\x00" + NONCES[1]
    assert said[1][38:].hex() == (
        "80e97c135a57874f0fdb8b3fec29597e910f7d6a49e3ce1460394ea84f4bd7db"
    )
    assert said[2].hex() == ("019e13761f5dfe4974cf21386b3da6a9173b78aa7f728722a953e13b73247578c0")


@given(st.lists(st.integers(1, 40), max_size=10), st.binary(max_size=50))
@example([20], b"")
def test_it_goes_the_same_however_the_bytes_are_cut(cuts: list[int], rest: bytes) -> None:
    server, client = pair()
    for speaker, hearer, more in (
        (server, client, b""),
        (client, server, b""),
        (server, client, rest),
    ):
        data = speaker.say() + more
        for size in [*cuts, 1000]:
            part, data = data[:size], data[size:]
            if part and not is_over(hearer):
                hearer.receive(part)
            elif part:
                hearer.rest += part
    assert server.is_proven
    assert client.is_proven
    assert client.rest == rest


def test_wrong_token_is_told_to_both_in_one_line() -> None:
    server, client = pair(client_token=b"x" * 16)
    talk(server, client)
    assert isinstance(failure(server), AuthenticationError)
    assert isinstance(failure(client), AuthenticationError)
    assert str(server.failure) == "the peer has another token"
    assert str(client.failure) == (
        "the peer refused: the token is not this cluster's: use the join string of "
        "`weft start --head`"
    )


def test_server_without_the_token_proves_nothing() -> None:
    """It may say yes to everybody."""
    server, client = pair(server_token=b"x" * 16)
    client.receive(server.say())
    client.receive(b"\x01" + bytes(32))
    assert isinstance(failure(client), AuthenticationError)


@pytest.mark.parametrize("versions", [(5, 7), (7, 5), (5, 3)])
def test_wrong_version_is_told_to_both_before_a_wrong_token(versions: tuple[int, int]) -> None:
    server, client = pair(TOKEN, b"x" * 16, *versions)
    said = talk(server, client)
    for end, theirs, ours in ((server, versions[1], versions[0]), (client, *versions)):
        assert not isinstance(failure(end), AuthenticationError)
        assert str(failure(end)) == (
            f"the peer speaks wire version {theirs}, this process {ours}: install neighbouring "
            "releases of weft-core"
        )
    assert len(said[1]) == VERSION.size, "there is nothing to be learned of the token"


@pytest.mark.parametrize("versions", [(5, 6), (6, 5)])
def test_neighbouring_releases_speak_the_older_ones_version(versions: tuple[int, int]) -> None:
    server, client = pair(TOKEN, TOKEN, *versions)
    talk(server, client)
    assert (server.version, client.version) == (5, 5)


@given(st.integers(0, 65535), st.integers(0, 65535))
def test_both_sides_come_to_the_same_version(ours: int, theirs: int) -> None:
    assert agreed(ours, theirs) == agreed(theirs, ours)
    assert (agreed(ours, theirs) is None) == (abs(ours - theirs) > 1)


def test_what_follows_a_wrong_version_may_have_any_form() -> None:
    server, client = pair()
    server.receive(VERSION.pack(b"weft", 9) + b"a new form")
    assert "version 9" in str(failure(server))
    client.receive(VERSION.pack(b"weft", 9) + b"a new form that is longer than today's" * 9)
    assert "version 9" in str(failure(client))


@pytest.mark.parametrize("garbage", [b"GET / HTTP/1.1", b"w", b"we", b"wef\0\0\0", b"\0"])
def test_other_protocols_are_refused_at_their_first_wrong_letter(garbage: bytes) -> None:
    for end in pair():
        end.receive(garbage)
        if b"weft".startswith(garbage):
            assert not is_over(end)
        else:
            assert str(failure(end)) == "the peer is no process of Weft's"


def test_replayed_bytes_prove_nothing() -> None:
    server, client = pair()
    said = talk(server, client)
    again = ServerHandshake(TOKEN, b"n" * 32, 5)
    again.receive(said[1])
    assert isinstance(failure(again), AuthenticationError)
    other = ClientHandshake(TOKEN, b"m" * 32, 5)
    other.receive(said[0])
    other.receive(said[2])
    assert isinstance(failure(other), AuthenticationError)


def test_servers_own_bytes_sent_back_prove_nothing() -> None:
    server, client = pair()
    said = talk(server, client)
    again = ServerHandshake(TOKEN, NONCES[0], 5)
    again.receive(said[0] + said[2][1:])
    assert isinstance(failure(again), AuthenticationError)


def test_peer_that_speaks_before_its_turn_is_refused() -> None:
    server, client = pair()
    client.receive(server.say() + b"x")
    assert str(failure(client)) == "the peer spoke before its turn"
    server, client = pair()
    client.receive(server.say())
    server.receive(client.say() + b"x")
    assert str(failure(server)) == "the peer spoke before its turn"


@pytest.mark.parametrize(
    ("answer", "words"),
    [
        (b"\x00no\n", "the peer refused: no"),
        (b"\x00a\x1b[31m\xffb\nmore", "the peer refused: a?[31m?b"),
        (b"\x00" + b"x" * 5000, "the peer refused: " + "x" * MOST_WORDS),
        (b"\x02", "the peer is no process of Weft's"),
    ],
)
def test_refusal_is_one_line_that_steers_no_terminal(answer: bytes, words: str) -> None:
    server, client = pair()
    client.receive(server.say())
    client.receive(answer)
    assert str(failure(client)) == words


def test_refusal_is_read_to_its_end() -> None:
    server, client = pair()
    client.receive(server.say())
    for byte in b"\x00no":
        client.receive(bytes([byte]))
        assert not is_over(client)
    client.receive(b"\n")
    assert str(failure(client)) == "the peer refused: no"


def test_nothing_is_taken_after_the_end() -> None:
    for token in (TOKEN, b"x" * 16):
        ends = pair(client_token=token)
        talk(*ends)
        for end in ends:
            with pytest.raises(ValueError, match="over"):
                end.receive(b"x")


@given(st.binary(max_size=300), st.lists(st.integers(1, 50), max_size=8), st.integers(0, 2))
def test_no_bytes_are_interpreted_or_kept_without_the_proof(
    garbage: bytes, cuts: list[int], stage: int
) -> None:
    with pytest.MonkeyPatch.context() as patch:
        for module, name in ((pickle, "loads"), (pickle, "load"), (msgspec.msgpack, "decode")):
            patch.setattr(module, name, forbidden)
        server, client = pair()
        ends: list[Handshake] = [server, client]
        if stage == 1:
            client.receive(server.say())
        if stage == 2:
            garbage = b"weft\x05\x00" + garbage
        for end in ends:
            data = garbage
            for size in [*cuts, 1000]:
                if data and not is_over(end):
                    end.receive(data[:size])
                data = data[size:]
            assert not end.is_proven
            assert len(end._got) <= MOST_WORDS + 50
            if end.failure is not None:
                assert "\n" not in str(end.failure)
                assert not end._got


@given(st.data())
def test_one_changed_or_missing_bit_of_a_proof_is_enough(data: st.DataObject) -> None:
    server, client = pair()
    client.receive(server.say())
    answer = bytearray(client.say())
    at = data.draw(st.integers(0, 8 * len(answer) - 1))
    answer[at // 8] ^= 1 << at % 8
    server.receive(bytes(answer))
    # Another version is one that both could speak, if it is a neighbour's.
    if server.is_proven:
        assert VERSION.size * 8 > at >= 32
    server, client = pair()
    client.receive(server.say())
    server.receive(client.say())
    result = bytearray(server.say())
    at = data.draw(st.integers(0, 8 * len(result) - 1))
    result[at // 8] ^= 1 << at % 8
    client.receive(bytes(result))
    assert not client.is_proven


def forbidden(*_args: object) -> None:
    raise AssertionError("something was decoded before the proof")
