"""Other languages: these names say that Weft runs Python only."""

from weft._api.languages import cpp_actor_class, cpp_function, java_actor_class, java_function

__all__ = ["cpp_actor_class", "cpp_function", "java_actor_class", "java_function"]
