"""What a process's tasks start from: the job's environment in a driver, its own in a worker.

    env of a task = what its process is in, laid under what its options say

Local directories in options are read when the options are first used in a session; the same options
keep what was read then. Other options, and the next session, look again.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from weft._env.jobs import JobEnvironment, with_job, without_job
from weft._env.spec import decode, encode, merged
from weft._lazy import lazy

if TYPE_CHECKING:
    from weft._env import cache, working_dir
else:
    cache = lazy("weft._env.cache")
    working_dir = lazy("weft._env.working_dir")


class Inheritance:
    """What this process hands on."""

    __slots__ = ("_cache", "_cache_root", "env", "session")

    def __init__(self) -> None:
        self.env = ""
        """Canonical JSON, without local paths; empty for none."""
        self.session = object()
        """Another one for each session: what was worked out for one does not hold in the next."""
        self._cache_root = ""
        self._cache: cache.EnvCache | None = None

    def begin(self, env: str) -> str:
        """A session begins in this driver: hand on its environment. OptionError.

        Return it without local paths.
        """
        self._cache_root, self._cache = "", None
        self.session = object()
        self.env = ""
        self.env = self.environment_of(env)
        return self.env

    def join(self, job: JobEnvironment) -> str:
        """This driver joins a node: hand on its job too. Return the environment of its tasks."""
        self.env = with_job(self.env, job)
        return self.env

    def of_user(self) -> str:
        """Return the environment as its user wrote it, without local paths; empty for none."""
        return without_job(self.env)

    def enter(self, env: str, cache_root: str) -> None:
        """This process is a worker in an environment."""
        self.env, self._cache_root = env, cache_root

    def end(self) -> None:
        """The session is over."""
        self.env = ""
        self.session = object()

    def environment_of(self, own: str) -> str:
        """Return the environment of a task whose options say `own`. OptionError.

        Local directories are read.
        """
        if not own:
            return self.env
        if self._cache is None:
            self._cache = cache.EnvCache(self._cache_root or cache.default_root())
        fields = working_dir.resolve(decode(own), self._cache)
        return encode(merged(decode(self.env), fields) if self.env else fields)


inherited = Inheritance()
