"""The asserts of the suites say what was compared, as a test's own do."""

from __future__ import annotations

import pytest

pytest.register_assert_rewrite("weft.tune.testing")
