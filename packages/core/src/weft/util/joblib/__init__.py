"""joblib on Weft: scikit-learn and other users of `joblib.Parallel` on all CPUs of a cluster.

import joblib
from weft.util.joblib import register_weft

register_weft()
with joblib.parallel_config(backend="weft"):
    search.fit(X, y)
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from weft._lazy import lazy

if TYPE_CHECKING:
    import joblib

    from weft.util.joblib import _backend
else:
    # joblib is no dependency of Weft's.
    joblib = lazy("joblib")
    _backend = lazy("weft.util.joblib._backend")

__all__ = ["register_ray", "register_weft"]


def register_weft() -> None:
    """Make joblib know the backend "weft". Idempotent.

    Raises:
        ModuleNotFoundError: joblib is not installed.
    """
    joblib.register_parallel_backend("weft", _backend.WeftBackend)


def register_ray() -> None:
    """Make joblib know the backend "weft" under the name "ray", too. Idempotent.

    Programs that come from Ray ask for that name.

    Raises:
        ModuleNotFoundError: joblib is not installed.
    """
    register_weft()
    joblib.register_parallel_backend("ray", _backend.WeftBackend)
