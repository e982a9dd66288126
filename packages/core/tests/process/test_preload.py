"""Modules that a running session imports once, for all workers that it starts from then on."""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING

import pytest

import weft
from weft.exceptions import SessionError
from weft.lowlevel import preload

if TYPE_CHECKING:
    from collections.abc import Iterator

MODULE = "xmlrpc.server"
WORKERS = 4


@pytest.fixture
def session() -> Iterator[None]:
    with weft.init(num_cpus=0):  # No worker is there before one is wanted.
        yield


def are_imported() -> list[bool]:
    """Look for the module in workers that are started now."""

    @weft.remote(num_cpus=0)
    class Looking:
        def look(self) -> bool:
            return MODULE in sys.modules

    actors = [Looking.remote() for _ in range(WORKERS)]
    return weft.get([actor.look.remote() for actor in actors])


@pytest.mark.usefixtures("session")
def test_workers_that_are_started_later_have_what_was_preloaded() -> None:
    assert are_imported() == [False] * WORKERS
    preload(MODULE)
    assert are_imported() == [True] * WORKERS
    assert MODULE not in sys.modules


@pytest.mark.usefixtures("session")
def test_module_that_cannot_be_imported_is_passed_over() -> None:
    preload("no_such_module", MODULE)
    assert are_imported() == [True] * WORKERS


def test_without_a_session_there_is_nothing_to_preload_for() -> None:
    with pytest.raises(SessionError):
        preload(MODULE)
