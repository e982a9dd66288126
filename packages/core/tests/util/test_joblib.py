from __future__ import annotations

import os
from typing import TYPE_CHECKING, Any

import pytest

import weft

joblib = pytest.importorskip("joblib")
pytestmark = pytest.mark.slow

from weft.util.joblib import register_ray, register_weft  # noqa: E402 - needs joblib

if TYPE_CHECKING:
    from collections.abc import Iterator


@pytest.fixture(scope="module", autouse=True)
def backend() -> Iterator[None]:
    """The backend, in a session of its own."""
    register_weft()
    with weft.init(num_cpus=2), joblib.parallel_config(backend="weft", n_jobs=2):
        yield


def run(calls: Any, **options: Any) -> list[Any]:
    return list(joblib.Parallel(**options)(calls))


def test_results_come_in_order() -> None:
    square = joblib.delayed(lambda number: number * number)
    assert run(square(number) for number in range(100)) == [n * n for n in range(100)]
    assert run(square(number) for number in range(0)) == []


def test_work_is_done_by_as_many_workers_as_asked_for() -> None:
    pid = joblib.delayed(lambda _: os.getpid())
    pids = set(run((pid(number) for number in range(40)), batch_size=1))
    assert 1 <= len(pids) <= 2
    assert os.getpid() not in pids
    # The same ones are there for the next call.
    assert set(run((pid(number) for number in range(40)), batch_size=1)) & pids


def test_error_is_the_users_own() -> None:
    def careful(number: int) -> int:
        if number == 5:
            raise ValueError("five", number)
        return number

    with pytest.raises(ValueError, match="five") as caught:
        run(joblib.delayed(careful)(number) for number in range(10))
    assert type(caught.value) is ValueError
    assert run(joblib.delayed(careful)(number) for number in range(3)) == [0, 1, 2]


def test_results_can_be_taken_as_they_come() -> None:
    calls = (joblib.delayed(abs)(number) for number in range(-20, 0))
    results = joblib.Parallel(return_as="generator")(calls)
    assert list(results) == list(range(20, 0, -1))
    unordered = joblib.Parallel(return_as="generator_unordered")(
        joblib.delayed(abs)(number) for number in range(20)
    )
    assert sorted(unordered) == list(range(20))


def test_calls_in_calls_work() -> None:
    def outer(number: int) -> list[int]:
        inner = joblib.Parallel(n_jobs=2)(joblib.delayed(abs)(n) for n in range(-number, 0))
        return list(inner)

    assert run(joblib.delayed(outer)(number) for number in range(3)) == [[], [1], [2, 1]]


def test_minus_one_means_every_cpu() -> None:
    with joblib.parallel_config(backend="weft"):
        assert joblib.effective_n_jobs(-1) == 2
        assert joblib.effective_n_jobs(3) == 3
        assert joblib.effective_n_jobs(1) == 1


def test_workers_have_their_share_of_threads() -> None:
    threads = joblib.delayed(lambda: os.environ["OMP_NUM_THREADS"])
    with joblib.parallel_config(backend="weft", n_jobs=2, inner_max_num_threads=3):
        assert set(run(threads() for _ in range(4))) == {"3"}


def test_it_goes_by_the_name_of_ray_too() -> None:
    register_ray()
    with joblib.parallel_config(backend="ray", n_jobs=2, ray_remote_args={"num_cpus": 0}):
        assert run(joblib.delayed(abs)(number) for number in (-1, 2)) == [1, 2]
