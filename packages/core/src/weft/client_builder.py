"""What `weft.init` returns."""

from weft._api.session import ClientContext

__all__ = ["ClientContext"]
