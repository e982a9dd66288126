"""What is uploaded, under the name that programs from Ray look for."""

from weft.tune.config import SyncConfig

__all__ = ["SyncConfig"]
