from __future__ import annotations

import pytest

from weft._capsules.secrets import HIDDEN, Redaction, is_secret

PASSWORD = "hunter2-hunter2"


@pytest.mark.parametrize(
    "name",
    [
        "AWS_SECRET_ACCESS_KEY", "API_TOKEN", "DB_PASSWORD", "pgpass", "SSH_AUTH_SOCK", "COOKIE",
        "SENTRY_DSN", "GOOGLE_APPLICATION_CREDENTIALS", "JWT", "ConnStr", "CONNECTION_STRING",
        "SLACK_WEBHOOK", "MYSQL_PWD", "PRIVATE_FILE",
    ],
)  # fmt: skip
def test_names_of_secrets_are_known(name: str) -> None:
    assert is_secret(name)


@pytest.mark.parametrize(
    "name", ["PATH", "HOME", "LANG", "OMP_NUM_THREADS", "CUDA_VISIBLE_DEVICES"]
)
def test_other_names_are_not_secret(name: str) -> None:
    assert not is_secret(name)


def test_values_of_secrets_are_hidden_in_texts() -> None:
    redaction = Redaction({"TOKEN": PASSWORD, "SHORT_KEY": "yes", "HOME": "/home/ada"})
    assert redaction.text(f"yes: {PASSWORD} in /home/ada") == f"yes: {HIDDEN} in /home/ada"


def test_secret_that_is_part_of_another_leaves_nothing_of_it() -> None:
    redaction = Redaction({"KEY": "abcdef", "LONGER_KEY": "abcdefghij"})
    assert redaction.text("abcdefghij abcdef") == f"{HIDDEN} {HIDDEN}"


def test_place_of_a_secret_is_none() -> None:
    redaction = Redaction({"SSL_CERT_DIR": "/", "CERT_FILE": "/tmp"})
    assert redaction.text("/tmp/file") == "/tmp/file"


def test_passwords_in_urls_are_hidden() -> None:
    text = Redaction({}).text(f"postgres://ada:{PASSWORD}@host:5432/db and http://host/a:b@c")
    assert text == f"postgres://ada:{HIDDEN}@host:5432/db and http://host/a:b@c"


def test_values_of_secret_options_are_hidden() -> None:
    command = [
        "python", "run.py", "--api-key", PASSWORD, f"--password={PASSWORD}", "--rows=5",
        f"TOKEN={PASSWORD}", "--auth", "--verbose", "file",
    ]  # fmt: skip
    assert Redaction({}).words(command) == [
        "python", "run.py", "--api-key", HIDDEN, f"--password={HIDDEN}", "--rows=5",
        f"TOKEN={HIDDEN}", "--auth", "--verbose", "file",
    ]  # fmt: skip
