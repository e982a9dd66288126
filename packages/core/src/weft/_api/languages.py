"""Other languages: Weft runs Python alone, and says so where programs ask for more."""

from __future__ import annotations

from enum import Enum
from typing import Final, NoReturn

from weft.exceptions import CrossLanguageError

SCRIPT_MODE: Final = 0
"""The mode of a driver."""
WORKER_MODE: Final = 1
"""The mode of a worker."""


class Language(Enum):
    """Languages that Ray knows. Weft runs Python."""

    PYTHON = 0
    JAVA = 1
    CPP = 2


def _refuse(language: str, name: str) -> NoReturn:
    raise CrossLanguageError(f"{name} is written in {language}, and Weft runs Python only")


def cpp_function(function_name: str) -> NoReturn:
    """Raise CrossLanguageError: Weft runs Python only.

    Args:
        function_name: The function's name.
    """
    _refuse("C++", function_name)


def cpp_actor_class(create_function_name: str, class_name: str) -> NoReturn:
    """Raise CrossLanguageError: Weft runs Python only.

    Args:
        create_function_name: The name of the function that makes an instance.
        class_name: The class's name.
    """
    _refuse("C++", class_name)


def java_function(class_name: str, function_name: str) -> NoReturn:
    """Raise CrossLanguageError: Weft runs Python only.

    Args:
        class_name: The class's name.
        function_name: The function's name.
    """
    _refuse("Java", f"{class_name}.{function_name}")


def java_actor_class(class_name: str) -> NoReturn:
    """Raise CrossLanguageError: Weft runs Python only.

    Args:
        class_name: The class's name.
    """
    _refuse("Java", class_name)
