"""The join string: all that a node or a driver needs to find a cluster and be let in.

    weft://HOST:PORT#TOKEN.FINGERPRINT

TOKEN is 16 random bytes, FINGERPRINT the SHA-256 of the cluster's certificate, both in base64url
without padding. HOST is a name, an IPv4 address, or an IPv6 address in brackets.

Whoever has the string can run code on the cluster. So no error and no `repr` shows a token.
"""

from __future__ import annotations

import base64
import re
from ipaddress import AddressValueError, IPv6Address

import msgspec

from weft._override import override
from weft.exceptions import OptionError

TOKEN_BYTES = 16
FINGERPRINT_BYTES = 32
_SCHEME = "weft://"
_WHAT_TO_DO = "copy the whole line that `weft start --head` printed"
_NAME = re.compile(r"[A-Za-z0-9]([A-Za-z0-9._-]{0,252})")


class JoinString(msgspec.Struct, frozen=True):
    """Where a cluster's head is, and the proofs in both directions."""

    host: str
    """A name or an address; an IPv6 address without brackets."""
    port: int
    token: bytes
    fingerprint: bytes

    @classmethod
    def parse(cls, text: str) -> JoinString:
        """Read a join string. OptionError: what is wrong with it, in one line."""
        rest = text.strip()
        if not rest.startswith(_SCHEME):
            raise OptionError(f"not a join string, which begins with {_SCHEME}: {_WHAT_TO_DO}")
        address, has_secrets, secrets = rest.removeprefix(_SCHEME).partition("#")
        if not has_secrets:
            raise OptionError(
                f"the join string for {_shown(address)} ends before its '#': quote it for the "
                f"shell, and {_WHAT_TO_DO}"
            )
        host, port = _parse_address(address)
        token, _, fingerprint = secrets.partition(".")
        return cls(
            host,
            port,
            _parse_secret("token", token, TOKEN_BYTES, address),
            _parse_secret("fingerprint", fingerprint, FINGERPRINT_BYTES, address),
        )

    @property
    def address(self) -> str:
        """HOST:PORT, as people write it."""
        return shown_address(self.host, self.port)

    def format(self) -> str:
        """Return the join string, with the token: for a private file, or the user's own eyes."""
        token, fingerprint = secret_text(self.token), secret_text(self.fingerprint)
        return f"{_SCHEME}{self.address}#{token}.{fingerprint}"

    @override
    def __repr__(self) -> str:
        return f"JoinString({_SCHEME}{self.address}#...)"


def shown_address(host: str, port: int) -> str:
    """Return HOST:PORT, with brackets where they are needed."""
    return f"[{host}]:{port}" if ":" in host else f"{host}:{port}"


def _parse_address(address: str) -> tuple[str, int]:
    host, _, port = address.rpartition(":")
    if host.startswith("[") and host.endswith("]"):
        host = host[1:-1]
        is_host = _is_ipv6(host)
    else:
        is_host = _NAME.fullmatch(host) is not None
    if not is_host:
        raise OptionError(
            f"the join string's address {_shown(address)} is not HOST:PORT (an IPv6 address stands "
            f"in brackets): {_WHAT_TO_DO}"
        )
    if not re.fullmatch("[0-9]{1,5}", port) or not 0 < int(port) <= 65535:
        raise OptionError(
            f"the join string's port in {_shown(address)} is not a number from 1 to 65535: "
            f"{_WHAT_TO_DO}"
        )
    return host, int(port)


def _is_ipv6(host: str) -> bool:
    try:
        IPv6Address(host)
    except AddressValueError:
        return False
    return True


def _parse_secret(what: str, text: str, size: int, address: str) -> bytes:
    """Return bytes of their one and only spelling."""
    digits = -(-size * 8 // 6)
    if re.fullmatch("[A-Za-z0-9_-]*", text) and len(text) == digits:
        value = base64.urlsafe_b64decode(text + "=" * (-digits % 4))
        if secret_text(value) == text:
            return value
    raise OptionError(
        f"the join string for {_shown(address)} has a {what} of {len(text)} letters that is none "
        f"(it has {digits}): {_WHAT_TO_DO}"
    )


def secret_text(value: bytes) -> str:
    """Return a token or a fingerprint as it is written everywhere: base64url, without padding."""
    return base64.urlsafe_b64encode(value).decode().rstrip("=")


def _shown(address: str) -> str:
    """Return what a user wrote such that it takes one line, and not a long one."""
    return repr(address if len(address) <= 80 else f"{address[:77]}...")
