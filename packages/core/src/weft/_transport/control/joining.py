"""How a node gets what it needs to be one of a cluster: from its head, by the join string."""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

from weft._transport.control import messages
from weft._transport.control.client import ControlClient
from weft._transport.credentials import (
    FETCH_S,
    error_words,
    fetch_credentials,
    save_credentials,
)
from weft.exceptions import SessionError

if TYPE_CHECKING:
    from pathlib import Path

    from weft._transport.credentials import MemberCredentials
    from weft._transport.join import JoinString


class Joined(NamedTuple):
    """What a node was given."""

    credentials: MemberCredentials
    journal: str
    """Where a head that stands by finds the journal; empty: nowhere."""


def join_cluster(join: JoinString, folder: Path, *, timeout_s: float = FETCH_S) -> Joined:
    """Fetch certificate and key of a cluster, and keep them with its token in a folder. Blocks.

    Args:
        join: Of the cluster.
        folder: It is made, private, if it is not there.
        timeout_s: For each of the two questions that are asked.

    Raises:
        SessionError: Nobody answers there, or not in time.
        AuthenticationError: The token is wrong, or who answers has another certificate than the
            join string says, or it is out of its dates.
        GetTimeoutError: There is no control service behind the port.
        RpcError: It has refused.
        UsageError: The folder has the credentials of another cluster, or is open to others.
    """
    try:
        caller = fetch_credentials(join, timeout_s)
    except OSError as error:
        raise SessionError(f"no head answers at {join.address}: {error_words(error)}") from None
    client = ControlClient(join.address, caller)
    try:
        request = messages.GetCredentialsRequest()
        found = client.call("Members", "get_credentials", request, timeout_s=timeout_s)
    finally:
        client.close()
    saved = save_credentials(folder, token=join.token, key=found.key, certificate=found.certificate)
    return Joined(saved, found.journal)
