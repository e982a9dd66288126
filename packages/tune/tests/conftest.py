"""Hypothesis runs as it should here and in CI; sessions of Weft for tests that need one."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

import hypothesis
import pytest

import weft

if TYPE_CHECKING:
    from collections.abc import Iterator

pytest.register_assert_rewrite("weft.tune.testing")

hypothesis.settings.register_profile("local", deadline=None, max_examples=50)
hypothesis.settings.register_profile(
    "ci", deadline=None, max_examples=100, database=None, derandomize=True, print_blob=True
)
hypothesis.settings.load_profile("ci" if os.environ.get("CI") else "local")


@pytest.fixture(scope="module")
def session() -> Iterator[None]:
    """A session with worker processes and four CPUs."""
    with weft.init(num_cpus=4):
        yield
