"""The service KeyValue."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from weft._machines.keyvalues import DeleteValues, KeyValues, PutValue
from weft._transport.control import messages

if TYPE_CHECKING:
    from weft._control.calls.desk import Desk

PAGE_KEYS = 10_000
PAGE_BYTES = 1024 * 1024
"""A page ends with the key that goes beyond it."""


class KeyValueCalls:
    """Answers what is asked of keys and their values."""

    def __init__(self, desk: Desk, values: KeyValues) -> None:
        self._desk = desk
        self._values = values

    async def get(self, request: messages.GetRequest, _: Any) -> messages.GetAnswer:
        """Return the values that are there."""
        self._desk.read()
        values = [(key, self._values.get(request.namespace, key)) for key in request.keys]
        return messages.GetAnswer(
            found=[messages.KeyAndValue(key=k, value=v) for k, v in values if v is not None]
        )

    async def put(self, request: messages.PutRequest, _: Any) -> messages.PutAnswer:
        """Set a value."""
        command = PutValue(request.namespace, request.key, request.value, request.overwrite)
        return messages.PutAnswer(existed=bool(await self._desk.do(command, request.header)))

    async def delete(self, request: messages.DeleteRequest, _: Any) -> messages.DeleteAnswer:
        """Delete a key, or all that begin so."""
        command = DeleteValues(request.namespace, request.key, request.by_prefix)
        return messages.DeleteAnswer(deleted=int(await self._desk.do(command, request.header)))

    async def keys(self, request: messages.KeysRequest, _: Any) -> messages.KeysAnswer:
        """Return a page of keys."""
        self._desk.read()
        most = min(request.most or PAGE_KEYS, PAGE_KEYS)
        after = request.after if request.HasField("after") else None
        found = self._values.keys(request.namespace, request.prefix, after=after, most=most + 1)
        page: list[bytes] = []
        size_bytes = 0
        for key in found[:most]:
            page.append(key)
            size_bytes += len(key)
            if size_bytes > PAGE_BYTES:
                break
        return messages.KeysAnswer(keys=page, is_last=len(page) == len(found))

    async def exists(self, request: messages.ExistsRequest, _: Any) -> messages.ExistsAnswer:
        """Tell whether a key has a value."""
        self._desk.read()
        value = self._values.get(request.namespace, request.key)
        return messages.ExistsAnswer(exists=value is not None)
