"""The semantic suite on the inline engine."""

from importlib import import_module

import pytest

pytest.register_assert_rewrite("weft.testing.semantics")

LACKS = {
    "processes": "everything runs in this process",
    "concurrency": "a task runs when it is submitted, in the thread that submits it",
    "timeouts": "a task cannot be ended from outside",
    "environments": "there is one environment for all",
}

for suite in import_module("weft.testing.semantics").ALL:
    name = f"Test{suite.__name__.removesuffix('Semantics')}"
    globals()[name] = type(name, (suite,), {"engine": "inline", "lacks": LACKS})
del suite
