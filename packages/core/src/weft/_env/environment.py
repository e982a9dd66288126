"""RuntimeEnv and RuntimeEnvConfig: a runtime environment as an object; a dict does as well."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from weft._env.spec import CONTENT, SETUP_TIMEOUT_S, checked, decode, encode
from weft._lazy import lazy
from weft._override import override

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence
    from os import PathLike
    from types import ModuleType

    from weft._env import packages
else:
    packages = lazy("weft._env.packages")

_SUBJECT = "RuntimeEnv"


class RuntimeEnvConfig(dict[str, Any]):
    """How an environment is set up: the `config` of a RuntimeEnv."""

    def __init__(
        self,
        setup_timeout_seconds: int = SETUP_TIMEOUT_S,
        eager_install: bool = True,
        log_files: list[str] | None = None,
    ) -> None:
        """Hold the settings.

        Args:
            setup_timeout_seconds: How long it may take to install packages; -1: no limit.
            eager_install: Whether a session's environment is built as soon as the session starts.
            log_files: Taken from programs that come from Ray; there is no dashboard to show them.

        Raises:
            OptionError: A setting is wrong.
        """
        config = {
            "setup_timeout_seconds": setup_timeout_seconds,
            "eager_install": eager_install,
            "log_files": log_files if log_files is not None else [],
        }
        checked({"config": config}, "RuntimeEnvConfig")
        super().__init__(config)

    @classmethod
    def default_config(cls) -> RuntimeEnvConfig:
        """Return the settings that hold where none are given."""
        return cls()

    def to_dict(self) -> dict[str, Any]:
        """Return the settings as a plain dict."""
        return dict(self)


class RuntimeEnv(dict[str, Any]):
    """What a task's worker has besides the driver's code: variables, files, packages.

    It is a dict of its keys, and is taken, like a plain dict, by `init(runtime_env=...)`, `@remote`
    and `.options`. Tasks and actors inherit the environment of what starts them; of `env_vars`
    each variable, of the rest each key replaces what was inherited.
    """

    def __init__(
        self,
        *,
        py_modules: Sequence[str | PathLike[str] | ModuleType] | None = None,
        py_executable: str | None = None,
        working_dir: str | PathLike[str] | None = None,
        pip: Sequence[str] | str | Mapping[str, Any] | None = None,
        conda: Mapping[str, Any] | str | None = None,
        container: Mapping[str, Any] | None = None,
        env_vars: Mapping[str, str] | None = None,
        worker_process_setup_hook: Callable[[], Any] | str | None = None,
        nsight: Mapping[str, str] | str | None = None,
        rocprof_sys: Mapping[str, Any] | str | None = None,
        config: Mapping[str, Any] | RuntimeEnvConfig | None = None,
        _validate: bool = True,
        image_uri: str | None = None,
        uv: Sequence[str] | str | Mapping[str, Any] | None = None,
        excludes: Sequence[str] | None = None,
        preload: Sequence[str] | None = None,
        **kwargs: Any,
    ) -> None:
        """Check and hold an environment.

        Args:
            py_modules: What can be imported: directories of packages, .py, .whl or .zip files,
                or modules.
            py_executable: A command that starts Python, with its arguments, for the workers.
            working_dir: A directory or .zip file. Workers run in a copy of it and import from it.
            pip: Requirements, the path of a requirements file, or a dict with packages, pip_check,
                pip_version and pip_install_options.
            conda: Not in this version.
            container: Not in this version.
            env_vars: Environment variables; `${NAME}` stands for what was set before.
            worker_process_setup_hook: A function that each worker calls first, or its name.
            nsight: Not in this version.
            rocprof_sys: Not in this version.
            config: A RuntimeEnvConfig, or a dict with its settings.
            image_uri: Not in this version.
            uv: As pip, installed by the program uv: packages, uv_check, uv_pip_install_options.
            excludes: What working_dir and py_modules leave out, as patterns of a .gitignore file.
            preload: Modules that workers have imported when their first task comes.
            **kwargs: Nothing else is taken; an unknown name raises and says which was meant.

        Raises:
            OptionError: A key is unknown, not supported, or its value is wrong.
        """
        super().__init__()
        given = {
            "py_modules": py_modules,
            "py_executable": py_executable,
            "working_dir": working_dir,
            "pip": pip,
            "conda": conda,
            "container": container,
            "env_vars": env_vars,
            "worker_process_setup_hook": worker_process_setup_hook,
            "nsight": nsight,
            "rocprof_sys": rocprof_sys,
            "config": config,
            "image_uri": image_uri,
            "uv": uv,
            "excludes": excludes,
            "preload": preload,
            **kwargs,
        }
        fields = {name: value for name, value in given.items() if value is not None}
        if _validate:
            checked(fields, _SUBJECT)
        for name, value in fields.items():
            self[name] = value

    @override
    def __setitem__(self, name: str, value: Any) -> None:
        if value is None:
            self.pop(name, None)
            return
        plain = checked({name: value}, _SUBJECT)
        # A function stays callable here; it is pickled when the environment is used.
        super().__setitem__(name, plain.get(name, value) if not callable(value) else value)

    def set(self, name: str, value: Any) -> None:
        """Set a key; None removes it.

        Raises:
            OptionError: The key is unknown, not supported, or the value is wrong. Nothing changed.
        """
        self[name] = value

    @override
    def get(
        self, name: str, default: Any = None, data_class: Callable[..., Any] | None = None
    ) -> Any:
        """Return a key's value.

        Args:
            name: The key.
            default: What to return if it is not set.
            data_class: A class that is made from the value, whose items are its keywords.
        """
        if name not in self:
            return default
        value = self[name]
        if data_class is None or (isinstance(data_class, type) and isinstance(value, data_class)):
            return value
        return data_class(**value)

    def to_dict(self) -> dict[str, Any]:
        """Return the environment as a plain dict."""
        return dict(self)

    def serialize(self) -> str:
        """Return the environment as JSON, with functions pickled."""
        return encode(checked(self, _SUBJECT)) or "{}"

    @classmethod
    def deserialize(cls, serialized_runtime_env: str) -> RuntimeEnv:
        """Return the environment that `serialize` gave."""
        return cls(**decode(serialized_runtime_env))

    # -------------------------------------------------------------- questions

    def env_vars(self) -> dict[str, str]:
        """Return the environment variables."""
        return dict(self.get("env_vars", {}))

    def working_dir(self) -> str | None:
        """Return the working directory, None if there is none."""
        path: str | None = self.get("working_dir")
        return path

    def working_dir_uri(self) -> str | None:
        """Return the name of the working directory's contents; None for a local one, or none."""
        path = self.working_dir()
        return path if path is not None and path.startswith(CONTENT) else None

    def py_modules(self) -> list[str]:
        """Return the paths of the modules."""
        return list(self.get("py_modules", []))

    def py_modules_uris(self) -> list[str]:
        """Return the names of the contents of those modules that are not local."""
        return [path for path in self.py_modules() if path.startswith(CONTENT)]

    def py_executable(self) -> str | None:
        """Return the command that starts Python for the workers, None for the usual one."""
        command: str | None = self.get("py_executable")
        return command

    def has_pip(self) -> bool:
        """Tell whether packages are installed by pip."""
        return "pip" in self

    def pip_config(self) -> dict[str, Any]:
        """Return what pip installs: packages, pip_check, pip_version, pip_install_options."""
        return dict(self.get("pip", {}))

    def pip_uri(self) -> str | None:
        """Return a name of the requirements and the interpreter; None without pip."""
        return f"pip://{packages.key_of('pip', self['pip'])}" if self.has_pip() else None

    def virtualenv_name(self) -> str | None:
        """Return None: an existing virtual environment cannot be named; see py_executable."""
        return None

    def has_uv(self) -> bool:
        """Tell whether packages are installed by uv."""
        return "uv" in self

    def uv_config(self) -> dict[str, Any]:
        """Return what uv installs: packages, uv_check, uv_pip_install_options."""
        return dict(self.get("uv", {}))

    def uv_uri(self) -> str | None:
        """Return a name of the requirements and the interpreter; None without uv."""
        return f"uv://{packages.key_of('uv', self['uv'])}" if self.has_uv() else None

    def has_working_dir(self) -> bool:
        """Tell whether workers run in a directory of their own."""
        return "working_dir" in self

    # -------------------------------------------------------------- what this version does not have

    def has_conda(self) -> bool:
        """Return False: conda is not supported."""
        return False

    def conda_config(self) -> str | None:
        """Return None: conda is not supported."""
        return None

    def conda_env_name(self) -> str | None:
        """Return None: conda is not supported."""
        return None

    def conda_uri(self) -> str | None:
        """Return None: conda is not supported."""
        return None

    def has_py_container(self) -> bool:
        """Return False: containers are not supported."""
        return False

    def py_container_image(self) -> str | None:
        """Return None: containers are not supported."""
        return None

    def py_container_run_options(self) -> list[str]:
        """Return nothing: containers are not supported."""
        return []

    def py_container_worker_path(self) -> str | None:
        """Return None: containers are not supported."""
        return None

    def image_uri(self) -> str | None:
        """Return None: containers are not supported."""
        return None

    def java_jars(self) -> list[str]:
        """Return nothing: Java is not supported."""
        return []

    def nsight(self) -> str | None:
        """Return None: profilers are started by py_executable."""
        return None

    def rocprof_sys(self) -> str | None:
        """Return None: profilers are started by py_executable."""
        return None

    def plugins(self) -> list[tuple[str, Any]]:
        """Return nothing: there are no plug-ins of runtime environments."""
        return []

    def plugin_uris(self) -> list[str]:
        """Return nothing: there are no plug-ins of runtime environments."""
        return []

    def get_extension(self, key: str) -> str | None:
        """Raise ValueError: there are no extensions of runtime environments."""
        raise ValueError(f"{key!r} is no extension of runtime environments: there are none")
