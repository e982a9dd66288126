"""Make the Python side of packages/core/proto/weft/control.proto, or tell that it is not current.

    python tools/protos.py [--write]

Two files of `weft._transport.control` are made: `descriptor.py`, the definition in protobuf's own
binary form, of which `messages.py` makes the classes when it is loaded, and `messages.pyi`, what
type checkers read instead. No other code is generated: it would be tied to the versions of grpcio
and protobuf that it was made with, and to those after them.

It needs grpcio-tools, at the version of constraints.txt.
"""

from __future__ import annotations

import subprocess
import sys
import tempfile
from pathlib import Path

from release import REPOSITORY

FOLDER = "weft/_transport/control"
SOURCE = REPOSITORY / "packages/core/proto/weft"
TARGET = REPOSITORY / "packages/core/src" / FOLDER
NAME = "control"
MARK = f"made by tools/protos.py of packages/core/proto/weft/{NAME}.proto: do not edit"
PIECE = 60
"""Bytes of the definition on a line."""


def generate() -> dict[Path, str]:
    """Return the text of each generated file."""
    with tempfile.TemporaryDirectory() as folder:
        command = [
            sys.executable, "-m", "grpc_tools.protoc", f"-I{FOLDER}={SOURCE}",
            f"--descriptor_set_out={folder}/set", f"--pyi_out={folder}", f"{FOLDER}/{NAME}.proto",
        ]  # fmt: skip
        subprocess.run(command, check=True)
        serialized = (Path(folder) / "set").read_bytes()
        stub = (Path(folder) / FOLDER / f"{NAME}_pb2.pyi").read_text(encoding="utf-8")
    return {TARGET / "descriptor.py": _descriptor(serialized), TARGET / "messages.pyi": _stub(stub)}


def _descriptor(serialized: bytes) -> str:
    pieces = [serialized[at : at + PIECE] for at in range(0, len(serialized), PIECE)]
    lines = "".join(f"    {piece!r}\n" for piece in pieces)
    head = f'"""A FileDescriptorSet, {MARK}."""\n\n# ruff: noqa\n# fmt: off\n'
    return f"{head}SERIALIZED = (\n{lines})\n"


def _stub(text: str) -> str:
    # It is not written for mypy's strict settings.
    return (
        f"# {MARK[0].upper()}{MARK[1:]}.\n# ruff: noqa\n# fmt: off\n# mypy: ignore-errors\n{text}"
    )


def main(arguments: list[str]) -> int:
    """Compare or write the files; return 1 if one differs."""
    stale = []
    for path, text in generate().items():
        if "--write" in arguments:
            path.write_text(text, encoding="utf-8")
        elif not path.exists() or path.read_text(encoding="utf-8") != text:
            stale.append(path)
    for path in stale:
        print(f"{path.relative_to(REPOSITORY)} is not current: python tools/protos.py --write")
    return 1 if stale else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
