"""The backend itself: a pool of Weft's workers, and large arguments that are stored once.

An array of `max_nbytes` or more (1 MB if `Parallel` does not say) is put into the object store when
it is first met, and all workers read it there, without a copy of their own and read-only, as
joblib's own backends do with memory maps. So a grid search over a matrix sends the matrix once.

The workers of a `Parallel` call stay for the next one that asks for as many, until the session
ends.
"""

from __future__ import annotations

import os
import sys
import threading
import weakref
from typing import TYPE_CHECKING, Any

from joblib._parallel_backends import (
    AutoBatchingMixin,
    FallbackToBackend,
    ParallelBackendBase,
    SequentialBackend,
)
from joblib.parallel import BatchedCalls

from weft._api.cluster import cluster_resources
from weft._api.objects import get, put
from weft._api.session import started
from weft._lazy import lazy
from weft._override import override
from weft.util.multiprocessing.pool import Pool

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from weft._refs import ObjectRef
    from weft.util.multiprocessing._results import AsyncResult

threadpoolctl = lazy("threadpoolctl")


class StoredArgument:
    """Stands for a large argument that is in the object store."""

    __slots__ = ("ref",)

    def __init__(self, ref: ObjectRef[Any]) -> None:
        self.ref = ref


class _KeptPool:
    """A pool that waits for the next call, and what it is fit for."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._kept: tuple[Pool, Any] | None = None

    def take(self, purpose: Any) -> Pool | None:
        """Return the pool, if it is fit; it is no longer kept then."""
        kept = self._swap(None)
        if kept is None:
            return None
        pool, fit_for = kept
        if fit_for == purpose:
            return pool
        pool.terminate()
        return None

    def keep(self, pool: Pool, fit_for: Any) -> None:
        """Keep a pool, instead of one that was kept before."""
        before = self._swap((pool, fit_for))
        if before is not None:
            before[0].terminate()

    def _swap(self, kept: tuple[Pool, Any] | None) -> tuple[Pool, Any] | None:
        with self._lock:
            before, self._kept = self._kept, kept
        return before


_kept_pool = _KeptPool()


class WeftBackend(AutoBatchingMixin, ParallelBackendBase):  # type: ignore[misc]  # joblib has no types
    """Runs the batches of `joblib.Parallel` in workers of Weft.

    `joblib.parallel_config(backend="weft", ray_remote_args={"num_cpus": 1})` gives the workers
    options, as of actors.
    """

    supports_retrieve_callback = True
    supports_inner_max_num_threads = True

    def __init__(self, *, ray_remote_args: Mapping[str, Any] | None = None, **kwargs: Any) -> None:
        """Make a backend; joblib does it."""
        super().__init__(**kwargs)
        self._options = dict(ray_remote_args or {})
        self._pool: Pool | None = None
        self._purpose: Any = None
        self._limit_bytes: int | None = None
        self._stored: dict[int, tuple[weakref.ref[Any], ObjectRef[Any]]] = {}
        """By the id of an argument that somebody still holds."""

    @override
    def effective_n_jobs(self, n_jobs: int | None) -> int:
        """Return how many workers `n_jobs` stands for: -1 for one a CPU of the cluster."""
        if n_jobs == 0:
            raise ValueError("n_jobs == 0 in Parallel has no meaning")
        if n_jobs is None:
            return 1
        if n_jobs > 0:
            return n_jobs
        started()
        return max(1, int(cluster_resources().get("CPU", 1)) + 1 + n_jobs)

    @override
    def configure(
        self,
        n_jobs: int = 1,
        parallel: Any = None,
        prefer: str | None = None,
        require: str | None = None,
        max_nbytes: int | None = None,
        **backend_kwargs: Any,
    ) -> int:
        """Start the workers of a `Parallel` call; return how many."""
        n_jobs = self.effective_n_jobs(n_jobs)
        if n_jobs == 1:
            raise FallbackToBackend(SequentialBackend(nesting_level=self.nesting_level))
        self.parallel = parallel
        self._limit_bytes = max_nbytes
        threads: dict[str, str] = self._prepare_worker_env(n_jobs)
        self._purpose = (started(), n_jobs, repr(sorted(self._options.items())), threads)
        self._pool = _kept_pool.take(self._purpose) or Pool(
            n_jobs, limit_threads, (threads,), ray_remote_args=self._options
        )
        return n_jobs

    @override
    def submit(self, func: Any, callback: Callable[[Any], object] | None = None) -> AsyncResult:
        """Run a batch in a worker; `callback` gets its results, or the error."""
        if self._pool is None:
            raise RuntimeError("this backend is not configured: joblib.Parallel does that")
        items = [
            (
                function,
                [self._stored_if_large(value) for value in args],
                {name: self._stored_if_large(value) for name, value in kwargs.items()},
            )
            for function, args, kwargs in func.items
        ]
        batch = BatchedCalls(items, (func._backend, func._n_jobs), None, func._pickle_cache)
        return self._pool.apply_async(
            run_batch, (batch,), callback=callback, error_callback=callback
        )

    def _stored_if_large(self, value: Any) -> Any:
        if self._limit_bytes is None or _size_bytes(value) < self._limit_bytes:
            return value
        known = self._stored.get(id(value))
        if known is not None and known[0]() is value:
            return StoredArgument(known[1])
        key = id(value)
        try:
            holder = weakref.ref(value, lambda _: self._stored.pop(key, None))
        except TypeError:
            return value
        ref = put(value)
        self._stored[key] = (holder, ref)
        return StoredArgument(ref)

    @override
    def retrieve_result_callback(self, out: Any) -> Any:
        """Return a batch's results, or raise its error.

        The user's own, with a note that says where.
        """
        if isinstance(out, BaseException):
            raise out
        return out

    @override
    def terminate(self) -> None:
        """End a `Parallel` call: its workers wait for the next one."""
        if self._pool is not None:
            _kept_pool.keep(self._pool, self._purpose)
            self._pool = None
        self._stored.clear()
        self.reset_batch_stats()

    @override
    def abort_everything(self, ensure_ready: bool = True) -> None:
        """End the workers at once: nobody wants what they are at."""
        if self._pool is not None:
            self._pool.terminate()
            self._pool = None
        if ensure_ready:
            self.configure(
                n_jobs=self.parallel.n_jobs, parallel=self.parallel, max_nbytes=self._limit_bytes
            )


def run_batch(batch: Any) -> list[Any]:
    """Run a batch in a worker."""
    batch.items = [
        (
            function,
            [_opened(value) for value in args],
            {name: _opened(value) for name, value in kwargs.items()},
        )
        for function, args, kwargs in batch.items
    ]
    results: list[Any] = batch()
    return results


def _opened(value: Any) -> Any:
    return get(value.ref) if isinstance(value, StoredArgument) else value


def _size_bytes(value: Any) -> int:
    """Return what an array or a table takes; 0 for anything else."""
    size: Any = getattr(value, "nbytes", 0)
    if hasattr(value, "memory_usage") and hasattr(value, "columns"):
        size = value.memory_usage(index=False).sum()
    return int(size) if hasattr(size, "__index__") else 0


def limit_threads(variables: Mapping[str, str]) -> None:
    """Let the numerical libraries of this worker take its share of threads only."""
    os.environ.update(variables)
    if "numpy" in sys.modules and "threadpoolctl" in sys.modules:
        # Loaded before, by `preload`: they do not look at the variables again.
        threadpoolctl.threadpool_limits(int(variables.get("OMP_NUM_THREADS", 1)))
