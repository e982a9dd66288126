"""How workers ended, for those who ask: now, or when it is known."""

from __future__ import annotations

from collections import OrderedDict
from typing import TYPE_CHECKING

from weft._wire.messages import Certificate, Message

if TYPE_CHECKING:
    from collections.abc import Callable

    from weft._node.clients import Client

CERTIFICATES_KEPT = 1000
# Of all that are kept together: a report of a crash alone may have 200,000.
STDERR_CHARACTERS = 4 * 1024 * 1024


class Deaths:
    """The certificates of a node's workers.

    The newest `CERTIFICATES_KEPT` are kept, or as many as have `STDERR_CHARACTERS` together.
    """

    def __init__(self, send: Callable[[Client, Message], None]) -> None:
        self._send = send
        self._certificates: OrderedDict[bytes, Certificate] = OrderedDict()
        self._characters = 0
        self._asked_by_worker: dict[bytes, list[Client]] = {}

    def ask(self, client: Client, worker: bytes, *, is_here: bool) -> bool:
        """Answer with the worker's certificate; True: it lives, and the answer follows."""
        certificate = self._certificates.get(worker)
        if certificate is None and is_here:
            clients = self._asked_by_worker.setdefault(worker, [])
            if client not in clients:
                clients.append(client)
            return True
        self._send(client, certificate or unknown(worker))
        return False

    def ask_no_more(self, client: Client, worker: bytes) -> bool:
        """Owe a client no answer; False: it has had it."""
        clients = self._asked_by_worker.get(worker, [])
        if client not in clients:
            return False
        clients.remove(client)
        if not clients:
            del self._asked_by_worker[worker]
        return True

    def gone(self, worker: bytes) -> None:
        """A process without a certificate is gone: whoever asked is told that it is unknown."""
        for client in self._asked_by_worker.pop(worker, ()):
            if not client.connection.closed:
                self._send(client, unknown(worker))

    def list_certificates(self) -> list[Certificate]:
        """Return those that are kept, the oldest first."""
        return list(self._certificates.values())

    def add(self, certificate: Certificate) -> None:
        """Keep a certificate and send it to those who asked."""
        kept = self._certificates
        kept[certificate.worker_id] = certificate
        self._characters += len(certificate.stderr)
        while len(kept) > CERTIFICATES_KEPT or (
            self._characters > STDERR_CHARACTERS and len(kept) > 1
        ):
            self._characters -= len(kept.popitem(last=False)[1].stderr)
        for client in self._asked_by_worker.pop(certificate.worker_id, ()):
            if not client.connection.closed:
                self._send(client, certificate)


def unknown(worker: bytes) -> Certificate:
    """Return the certificate of a worker that nobody remembers."""
    return Certificate(
        worker_id=worker,
        pid=0,
        exit_code=0,
        peak_bytes=0,
        limit_bytes=0,
        function="",
        stderr="",
        reason="nothing is known of it here any more",
        is_seen=False,
    )
