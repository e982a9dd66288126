"""What a task's worker has besides the driver's code: variables, files, packages."""

from weft._env.environment import RuntimeEnv, RuntimeEnvConfig

__all__ = ["RuntimeEnv", "RuntimeEnvConfig"]
