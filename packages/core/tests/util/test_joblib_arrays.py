from __future__ import annotations

from typing import Any

import pytest

import weft

joblib = pytest.importorskip("joblib")
numpy = pytest.importorskip("numpy")
pytestmark = pytest.mark.slow

from weft.util.joblib import register_weft  # noqa: E402 - needs joblib


def test_large_array_is_stored_once_and_read_in_place() -> None:
    register_weft()

    def look(matrix: Any, *, again: Any, row: int) -> tuple[float, bool, bool]:
        return float(matrix[row].sum()), bool(matrix.flags.owndata), matrix is again

    matrix = numpy.ones((1000, 500))
    call = joblib.delayed(look)
    with weft.init(num_cpus=2), joblib.parallel_config(backend="weft", n_jobs=2):
        in_place = joblib.Parallel()(call(matrix, again=matrix, row=row) for row in range(20))
        # Without a limit each worker gets copies.
        copies = joblib.Parallel(max_nbytes=None)(
            call(matrix, again=matrix, row=row) for row in range(4)
        )
    assert {(total, owns) for total, owns, _ in in_place} == {(500.0, False)}
    assert {total for total, _, _ in copies} == {500.0}
