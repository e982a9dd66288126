"""What both ends say inside TLS before anything else is read: a version, and a proof of the token.

    server -> client   version, N_s                                    38 bytes
    client -> server   version, N_c, HMAC(token, "client" N_s N_c)     70 bytes
    server -> client   yes, HMAC(token, "server" N_s N_c)              33 bytes
                       or no, and one line of text

A version is four letters that say whose protocol it is, and a number. It comes first, so that what
follows it may change, and so that a wrong version is told before a wrong token. The random numbers
N make each proof good for one connection: replayed bytes prove nothing. The words "client" and
"server" keep a proof from being sent back to who made it.

What is always true
1. Not more is kept than the messages above are long, and one line of `MOST_WORDS` bytes.
2. Each side ends once: proven, or failed with one line. After that it takes nothing.
3. Until it is proven no byte of the peer's is interpreted but by the layout above. What comes
   behind the server's proof is `rest`; a peer that speaks before its turn has failed.
4. What is told to a peer that proved nothing is the version, whether it fits, and that the token
   does not.

Source: challenge and response with keyed hashes, RFC 2104 and ISO/IEC 9798-4 (three pass mutual).
"""

from __future__ import annotations

import hmac
import struct
from abc import ABC, abstractmethod

from weft._override import override
from weft._wire.version import WIRE, agreed, refusal
from weft.exceptions import AuthenticationError, ProtocolError

NONCE_BYTES = 32
PROOF_BYTES = 32
MAGIC = b"weft"
VERSION = struct.Struct("<4sH")
MOST_WORDS = 200
_YES, _NO = b"\x01", b"\x00"
_FIRST_BYTES = VERSION.size + NONCE_BYTES
_ANSWER_BYTES = VERSION.size + NONCE_BYTES + PROOF_BYTES
_RESULT_BYTES = 1 + PROOF_BYTES


class Handshake(ABC):
    """One end's part. Give it what arrives, send what it has to say."""

    def __init__(self, token: bytes, nonce: bytes, version: int = WIRE) -> None:
        """`nonce`: `NONCE_BYTES` of the system's random source, of this connection alone."""
        self.failure: ProtocolError | None = None
        self.is_proven = False
        self.version = 0
        """Which both sides speak, once it is proven."""
        self.rest = b""
        """What came behind the proof."""
        self._token = token
        self._nonce = nonce
        self._ours = version
        self._got = bytearray()
        self._said = bytearray()

    def say(self) -> bytes:
        """Return what is to be sent; each byte once. There may be last words after a failure."""
        said = bytes(self._said)
        self._said.clear()
        return said

    def receive(self, data: bytes) -> None:
        """Take what arrived."""
        if self.is_proven or self.failure is not None:
            raise ValueError("the handshake is over")
        self._got += data
        self._read()

    @abstractmethod
    def _read(self) -> None:
        """Go on with what has arrived so far."""

    def _is_version_read(self) -> bool:
        """Look at the version as soon as it is there; tell whether it fits."""
        if len(self._got) < VERSION.size:
            if not MAGIC.startswith(self._got[: len(MAGIC)]):
                self._fail(ProtocolError("the peer is no process of Weft's"))
            return False
        magic, theirs = VERSION.unpack_from(self._got)
        version = agreed(self._ours, theirs)
        if magic != MAGIC:
            self._fail(ProtocolError("the peer is no process of Weft's"))
        elif version is None:
            self._fail(ProtocolError(refusal("the peer", theirs, self._ours)))
        else:
            self.version = version
        return self.failure is None

    def _prove(self, role: bytes, server: bytes, client: bytes) -> bytes:
        return hmac.digest(self._token, role + server + client, "sha256")

    def _fail(self, failure: ProtocolError) -> None:
        self._got.clear()
        self._said += self._last_words(failure)
        self.version = 0
        self.failure = failure

    @abstractmethod
    def _last_words(self, failure: ProtocolError) -> bytes:
        """Return what the peer is told of a failure."""


class ServerHandshake(Handshake):
    """Of who was called."""

    def __init__(self, token: bytes, nonce: bytes, version: int = WIRE) -> None:
        super().__init__(token, nonce, version)
        self._said += VERSION.pack(MAGIC, version) + nonce

    @override
    def _read(self) -> None:
        if not self._is_version_read():
            return
        if len(self._got) > _ANSWER_BYTES:
            self._fail(ProtocolError("the peer spoke before its turn"))
        elif len(self._got) == _ANSWER_BYTES:
            theirs = bytes(self._got[VERSION.size : _FIRST_BYTES])
            proof = bytes(self._got[_FIRST_BYTES:])
            if hmac.compare_digest(proof, self._prove(b"client", self._nonce, theirs)):
                self._said += _YES + self._prove(b"server", self._nonce, theirs)
                self._got.clear()
                self.is_proven = True
            else:
                self._fail(AuthenticationError("the peer has another token"))

    @override
    def _last_words(self, failure: ProtocolError) -> bytes:
        words = str(failure)
        if isinstance(failure, AuthenticationError):
            words = "the token is not this cluster's: use the join string of `weft start --head`"
        return _NO + words.encode() + b"\n"


class ClientHandshake(Handshake):
    """Of who called."""

    def __init__(self, token: bytes, nonce: bytes, version: int = WIRE) -> None:
        super().__init__(token, nonce, version)
        self._server = b""
        """The server's nonce, once it has come."""

    @override
    def _read(self) -> None:
        if self._server:
            self._read_result()
        elif self._is_version_read() and len(self._got) >= _FIRST_BYTES:
            if len(self._got) > _FIRST_BYTES:
                self._fail(ProtocolError("the peer spoke before its turn"))
                return
            self._server = bytes(self._got[VERSION.size :])
            self._got.clear()
            proof = self._prove(b"client", self._server, self._nonce)
            self._said += VERSION.pack(MAGIC, self._ours) + self._nonce + proof

    def _read_result(self) -> None:
        if self._got.startswith(_NO):
            line, end, _ = self._got[1 : 1 + MOST_WORDS].partition(b"\n")
            if end or len(self._got) > MOST_WORDS:
                self._fail(AuthenticationError(f"the peer refused: {_legible(line)}"))
        elif not self._got.startswith(_YES):
            self._fail(ProtocolError("the peer is no process of Weft's"))
        elif len(self._got) >= _RESULT_BYTES:
            proof = bytes(self._got[1:_RESULT_BYTES])
            if hmac.compare_digest(proof, self._prove(b"server", self._server, self._nonce)):
                self.rest = bytes(self._got[_RESULT_BYTES:])
                self._got.clear()
                self.is_proven = True
            else:
                self._fail(AuthenticationError("the peer has another token"))

    @override
    def _last_words(self, failure: ProtocolError) -> bytes:
        # So that the server can say which version called.
        return b"" if self._server else VERSION.pack(MAGIC, self._ours)


def _legible(line: bytearray) -> str:
    """Return text of which no letter steers a terminal."""
    return "".join(letter if " " <= letter <= "~" else "?" for letter in line.decode("latin-1"))
