"""Secrets are kept out of a capsule by the names that they go by."""

from __future__ import annotations

import os
import re
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

HIDDEN = "[redacted]"
# Part of a longer word too: a name too many is redacted rather than one too few.
_SECRET = re.compile(
    r"KEY|TOKEN|SECRET|PASS|PWD|CREDENTIAL|AUTH|COOKIE|DSN|PRIVATE|SIGNATURE|JWT|BEARER|CERT|SALT"
    r"|CONN(ECTION)?_?STR|WEBHOOK",
    re.IGNORECASE,
)
_URL_PASSWORD = re.compile(r"(://[^\s/:@]*:)[^\s/@]+@")
# Shorter ones ("1", "yes") would be found everywhere.
_SHORTEST = 6


def is_secret(name: str) -> bool:
    """Tell whether what goes by this name is to be hidden."""
    return _SECRET.search(name) is not None


class Redaction:
    """Hides the secrets of an environment."""

    def __init__(self, variables: Mapping[str, str]) -> None:
        self._values = sorted(
            {
                value
                for name, value in variables.items()
                if is_secret(name) and len(value) >= _SHORTEST and not _is_place(value)
            },
            key=len,
            reverse=True,
        )

    def text(self, text: str) -> str:
        """Return a text without the values of secret variables and without passwords in URLs."""
        for value in self._values:
            text = text.replace(value, HIDDEN)
        return _URL_PASSWORD.sub(rf"\1{HIDDEN}@", text) if "://" in text else text

    def words(self, command: Sequence[str]) -> list[str]:
        """Return a command line without the values of options with secret names."""
        shown: list[str] = []
        hide = False
        for word in command:
            name, is_assignment, _ = word.partition("=")
            if hide and not word.startswith("-"):
                shown.append(HIDDEN)
                hide = False
                continue
            hide = word.startswith("-") and not is_assignment and is_secret(name)
            is_hidden = is_assignment and is_secret(name)
            shown.append(f"{name}={HIDDEN}" if is_hidden else self.text(word))
        return shown


def _is_place(value: str) -> bool:
    """Tell whether a value says where a secret is, as SSL_CERT_FILE does, and may be told."""
    return value.startswith("/") and os.path.exists(value)  # noqa: PTH110 - a value may be no path
