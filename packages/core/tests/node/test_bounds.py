"""What the daemon keeps of what is gone: bounded in bytes, whatever was said."""

from __future__ import annotations

from typing import Any

import pytest

from weft._node import deaths
from weft._node.deaths import Deaths
from weft._node.environments import Environments
from weft._node.history import RECORD_BYTES, History
from weft._transport.timers import Timers
from weft._wire.messages import Certificate, Recorded


class KeptHistory(History):
    """Tells what it has."""

    def sizes(self) -> list[int]:
        return [len(batch.body) for batch in self._batches]


@pytest.fixture
def kept(monkeypatch: pytest.MonkeyPatch) -> KeptHistory:
    monkeypatch.setenv("WEFT_TASK_EVENTS", "1000")
    nobody: Any = None
    return KeptHistory(nobody, nobody, Timers())


def test_records_that_say_little_are_bounded_in_number(kept: KeptHistory) -> None:
    for _ in range(100):
        kept.add(Recorded(100, bytes(4200)))
    assert kept.sizes() == [4200] * 10


def test_records_that_say_much_are_bounded_in_bytes(kept: KeptHistory) -> None:
    for _ in range(100):
        kept.add(Recorded(10, bytes(11_000)))
    assert kept.sizes() == [11_000] * (1000 * RECORD_BYTES // 11_000)


def test_newest_records_are_there_however_much_they_say(kept: KeptHistory) -> None:
    for _ in range(3):
        kept.add(Recorded(10, bytes(1_000_000)))
    assert kept.sizes() == [1_000_000]


def certificate(number: int, stderr: str) -> Certificate:
    return Certificate(
        worker_id=number.to_bytes(16, "big"),
        pid=number,
        exit_code=1,
        peak_bytes=0,
        limit_bytes=0,
        function="f",
        stderr=stderr,
        reason="",
    )


def test_certificates_are_bounded_in_number_and_in_bytes(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(deaths, "CERTIFICATES_KEPT", 20)
    monkeypatch.setattr(deaths, "STDERR_CHARACTERS", 1000)
    all_deaths = Deaths(lambda _client, _message: None)
    for number in range(50):
        all_deaths.add(certificate(number, ""))
    assert [each.pid for each in all_deaths.list_certificates()] == list(range(30, 50))
    for number in range(50, 80):
        all_deaths.add(certificate(number, "x" * 300))
    assert [each.pid for each in all_deaths.list_certificates()] == [77, 78, 79]
    all_deaths.add(certificate(80, "x" * 5000))
    assert [each.pid for each in all_deaths.list_certificates()] == [80]
    for number in range(81, 111):
        all_deaths.add(certificate(number, "x" * 10))
    assert len(all_deaths.list_certificates()) == 20


def test_environment_that_only_sets_variables_is_not_kept() -> None:
    nobody: Any = None
    environments = Environments(nobody, nobody, "")
    before = len(vars(environments)["_variables_of"])
    for number in range(100):
        env = f'{{"env_vars":{{"SEED":"{number}"}}}}'
        assert environments.is_ready(env)
        assert environments.variables(env)["SEED"] == str(number)
    assert len(vars(environments)["_variables_of"]) == before
