from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from weft.util import debug

if TYPE_CHECKING:
    from collections.abc import Iterator


@pytest.fixture(autouse=True)
def fresh(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """What was said before, and will be later, is not this test's."""
    monkeypatch.setattr(debug, "_said", debug._Said())
    return


def test_a_key_is_said_once() -> None:
    assert debug.log_once("a")
    assert not debug.log_once("a")
    assert debug.log_once(("b", 1))


def test_a_key_that_is_reset_is_said_again() -> None:
    assert debug.log_once("a")
    debug.reset_log_once("a")
    debug.reset_log_once("never said")
    assert debug.log_once("a")


def test_nothing_is_said_after_it_was_disabled() -> None:
    debug.disable_log_once_globally()
    assert not debug.log_once("a")


def test_a_key_is_said_once_a_minute_if_asked_for(monkeypatch: pytest.MonkeyPatch) -> None:
    now = 0.0
    monkeypatch.setattr(debug, "monotonic", lambda: now)
    debug.enable_periodic_logging()
    assert debug.log_once("a")
    now = 59.0
    assert not debug.log_once("a")
    now = 61.0
    assert debug.log_once("a")
