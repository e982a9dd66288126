"""Hypothesis runs as it should here and in CI; sessions of Weft for tests that need one."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING, Any

import hypothesis
import pytest

import weft

if TYPE_CHECKING:
    from collections.abc import Iterator

pytest.register_assert_rewrite("weft.tune.testing")

# How fast a test is depends on what else the machine does.
NOT_TIMED: dict[str, Any] = {
    "deadline": None,
    "suppress_health_check": [hypothesis.HealthCheck.too_slow],
}
hypothesis.settings.register_profile("local", max_examples=50, **NOT_TIMED)
hypothesis.settings.register_profile(
    "ci", max_examples=100, database=None, derandomize=True, print_blob=True, **NOT_TIMED
)
hypothesis.settings.load_profile("ci" if os.environ.get("CI") else "local")


@pytest.fixture(scope="module")
def session() -> Iterator[None]:
    """A session with worker processes and four CPUs."""
    with weft.init(num_cpus=4):
        yield
