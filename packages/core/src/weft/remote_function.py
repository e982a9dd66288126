"""Remote functions."""

from weft._api.tasks import RemoteFunction

__all__ = ["RemoteFunction"]
