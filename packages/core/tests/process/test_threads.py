"""How many threads the numerical libraries of a worker may use: as many as it has CPUs."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

import numpy as np
import pytest

import weft

if TYPE_CHECKING:
    from collections.abc import Iterator

pytestmark = pytest.mark.slow

THREADS = "OMP_NUM_THREADS"


@pytest.fixture
def session(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    monkeypatch.delenv(THREADS, raising=False)
    weft.init(num_cpus=4, preload=["numpy"], log_to_driver=False)
    yield
    weft.shutdown()


@weft.remote
def threads() -> str | None:
    return os.environ.get(THREADS)


@weft.remote
class Threads:
    def get(self) -> str | None:
        return os.environ.get(THREADS)


@pytest.mark.usefixtures("session")
def test_numerical_libraries_get_as_many_threads_as_the_task_has_cpus() -> None:
    assert weft.get(threads.remote()) == "1"
    assert weft.get(threads.options(num_cpus=3).remote()) == "3"
    assert weft.get(threads.options(num_cpus=0.5).remote()) == "1"
    assert weft.get(threads.remote()) == "1"


@pytest.mark.usefixtures("session")
def test_numerical_libraries_get_as_many_threads_as_the_actor_has_cpus() -> None:
    assert weft.get(Threads.remote().get.remote()) == "1"
    assert weft.get(Threads.options(num_cpus=2).remote().get.remote()) == "2"


@pytest.mark.usefixtures("session")
def test_library_that_was_loaded_before_the_fork_starts_no_threads() -> None:
    @weft.remote
    def started_by_a_product() -> int:
        before = len(os.listdir("/proc/self/task"))  # noqa: PTH208 - a count
        matrix = np.ones((600, 600))
        matrix @ matrix
        return len(os.listdir("/proc/self/task")) - before  # noqa: PTH208

    assert weft.get(started_by_a_product.remote()) == 0


@pytest.mark.usefixtures("session")
def test_number_in_the_environment_of_a_task_stands() -> None:
    env = {"env_vars": {THREADS: "7"}}
    assert weft.get(threads.options(num_cpus=2, runtime_env=env).remote()) == "7"


def test_number_that_the_user_has_set_stands(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(THREADS, "6")
    weft.init(num_cpus=2, log_to_driver=False)
    try:
        assert weft.get(threads.options(num_cpus=2).remote()) == "6"
    finally:
        weft.shutdown()
    assert os.environ[THREADS] == "6"
