"""What a process needs to be let in, and to let others in: token, certificate, key.

All nodes of a cluster share one certificate, which the head signs itself. It is pinned: a client
takes this one and no other, whatever names it has and whoever signed it. Its dates count.

A member keeps the three in a folder of its own (`private.py`). Who only has the join string fetches
the certificate from the head, and believes it for its fingerprint.

Facts about TLS: with a trust store of one certificate that is no authority, OpenSSL accepts that
one alone, and checks its dates.
"""

from __future__ import annotations

import datetime
import hashlib
import os
import socket
import ssl
from functools import cached_property
from typing import TYPE_CHECKING

from weft._lazy import lazy
from weft._transport.join import TOKEN_BYTES, JoinString
from weft._transport.private import (
    check_private_folder,
    read_private,
    write_private_folder,
)
from weft._transport.tls import new_context
from weft.exceptions import AuthenticationError, UsageError

if TYPE_CHECKING:
    from pathlib import Path

    from cryptography import x509
    from cryptography.hazmat.primitives import hashes, serialization
    from cryptography.hazmat.primitives.asymmetric import ec
else:
    x509 = lazy("cryptography.x509")
    hashes = lazy("cryptography.hazmat.primitives.hashes")
    serialization = lazy("cryptography.hazmat.primitives.serialization")
    ec = lazy("cryptography.hazmat.primitives.asymmetric.ec")

NODE = "node.weft"
CONTROL = "control.weft"
"""Whom a greeting can be for besides workers: a node's daemon, and the control service."""
GRPC = "h2"
"""What clients of the control service say that they speak (ALPN)."""
VALID = datetime.timedelta(days=3650)
"""Nothing renews a certificate, so a cluster outlives it by no means."""
SKEW = datetime.timedelta(days=1)
"""How far a joining machine's clock may be behind that of the head."""
FETCH_S = 10.0

_TOKEN, _KEY, _CERTIFICATE = "token", "key.pem", "certificate.pem"


def name_of(worker_id: bytes) -> str:
    """Return the name by which a greeting asks for a worker."""
    return f"{worker_id.hex()}.weft"


class Credentials:
    """A token and a certificate: enough to call the nodes of a cluster."""

    def __init__(self, token: bytes, certificate: bytes) -> None:
        """`certificate` is in PEM."""
        self.token = token
        self.certificate = certificate

    @cached_property
    def fingerprint(self) -> bytes:
        """The SHA-256 of the certificate."""
        return fingerprint_of(ssl.PEM_cert_to_DER_cert(self.certificate.decode()))

    @cached_property
    def calling(self) -> ssl.SSLContext:
        """How this process calls others."""
        context = new_context(ssl.PROTOCOL_TLS_CLIENT)
        context.check_hostname = False
        context.load_verify_locations(cadata=self.certificate.decode())
        return context

    def join_string(self, host: str, port: int) -> JoinString:
        """Return what others need to join through a node's port."""
        return JoinString(host, port, self.token, self.fingerprint)


class MemberCredentials(Credentials):
    """The key as well, in a folder: enough to be called."""

    def __init__(self, token: bytes, certificate: bytes, folder: Path) -> None:
        super().__init__(token, certificate)
        self.folder = folder

    @cached_property
    def called(self) -> ssl.SSLContext:
        """How this process answers calls."""
        context = new_context(ssl.PROTOCOL_TLS_SERVER)
        context.load_cert_chain(self.folder / _CERTIFICATE, self.folder / _KEY)
        context.set_alpn_protocols([GRPC])  # Weft's own connections offer none.
        return context

    def contexts(self) -> tuple[ssl.SSLContext, ssl.SSLContext]:
        """Return how this process calls, and how it answers; made once."""
        return self.calling, self.called

    @property
    def key(self) -> bytes:
        """The key in PEM, for who joins. UsageError: its file is not private."""
        return read_private(self.folder / _KEY, "cluster's key")


def open_credentials(folder: Path) -> MemberCredentials:
    """Return what the folder of a member holds.

    Raises:
        UsageError: It is not there, or open to others, or its parts do not fit each other, or the
            certificate is out of its dates.
    """
    check_private_folder(folder, "cluster's credentials")
    token = read_private(folder / _TOKEN, "cluster's token")
    read_private(folder / _KEY, "cluster's key")
    certificate = read_private(folder / _CERTIFICATE, "cluster's certificate")
    if len(token) != TOKEN_BYTES:
        raise UsageError(f"the cluster's token in {folder / _TOKEN} has not {TOKEN_BYTES} bytes")
    made = MemberCredentials(token, certificate, folder)
    try:
        _rehearse(made)
    except ssl.SSLCertVerificationError as error:
        raise UsageError(
            f"the cluster's certificate in {folder} cannot be used: {error.verify_message}; "
            f"{_dates_advice(error)}"
        ) from None
    except (ssl.SSLError, ValueError) as error:
        raise UsageError(
            f"the cluster's certificate and key in {folder} do not fit each other or are damaged "
            f"({error}): remove the folder, and start or join again"
        ) from None
    return made


def make_credentials(folder: Path) -> MemberCredentials:
    """Return what a folder holds; if there is none, draw a token and make a certificate first.

    Raises:
        UsageError: As for `open_credentials`.
        ModuleNotFoundError: A certificate has to be made, and cryptography is not installed.
    """
    if not os.path.lexists(folder):
        key, certificate = _make_certificate()
        _write(folder, os.urandom(TOKEN_BYTES), key, certificate)
    return open_credentials(folder)


def save_credentials(
    folder: Path, *, token: bytes, key: bytes, certificate: bytes
) -> MemberCredentials:
    """Keep in a folder what a node was given that joins.

    Raises:
        UsageError: They cannot be used, or the folder has those of another cluster, which stay.
    """
    _write(folder, token, key, certificate)
    found = open_credentials(folder)
    if (found.token, found.certificate) != (token, certificate):
        raise UsageError(
            f"the folder {folder} has the credentials of another cluster: remove it, or give "
            "another one"
        )
    return found


def _write(folder: Path, token: bytes, key: bytes, certificate: bytes) -> None:
    write_private_folder(folder, {_TOKEN: token, _KEY: key, _CERTIFICATE: certificate})


def fetch_credentials(join: JoinString, timeout_s: float = FETCH_S) -> Credentials:
    """Return what a join string's owner can call the cluster with. Blocks.

    Raises:
        OSError: Nobody answers there, or not in time.
        AuthenticationError: Who answers has another certificate than the join string says, or it is
            out of its dates.
    """
    context = new_context(ssl.PROTOCOL_TLS_CLIENT)
    context.check_hostname = False
    context.verify_mode = ssl.CERT_NONE
    found = _certificate_of(join, context, timeout_s)
    check_fingerprint(found, join.fingerprint, join.address)
    known = Credentials(join.token, ssl.DER_cert_to_PEM_cert(found).encode())
    try:
        # gRPC would say nothing about dates, and try for as long as it may.
        _certificate_of(join, known.calling, timeout_s)
    except ssl.SSLCertVerificationError as error:
        raise AuthenticationError(certificate_refusal(join.address, error)) from None
    return known


def error_words(error: Exception) -> str:
    """Return what an error says, for a line."""
    if isinstance(error, OSError) and error.strerror:
        return error.strerror
    return str(error) or type(error).__name__


def _certificate_of(join: JoinString, context: ssl.SSLContext, timeout_s: float) -> bytes:
    with (
        socket.create_connection((join.host, join.port), timeout_s) as sock,
        context.wrap_socket(sock, server_hostname=NODE) as tls,
    ):
        return tls.getpeercert(binary_form=True) or b""


def fingerprint_of(certificate: bytes) -> bytes:
    """Return the SHA-256 of a certificate in DER."""
    return hashlib.sha256(certificate).digest()


def check_fingerprint(certificate: bytes, pinned: bytes, address: str) -> None:
    """Raise AuthenticationError if a certificate, in DER, is not the one that was pinned."""
    found = fingerprint_of(certificate)
    if found != pinned:
        raise AuthenticationError(
            f"{address} has the certificate {found.hex()[:16]}..., and the join string is for "
            f"{pinned.hex()[:16]}...: it is another cluster, or somebody in between; get the join "
            "string anew from who started the cluster"
        )


def certificate_refusal(address: str, error: ssl.SSLCertVerificationError) -> str:
    """Say in one line why the pinned certificate of an address was refused all the same."""
    return (
        f"the certificate of {address} was refused: {error.verify_message}; {_dates_advice(error)}"
    )


def _dates_advice(error: ssl.SSLCertVerificationError) -> str:
    """Say what to do about a certificate that was refused."""
    return {
        9: "set this machine's clock",
        10: "set this machine's clock, or stop the cluster, remove its folder and start it again",
    }.get(error.verify_code, "get the join string anew from who started the cluster")


def _rehearse(credentials: MemberCredentials) -> None:
    """Let a client and a server greet each other in memory. SSLError: they cannot."""
    there, back = ssl.MemoryBIO(), ssl.MemoryBIO()
    server = credentials.called.wrap_bio(there, back, server_side=True)
    client = credentials.calling.wrap_bio(back, there, server_hostname=NODE)
    for end in (client, server, client, server):
        try:
            end.do_handshake()
        except ssl.SSLWantReadError:
            continue


def _make_certificate() -> tuple[bytes, bytes]:
    """Return a fresh key and a certificate that it has signed itself, in PEM."""
    try:
        key = ec.generate_private_key(ec.SECP256R1())
    except ModuleNotFoundError:
        raise ModuleNotFoundError(
            "cryptography is not installed, which a cluster's certificate is made with: "
            "pip install weft-core[cluster]",
            name="cryptography",
        ) from None
    name = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, "weft")])
    # Weft looks at no names; other clients of the control service do.
    names = [x509.DNSName(each) for each in (CONTROL, NODE, "*.weft")]
    now = datetime.datetime.now(datetime.UTC)
    certificate = (
        x509.CertificateBuilder()
        .subject_name(name)
        .issuer_name(name)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - SKEW)
        .not_valid_after(now + VALID)
        .add_extension(x509.BasicConstraints(ca=False, path_length=None), critical=True)
        .add_extension(x509.SubjectAlternativeName(names), critical=False)
        .sign(key, hashes.SHA256())
    )
    pem = serialization.Encoding.PEM
    private = serialization.PrivateFormat.PKCS8
    return (
        key.private_bytes(pem, private, serialization.NoEncryption()),
        certificate.public_bytes(pem),
    )
