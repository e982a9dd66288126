"""Opens a capsule. Nothing here runs code that is in it: pickles are handed out as bytes."""

from __future__ import annotations

import struct
import zipfile
import zlib
from pathlib import Path
from typing import TYPE_CHECKING

import msgspec

from weft._capsules.records import FORMAT, Manifest, Piece

if TYPE_CHECKING:
    from typing import Self

MANIFEST = "manifest.json"
# A manifest has a few kilobytes. A stranger's may be a small file that unpacks to a large one.
MOST_TEXT_BYTES = 16 * 1024 * 1024
# What zipfile raises for files that are not as they were written.
_DAMAGE = (
    zipfile.BadZipFile, zlib.error, struct.error, EOFError, OSError, RuntimeError, ValueError,
)  # fmt: skip


class CapsuleError(Exception):
    """The file is no capsule, or cannot be used here: why, in one line."""


class _Version(msgspec.Struct):
    """As much of a manifest as every version has."""

    format: int


class Capsule:
    """An open capsule."""

    def __init__(self, path: str) -> None:
        """Open it. CapsuleError."""
        self.path = Path(path)
        try:
            self._archive = zipfile.ZipFile(path)
        except OSError as error:
            raise CapsuleError(f"{path} cannot be read: {error.strerror}") from None
        except zipfile.BadZipFile:
            with self.path.open("rb") as file:
                is_cut = file.read(4) == b"PK\3\4"
            what = "a capsule that was cut short, or another zip file" if is_cut else "no capsule"
            raise CapsuleError(f"{path} is {what}: its end is not that of a zip file") from None
        except _DAMAGE as error:
            raise CapsuleError(f"{path} is damaged: {error}") from None
        try:
            self.manifest = self._read_manifest()
        except BaseException:
            self.close()
            raise

    def _read_manifest(self) -> Manifest:
        if MANIFEST not in self._archive.namelist():
            raise CapsuleError(f"{self.path} is no capsule: it is a zip file without {MANIFEST}")
        raw = self._read(MANIFEST, MOST_TEXT_BYTES)
        try:
            version = msgspec.json.decode(raw, type=_Version).format
            if version <= FORMAT:
                return msgspec.json.decode(raw, type=Manifest)
        except (msgspec.MsgspecError, UnicodeDecodeError) as error:
            raise CapsuleError(f"{self.path} is no capsule: its {MANIFEST}: {error}") from None
        raise CapsuleError(
            f"{self.path} has format {version}, and this Weft reads formats up to {FORMAT}: "
            "install a newer weft-core"
        )

    def text(self, name: str) -> str:
        """Return a text of the capsule; empty if it has none of this name. CapsuleError."""
        if name not in self._archive.namelist():
            return ""
        return self._read(name, MOST_TEXT_BYTES).decode(errors="replace")

    def packed(self, piece: Piece) -> bytes:
        """Return a value that is kept, packed. CapsuleError."""
        return self.member(piece.file)

    def member(self, name: str) -> bytes:
        """Return the contents of a member. CapsuleError."""
        if name not in self._archive.namelist():
            raise CapsuleError(f"{self.path} is damaged: {name} is missing")
        return self._read(name, None)

    def has_bytecode(self) -> bool:
        """Tell whether functions or classes are kept by value: as bytecode of one Python."""
        names = self._archive.namelist()
        return any(b"cloudpickle" in self.member(n) for n in names if n.endswith(".pkl"))

    def _read(self, name: str, most_bytes: int | None) -> bytes:
        info = self._archive.getinfo(name)
        if most_bytes is not None and info.file_size > most_bytes:
            raise CapsuleError(f"{self.path} is no capsule: its {name} has {info.file_size} bytes")
        try:
            return self._archive.read(info)
        except _DAMAGE as error:
            raise CapsuleError(f"{self.path} is damaged: {name}: {error}") from None

    def close(self) -> None:
        """Close the file."""
        self._archive.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exc: object) -> None:
        self.close()
