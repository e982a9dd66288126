from __future__ import annotations

import contextlib
import datetime
import socket
import ssl
import subprocess
import sys
import threading
from typing import TYPE_CHECKING, Any

import pytest

from weft._transport import credentials as credentials_module
from weft._transport import tls
from weft._transport.credentials import (
    NODE,
    fetch_credentials,
    make_credentials,
    name_of,
    open_credentials,
    save_credentials,
)
from weft._transport.join import JoinString
from weft.exceptions import AuthenticationError, UsageError

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from weft._transport.credentials import MemberCredentials


def refusal(folder: Path) -> str:
    with pytest.raises(UsageError) as met:
        open_credentials(folder)
    assert "\n" not in str(met.value)
    assert str(folder) in str(met.value)
    return str(met.value)


def test_credentials_are_made_once(tmp_path: Path) -> None:
    made = make_credentials(tmp_path / "cluster")
    again = make_credentials(tmp_path / "cluster")
    assert (made.token, made.fingerprint) == (again.token, again.fingerprint)
    assert len(made.token) == 16
    assert len(made.fingerprint) == 32


def test_two_clusters_share_nothing(
    credentials: MemberCredentials, other_credentials: MemberCredentials
) -> None:
    assert credentials.token != other_credentials.token
    assert credentials.fingerprint != other_credentials.fingerprint
    assert credentials.key != other_credentials.key


def test_all_is_private(tmp_path: Path) -> None:
    folder = tmp_path / "cluster"
    make_credentials(folder)
    assert folder.stat().st_mode & 0o777 == 0o700
    modes = {path.name: path.stat().st_mode & 0o777 for path in folder.iterdir()}
    assert modes == {"token": 0o600, "key.pem": 0o600, "certificate.pem": 0o600}


def test_who_was_given_them_is_a_member_too(tmp_path: Path, credentials: MemberCredentials) -> None:
    given = {
        "token": credentials.token,
        "key": credentials.key,
        "certificate": credentials.certificate,
    }
    for _ in range(2):
        mine = save_credentials(tmp_path / "mine", **given)
        assert (mine.token, mine.fingerprint) == (credentials.token, credentials.fingerprint)
    with pytest.raises(UsageError, match="credentials of another cluster"):
        save_credentials(tmp_path / "mine", **(given | {"token": b"x" * 16}))
    assert open_credentials(tmp_path / "mine").token == credentials.token


def test_join_string_carries_them(credentials: MemberCredentials) -> None:
    join = credentials.join_string("head", 6379)
    assert JoinString.parse(join.format()) == join
    assert (join.token, join.fingerprint) == (credentials.token, credentials.fingerprint)


def test_worker_has_a_name_of_its_id() -> None:
    assert name_of(bytes(range(16))) == "000102030405060708090a0b0c0d0e0f.weft"


@pytest.mark.parametrize("name", ["token", "key.pem", "certificate.pem"])
def test_each_file_is_looked_at(tmp_path: Path, name: str) -> None:
    folder = tmp_path / "cluster"
    make_credentials(folder)
    (folder / name).chmod(0o644)
    assert "open to others (mode 0644)" in refusal(folder)
    (folder / name).chmod(0o600)
    (folder / name).write_bytes(b"damaged")
    assert "has not 16 bytes" in refusal(folder) or "damaged" in refusal(folder)
    (folder / name).unlink()
    assert "No such file" in refusal(folder)


def test_folder_is_looked_at(tmp_path: Path) -> None:
    folder = tmp_path / "cluster"
    make_credentials(folder)
    folder.chmod(0o755)
    assert "open to others (mode 0755)" in refusal(folder)


def test_key_of_another_certificate_is_refused(tmp_path: Path) -> None:
    for name in ("one", "two"):
        make_credentials(tmp_path / name)
    (tmp_path / "one" / "key.pem").write_bytes((tmp_path / "two" / "key.pem").read_bytes())
    assert "do not fit each other" in refusal(tmp_path / "one")


@pytest.mark.parametrize(
    ("name", "days", "words"),
    [("VALID", -0.5, "certificate has expired"), ("SKEW", -2, "certificate is not yet valid")],
)
def test_certificate_out_of_its_dates_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str, days: float, words: str
) -> None:
    monkeypatch.setattr(credentials_module, name, datetime.timedelta(days=days))
    with pytest.raises(UsageError, match=f"cannot be used: {words}; set this machine's clock"):
        make_credentials(tmp_path / "cluster")


def test_without_cryptography_it_says_what_to_install(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    program = (
        "import sys; sys.modules['cryptography'] = None\n"
        "from pathlib import Path\n"
        "from weft._transport.credentials import make_credentials\n"
        f"try: make_credentials(Path({str(tmp_path / 'cluster')!r}))\n"
        "except ModuleNotFoundError as error: print(error)\n"
    )
    said = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, check=True, timeout=60
    )
    assert said.stdout == (
        "cryptography is not installed, which a cluster's certificate is made with: "
        "pip install weft-core[cluster]\n"
    )
    assert list(tmp_path.iterdir()) == []


def test_members_do_not_load_cryptography(credentials: MemberCredentials) -> None:
    program = (
        "import sys\n"
        "from pathlib import Path\n"
        "from weft._transport.credentials import make_credentials\n"
        f"make_credentials(Path({str(credentials.folder)!r}))\n"
        "assert 'cryptography' not in sys.modules\n"
    )
    subprocess.run([sys.executable, "-c", program], check=True, timeout=60)


@contextlib.contextmanager
def greeter(credentials: MemberCredentials) -> Iterator[tuple[str, int]]:
    """Return the address of somebody who does TLS with each caller, and no more."""
    server = socket.create_server(("127.0.0.1", 0))

    def serve() -> None:
        while True:
            sock, _ = server.accept()
            with sock:
                if sock.recv(1, socket.MSG_PEEK) != b"\x16":
                    return
                try:
                    with credentials.called.wrap_socket(sock, server_side=True) as greeted:
                        greeted.recv(1)
                except OSError:
                    pass

    thread = threading.Thread(target=serve)
    thread.start()
    yield server.getsockname()
    with socket.create_connection(server.getsockname()) as sock:
        sock.send(b"e")
        thread.join()
    server.close()


@pytest.fixture
def node(credentials: MemberCredentials) -> Iterator[tuple[str, int]]:
    with greeter(credentials) as found:
        yield found


@pytest.mark.parametrize(
    ("name", "days", "words"),
    [("VALID", -0.5, "certificate has expired"), ("SKEW", -2, "certificate is not yet valid")],
)
def test_who_joins_is_told_of_a_certificate_out_of_its_dates_at_once(
    tmp_path: Path, name: str, days: float, words: str
) -> None:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(credentials_module, name, datetime.timedelta(days=days))
        patch.setattr(credentials_module, "_rehearse", lambda _made: None)
        dated = make_credentials(tmp_path / "cluster")
    with greeter(dated) as node, pytest.raises(AuthenticationError) as met:
        fetch_credentials(dated.join_string(*node))
    assert str(met.value).startswith(
        f"the certificate of 127.0.0.1:{node[1]} was refused: {words}; set this machine's clock"
    )


def test_who_has_the_join_string_gets_the_certificate(
    credentials: MemberCredentials, node: tuple[str, int]
) -> None:
    fetched = fetch_credentials(credentials.join_string(*node))
    assert fetched.fingerprint == credentials.fingerprint
    assert fetched.token == credentials.token
    assert fetched.calling.get_ca_certs() == []


def test_another_cluster_at_the_address_is_one_clear_line(
    other_credentials: MemberCredentials, credentials: MemberCredentials, node: tuple[str, int]
) -> None:
    with pytest.raises(AuthenticationError) as met:
        fetch_credentials(other_credentials.join_string(*node))
    assert str(met.value) == (
        f"127.0.0.1:{node[1]} has the certificate {credentials.fingerprint.hex()[:16]}..., and "
        f"the join string is for {other_credentials.fingerprint.hex()[:16]}...: it is another "
        "cluster, or somebody in between; get the join string anew from who started the cluster"
    )


def test_nobody_at_the_address_is_an_error_in_time(credentials: MemberCredentials) -> None:
    with socket.create_server(("127.0.0.1", 0)) as server:
        # It accepts, and never says a word.
        with pytest.raises(TimeoutError):
            fetch_credentials(credentials.join_string(*server.getsockname()), timeout_s=0.05)
        address = server.getsockname()
    with pytest.raises(ConnectionRefusedError):
        fetch_credentials(credentials.join_string(*address), timeout_s=0.05)


def test_only_the_newest_tls_is_spoken(credentials: MemberCredentials) -> None:
    for context in (credentials.called, credentials.calling):
        assert context.minimum_version == ssl.TLSVersion.TLSv1_3


def test_other_tls_clients_can_check_names(credentials: MemberCredentials) -> None:
    """Those of the control service do, with the certificate as their authority."""
    strict = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    strict.load_verify_locations(cadata=credentials.certificate.decode())
    for name in (NODE, credentials_module.CONTROL):
        there, back = ssl.MemoryBIO(), ssl.MemoryBIO()
        server = credentials.called.wrap_bio(there, back, server_side=True)
        client = strict.wrap_bio(back, there, server_hostname=name)
        for end in (client, server, client):
            try:
                end.do_handshake()
            except ssl.SSLWantReadError:
                continue
        assert client.version() == "TLSv1.3"


def test_kernel_is_asked_once_whether_it_can_encrypt(monkeypatch: pytest.MonkeyPatch) -> None:
    """It says so by which error it gives for a socket that is not connected."""

    class Asked(socket.socket):
        error = 0

        def setsockopt(self, *args: Any) -> None:
            raise OSError(Asked.error, "no")

    monkeypatch.setattr(socket, "socket", Asked)
    for error, can in ((107, True), (2, False), (92, False)):
        Asked.error = error
        tls.has_kernel_tls.cache_clear()
        assert tls.has_kernel_tls() == can
        assert bool(tls.new_context(ssl.PROTOCOL_TLS_CLIENT).options & 8) == can
    monkeypatch.undo()
    tls.has_kernel_tls.cache_clear()
