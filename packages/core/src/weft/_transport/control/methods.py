"""What the control service can be asked: its services' methods, and the metadata of calls."""

from __future__ import annotations

import re
from typing import Any, NamedTuple

from google.protobuf import message_factory

from weft._transport.control.messages import DESCRIPTOR
from weft._transport.join import secret_text

NUMBER = "weft-control"
"""Metadata of each answer: the number of the control service."""
AUTHORIZATION = "authorization"


class Method(NamedTuple):
    """One method of a service."""

    path: str
    """/PACKAGE.SERVICE/METHOD."""
    request: Any
    """The class of what is sent; that of what comes back is `answer`."""
    answer: Any
    takes_stream: bool
    gives_stream: bool


def services() -> list[str]:
    """Return the names of all services."""
    return list(DESCRIPTOR.services_by_name)


def methods_of(service: str) -> dict[str, Method]:
    """Return a service's methods, by their names as Python writes them: `end_owner`."""
    found = DESCRIPTOR.services_by_name[service]
    return {
        re.sub(r"(?<!^)(?=[A-Z])", "_", method.name).lower(): Method(
            f"/{found.full_name}/{method.name}",
            message_factory.GetMessageClass(method.input_type),
            message_factory.GetMessageClass(method.output_type),
            method.client_streaming,
            method.server_streaming,
        )
        for method in found.methods
    }


def bearer(token: bytes) -> tuple[str, str]:
    """Return the metadata by which a caller proves that it has the token."""
    return AUTHORIZATION, f"Bearer {secret_text(token)}"
