"""Graphs as text and as pictures."""

from __future__ import annotations

import os
import sys
from typing import TYPE_CHECKING

import pytest

import weft
from weft._api.graphs import pictures
from weft.dag import DAGNode, InputNode, MultiOutputNode, plot
from weft.exceptions import OptionError

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path


@weft.remote
class Adder:
    def __init__(self, by: int) -> None:
        self.by = by

    def add(self, number: int, *, text: str = "") -> int:
        return number + self.by


@pytest.fixture
def graph() -> Iterator[DAGNode]:
    with weft.init(engine="inline"):
        first, second = Adder.remote(1), Adder.remote(2)
        with InputNode() as given:
            added = first.add.bind(given[0], text='a "b"')
            yield MultiOutputNode([second.add.bind(added), first.add.bind(added)])


@pytest.fixture
def dot(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A program of this name, which knows png only: it writes its argument and its input."""
    program = tmp_path / "bin" / "dot"
    program.parent.mkdir()
    program.write_text(
        f"#!{sys.executable}\n"
        "import sys\n"
        "if sys.argv[1:] != ['-Tpng']: sys.exit('no such format')\n"
        "print(sys.argv[1], sys.stdin.read(), sep='\\n', end='')\n"
    )
    program.chmod(0o700)
    monkeypatch.setenv("PATH", str(program.parent))
    return program


TEXT = """\
#0 the input
#1 the input[0]
#2 Adder.add(#1, text='a "b"') on actor 0
#3 Adder.add(#2) on actor 1
#4 Adder.add(#2) on actor 0
#5 outputs([#3, #4])
"""


def test_text_lists_the_steps_in_their_order(
    graph: DAGNode, capsys: pytest.CaptureFixture[str]
) -> None:
    compiled = graph.experimental_compile()
    assert compiled.visualize(format="ascii") == TEXT
    assert compiled.visualize(format="ascii", view=True) == TEXT
    assert capsys.readouterr().out == TEXT


def test_language_of_graphviz_shows_steps_actors_and_what_passes(graph: DAGNode) -> None:
    lines = [line.strip() for line in plot(graph).splitlines()]
    assert lines.count("n2 -> n3") == lines.count("n2 -> n4") == 1
    assert 'n0 [label="the input" shape=ellipse]' in lines
    assert 'n2 [label="Adder.add"]' in lines
    boxes = [number for number, line in enumerate(lines) if line.startswith("subgraph")]
    assert [lines[boxes[0] + 2], lines[boxes[0] + 3], lines[boxes[1] + 2]] == ["n2", "n4", "n3"]


def test_language_of_graphviz_is_written_as_it_is(graph: DAGNode, tmp_path: Path) -> None:
    file = tmp_path / "graph.dot"
    assert plot(graph, file) == file.read_text()
    compiled = graph.experimental_compile()
    compiled.visualize(str(tmp_path / "compiled"), format="gv")
    assert (tmp_path / "compiled.gv").read_text() == plot(graph)


def test_pictures_are_made_by_graphviz(
    graph: DAGNode, dot: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    opened: list[str] = []
    monkeypatch.setattr(pictures.webbrowser, "open", opened.append)
    compiled = graph.experimental_compile()
    source = compiled.visualize(str(tmp_path / "picture"), view=True)
    assert (tmp_path / "picture.png").read_text() == f"-Tpng\n{source}"
    assert opened == [(tmp_path / "picture.png").as_uri()]
    with pytest.raises(OptionError, match="'jpeg': no such format"):
        plot(graph, tmp_path / "picture.jpeg")
    assert not (tmp_path / "picture.jpeg").exists()


def test_picture_without_graphviz_is_refused(
    graph: DAGNode, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PATH", os.devnull)
    with pytest.raises(OptionError, match="not installed"):
        plot(graph, tmp_path / "picture.png")
    with pytest.raises(OptionError, match="no channels"):
        graph.experimental_compile().visualize(channel_details=True)
