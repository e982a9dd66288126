"""What a job brings along: `init(job_config=...)`, as programs that come from Ray write it."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import msgspec

from weft._options import job_limits
from weft.exceptions import OptionError

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from typing import Self

    from weft._resources import JobLimits
    from weft._runtime.loggers import LoggingConfig


class JobConfig:
    """Settings of a job, which `init` uses where its own parameters do not say.

    Attributes:
        runtime_env: The environment of the job's tasks and actors.
        namespace: Where names of its actors are looked up.
        metadata: Strings by name.
        logging_config: How records are written, in its workers too.
        quota: The most of each resource that the job may have at one time, on all nodes together.
        weight: Its share of a node where several jobs wait, beside theirs.
        priority: Where jobs wait, the one of the highest priority goes first.
    """

    def __init__(
        self,
        jvm_options: Sequence[str] | None = None,
        code_search_path: Sequence[str] | None = None,
        runtime_env: Mapping[str, Any] | None = None,
        metadata: Mapping[str, str] | None = None,
        ray_namespace: str | None = None,
        default_actor_lifetime: str = "non_detached",
        *,
        quota: Mapping[str, float] | None = None,
        weight: int = 1,
        priority: int = 0,
    ) -> None:
        """Hold the settings.

        Args:
            jvm_options: Not taken: Weft runs Python only.
            code_search_path: As above.
            runtime_env: See RuntimeEnv.
            metadata: Strings by name.
            ray_namespace: The namespace; None: one of the job's own.
            default_actor_lifetime: Only "non_detached": an actor is detached by its own option
                `lifetime`.
            quota: Amounts by name, like {"CPU": 4}; what is not named is not limited. Of a name
                with the amount 0 the job gets nothing.
            weight: From 1 up.
            priority: Any whole number; that of other jobs is 0 unless they say so.

        Raises:
            OptionError: A setting is not supported, or wrong.
        """
        if jvm_options or code_search_path:
            raise OptionError(
                "jvm_options and code_search_path of JobConfig: Weft runs Python only"
            )
        self.runtime_env = runtime_env
        self.metadata: dict[str, str] = dict(metadata or {})
        self.namespace = ray_namespace
        self.logging_config: LoggingConfig | None = None
        self.quota = quota
        self.weight = weight
        self.priority = priority
        self._limits()
        self.set_default_actor_lifetime(default_actor_lifetime)

    def _limits(self) -> JobLimits:
        given = {"quota": self.quota, "weight": self.weight, "priority": self.priority}
        return job_limits(given, "JobConfig")

    def set_runtime_env(
        self, runtime_env: Mapping[str, Any] | None, validate: bool = False
    ) -> None:
        """Set the environment of the job's tasks and actors.

        Args:
            runtime_env: See RuntimeEnv.
            validate: Taken from programs that come from Ray: `init` always checks.
        """
        self.runtime_env = runtime_env

    def set_ray_namespace(self, ray_namespace: str) -> None:
        """Set the namespace.

        Args:
            ray_namespace: Where names of the job's actors are looked up.
        """
        self.namespace = ray_namespace

    def set_metadata(self, key: str, value: str) -> None:
        """Add one string to the metadata."""
        self.metadata[key] = value

    def set_default_actor_lifetime(self, default_actor_lifetime: str) -> None:
        """Take the default alone.

        Args:
            default_actor_lifetime: "non_detached".

        Raises:
            OptionError: It is something else.
        """
        if default_actor_lifetime != "non_detached":
            raise OptionError(
                f"default_actor_lifetime={default_actor_lifetime!r} of JobConfig is not supported: "
                "give the actors lifetime='detached'"
            )

    def set_py_logging_config(self, logging_config: LoggingConfig | None = None) -> None:
        """Say how records are written, here and in workers."""
        self.logging_config = logging_config

    def ensure_logging_config(self, logging_config: LoggingConfig | None = None) -> None:
        """Say how records are written, unless that was said before."""
        if self.logging_config is None:
            self.logging_config = logging_config

    @classmethod
    def from_json(cls, job_config_json: Mapping[str, Any]) -> Self:
        """Make one of a decoded JSON object with the constructor's names.

        Args:
            job_config_json: runtime_env, metadata, ray_namespace or namespace.
        """
        given = dict(job_config_json)
        if "namespace" in given:
            given["ray_namespace"] = given.pop("namespace")
        return cls(**msgspec.json.decode(msgspec.json.encode(given)))
