"""What an environment names, given to other machines and fetched from them.

    builder   holders? -> all nodes; who has it gives it, part by part: the list, then its contents
    daemon    give     -> the parts, out of this machine's cache

What is always true
1. What is fetched gets its name only if its SHA-256 is that name.
2. A list gets its name after all that it names: who has a list, has all of it.

A part is at most `PART_BYTES`, so a daemon that gives is never held up for long. Many small files
are one part, a large one is several.
"""

from __future__ import annotations

import hashlib
import os
from pathlib import Path
from typing import TYPE_CHECKING, Protocol

import msgspec

from weft._env.cache import TreeEntry
from weft._env.spec import CONTENT, decode

if TYPE_CHECKING:
    from collections.abc import Iterator

    from weft._env.cache import EnvCache

PART_BYTES = 2**20
_WANTED_AT_ONCE = 200


class PartWanted(msgspec.Struct, frozen=True, array_like=True):
    """What is left of a file or of a list, from a place on."""

    is_tree: bool
    digest: bytes
    offset: int = 0


class ContentPart(msgspec.Struct, frozen=True, array_like=True):
    """Bytes of what was wanted."""

    data: bytes
    size: int
    """Of the whole."""


class FetchError(Exception):
    """Nobody gives what an environment names; the text says why."""


class Givers(Protocol):
    """Other nodes, as a builder sees them."""

    def holders(self, wanted: PartWanted) -> list[str]:
        """Return the nodes that have it. Blocks."""

    def give(self, node: str, wanted: list[PartWanted]) -> list[ContentPart]:
        """Return what `give` returns there. Blocks. FetchError: it cannot."""


def has(cache: EnvCache, wanted: PartWanted) -> bool:
    """Tell whether this machine has it."""
    return _place(cache, wanted).exists()


def give(cache: EnvCache, wanted: list[PartWanted]) -> list[ContentPart]:
    """Return the first of what is wanted, in its order; the last may be cut short.

    OSError: the first is not here.
    """
    parts: list[ContentPart] = []
    room = PART_BYTES
    for each in wanted:
        try:
            with _place(cache, each).open("rb") as file:
                size = os.fstat(file.fileno()).st_size
                file.seek(each.offset)
                part = ContentPart(file.read(room), size)
            if each.is_tree:
                os.utime(cache.tree(each.digest.hex()))
            else:
                cache.has(each.digest, size)
        except OSError:
            if not parts:
                raise
            break
        parts.append(part)
        room -= len(part.data)
        if each.offset + len(part.data) < size or room <= 0:
            break
    return parts


def named_by(env: str) -> list[PartWanted]:
    """Return the lists and the contents that an environment names."""
    fields = decode(env)
    trees = [fields.get("working_dir", ""), *fields.get("py_modules", ())]
    for tool in ("pip", "uv"):
        trees += fields.get(tool, {}).get("local", {}).values()
    digests = [name.removeprefix(CONTENT) for name in trees if name]
    named = [PartWanted(is_tree=True, digest=bytes.fromhex(each)) for each in digests]
    hook = fields.get("worker_process_setup_hook", "")
    if hook.startswith(CONTENT):
        digest = bytes.fromhex(hook.removeprefix(CONTENT))
        named.append(PartWanted(is_tree=False, digest=digest))
    return named


def fetch(cache: EnvCache, wanted: PartWanted, givers: Givers) -> None:
    """Have something here, whatever of it there is already. FetchError."""
    if wanted.is_tree:
        fetch_tree(cache, wanted.digest.hex(), givers)
    else:
        fetch_content(cache, wanted.digest.hex(), givers)


def fetch_tree(cache: EnvCache, digest: str, givers: Givers) -> None:
    """Have a list, and all that it names, here. FetchError."""
    wanted = PartWanted(is_tree=True, digest=bytes.fromhex(digest))
    why: list[str] = []
    for node in givers.holders(wanted):
        try:
            body = _whole(givers, node, wanted)
            entries = msgspec.msgpack.decode(body, type=list[TreeEntry])
            _fetch_contents(cache, entries, givers, node)
        except (FetchError, msgspec.MsgspecError) as error:
            why.append(f"{node[:12]}: {error}")
            continue
        cache.write(Path(cache.tree(digest)), body)
        return
    raise FetchError(_nobody(digest, why))


def fetch_content(cache: EnvCache, digest: str, givers: Givers) -> None:
    """Have a content here. FetchError."""
    wanted = PartWanted(is_tree=False, digest=bytes.fromhex(digest))
    why: list[str] = []
    for node in givers.holders(wanted):
        try:
            cache.store_bytes(_whole(givers, node, wanted))
        except FetchError as error:
            why.append(f"{node[:12]}: {error}")
        else:
            return
    raise FetchError(_nobody(digest, why))


def _nobody(digest: str, why: list[str]) -> str:
    words = f"no node that lives gives the files {digest[:12]} that the runtime_env names"
    return f"{words} ({'; '.join(why)})" if why else words


def _fetch_contents(cache: EnvCache, entries: list[TreeEntry], givers: Givers, node: str) -> None:
    size_of = {entry.content: entry.size for entry in entries if entry.kind in {"f", "x"}}
    missing = [content for content, size in size_of.items() if not cache.has(content, size)]
    while missing:
        asked = [PartWanted(is_tree=False, digest=each) for each in missing[:_WANTED_AT_ONCE]]
        parts = givers.give(node, asked)
        for wanted, part in zip(asked, parts, strict=False):
            content, _ = cache.store_parts(_parts_from(givers, node, wanted, part))
            if content != wanted.digest:
                raise FetchError("what it gives is something else")
        missing = missing[len(parts) :]


def _whole(givers: Givers, node: str, wanted: PartWanted) -> bytes:
    (first,) = givers.give(node, [wanted])
    body = b"".join(_parts_from(givers, node, wanted, first))
    if hashlib.sha256(body).digest() != wanted.digest:
        raise FetchError("what it gives is something else")
    return body


def _parts_from(
    givers: Givers, node: str, wanted: PartWanted, part: ContentPart
) -> Iterator[bytes]:
    """Yield a part, and those that follow it."""
    offset = 0
    yield part.data
    while (offset := offset + len(part.data)) < part.size:
        (part,) = givers.give(node, [msgspec.structs.replace(wanted, offset=offset)])
        if not part.data:
            raise FetchError("it has become shorter")
        yield part.data


def _place(cache: EnvCache, wanted: PartWanted) -> Path:
    return Path(cache.tree(wanted.digest.hex()) if wanted.is_tree else cache.file(wanted.digest))
