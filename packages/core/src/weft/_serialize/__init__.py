"""Values, code and errors to bytes and back."""

from weft._serialize.failures import (
    install_excepthook,
    pack_error,
    pack_failure,
    uninstall_excepthook,
    unpack_failure,
)
from weft._serialize.pickling import (
    Serialized,
    deregister_reducer,
    dump_code,
    dumps,
    dumps_call,
    load_code,
    register_reducer,
    unpack,
)
from weft._serialize.refs import hooks

__all__ = [
    "Serialized",
    "deregister_reducer",
    "dump_code",
    "dumps",
    "dumps_call",
    "hooks",
    "install_excepthook",
    "load_code",
    "pack_error",
    "pack_failure",
    "register_reducer",
    "uninstall_excepthook",
    "unpack",
    "unpack_failure",
]
