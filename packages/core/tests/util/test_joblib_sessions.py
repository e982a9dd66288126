from __future__ import annotations

import pytest

import weft

joblib = pytest.importorskip("joblib")

from weft.util.joblib._backend import WeftBackend  # noqa: E402 - needs joblib


def test_call_that_outlives_its_session_starts_no_other_one() -> None:
    backend = WeftBackend(nesting_level=0)
    with weft.init(engine="inline", num_cpus=2):
        backend.configure(n_jobs=2)
    backend.terminate()
    assert not weft.is_initialized()
