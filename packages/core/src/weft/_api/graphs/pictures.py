"""Graphs as text, in the language of Graphviz, and as what its program `dot` makes of that."""

from __future__ import annotations

import reprlib
import sys
from pathlib import Path
from typing import TYPE_CHECKING

from weft._lazy import lazy
from weft.exceptions import OptionError

if TYPE_CHECKING:
    import shutil
    import subprocess
    import webbrowser
    from os import PathLike

    from weft._api.graphs.nodes import DAGNode
else:
    shutil = lazy("shutil")
    subprocess = lazy("subprocess")
    webbrowser = lazy("webbrowser")

_LANGUAGE = frozenset({"dot", "gv"})
"""Suffixes of files in the language of Graphviz."""


def plot(dag: DAGNode, to_file: str | PathLike[str] | None = None) -> str:
    """Draw a graph.

    Args:
        dag: Its last node.
        to_file: Where to write the picture; the suffix says as what: .dot is the language of
            Graphviz, .png, .svg and so on need Graphviz installed. None: nothing is written.

    Returns:
        The graph in the language of Graphviz.

    Raises:
        OptionError: Graphviz is not installed, or has no such format. Nothing was written.
    """
    source = dot_of(dag)
    if to_file is not None:
        _write(source, Path(to_file))
    return source


def visualize(root: DAGNode, filename: str, kind: str, *, views: bool) -> str:
    """Draw a compiled graph; see CompiledDAG."""
    if kind == "ascii":
        text = text_of(root)
        if views:
            sys.stdout.write(text)
        return text
    source = dot_of(root)
    path = Path(f"{filename}.{kind}")
    _write(source, path)
    if views:
        webbrowser.open(path.absolute().as_uri())
    return source


def text_of(root: DAGNode) -> str:
    """Return a line for each node, in the order in which they run."""
    nodes = root._in_order()
    name_of = {node._uuid: f"#{number}" for number, node in enumerate(nodes)}
    actors = root._actors()
    lines = []
    for node in nodes:
        words = ", ".join(node._words(lambda child: name_of[child._uuid], reprlib.repr))
        line = f"{name_of[node._uuid]} {node._title()}{f'({words})' if words else ''}"
        if node._handle() is not None:
            line += f" on actor {actors.index(node._handle())}"
        lines.append(f"{line}\n")
    return "".join(lines)


def dot_of(root: DAGNode) -> str:
    """Return a graph in the language of Graphviz. The steps of one actor stand in a box."""
    nodes = root._in_order()
    name_of = {node._uuid: f"n{number}" for number, node in enumerate(nodes)}
    lines = ["digraph {", "  node [shape=box]"]
    for number, actor in enumerate(root._actors()):
        label = _quoted(f"{actor._weft_meta.class_name} {actor._weft_meta.actor_id.hex()[:8]}")
        lines += [f"  subgraph cluster_{number} {{", f"    label={label}"]
        lines += [f"    {name_of[node._uuid]}" for node in nodes if node._handle() == actor]
        lines.append("  }")
    for node in nodes:
        shape = " shape=ellipse" if node._reads_input else ""
        lines.append(f"  {name_of[node._uuid]} [label={_quoted(node._title())}{shape}]")
        children = dict.fromkeys(child._uuid for child in node._children())
        lines += [f"  {name_of[child]} -> {name_of[node._uuid]}" for child in children]
    return "\n".join([*lines, "}", ""])


def _quoted(text: str) -> str:
    escaped = text.replace("\\", "\\\\").replace('"', '\\"')
    return f'"{escaped}"'


def _write(source: str, path: Path) -> None:
    """Write a graph in the language of Graphviz, or as the picture that a path's suffix names."""
    kind = path.suffix.removeprefix(".")
    if kind in _LANGUAGE:
        path.write_text(source)
        return
    program = shutil.which("dot")
    if program is None:
        raise OptionError(
            f"a picture as {kind or 'a file without a suffix'} needs the program dot of Graphviz, "
            "which is not installed; as .dot, or as text (format='ascii'), it needs nothing"
        )
    drawn = subprocess.run(
        [program, f"-T{kind}"], input=source.encode(), capture_output=True, check=False
    )
    if drawn.returncode:
        raise OptionError(f"dot made no picture as {kind!r}: {drawn.stderr.decode().strip()}")
    path.write_bytes(drawn.stdout)
