"""The semantic suite on worker processes."""

from importlib import import_module

import pytest

pytest.importorskip("weft._runtime.local", reason="worker processes come with weft._runtime.local")
pytest.register_assert_rewrite("weft.testing.semantics")
pytestmark = pytest.mark.slow

for suite in import_module("weft.testing.semantics").ALL:
    name = f"Test{suite.__name__.removesuffix('Semantics')}"
    globals()[name] = type(name, (suite,), {"engine": "local"})
del suite
