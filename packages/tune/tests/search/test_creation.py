"""Searchers by name: those of the package, and a plug-in's, found as an installed one is."""

from __future__ import annotations

import importlib.util
import tomllib
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from weft.exceptions import OptionError
from weft.lowlevel import override
from weft.tune.search import BasicVariantGenerator, Searcher, create_searcher
from weft.tune.search.extras import required
from weft.tune.search.optuna import OptunaSearch
from weft.tune.testing.searcher_suite import SPACE, SearcherSuite

if TYPE_CHECKING:
    from collections.abc import Iterator

TESTS = Path(__file__).resolve().parent
PYPROJECT = TESTS.parents[1] / "pyproject.toml"


@pytest.fixture(autouse=True)
def installed(tmp_path: Path) -> Iterator[None]:
    """Distributions on the path: this package, as its pyproject.toml says; and the plug-in."""
    project = tomllib.loads(PYPROJECT.read_text(encoding="utf-8"))["project"]
    folder = tmp_path / f"weft_tune-{project['version']}.dist-info"
    folder.mkdir()
    (folder / "METADATA").write_text(f"Name: weft-tune\nVersion: {project['version']}\n")
    lines = ["[weft.tune.searchers]"]
    lines += [f"{name} = {where}" for name, where in searchers().items()]
    (folder / "entry_points.txt").write_text("\n".join(lines))
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(str(tmp_path))
        patch.syspath_prepend(str(TESTS / "plugin"))
        yield


def searchers() -> dict[str, str]:
    """Return the entry points that pyproject.toml declares."""
    project = tomllib.loads(PYPROJECT.read_text(encoding="utf-8"))["project"]
    offered: dict[str, str] = project["entry-points"]["weft.tune.searchers"]
    return offered


class TestPlugin(SearcherSuite):
    has_points = False
    learns = False

    @override
    def make(self, **arguments: Any) -> Searcher:
        return create_searcher("halton", **arguments)


def test_plugin_gets_the_arguments() -> None:
    def first(**arguments: Any) -> Any:
        searcher = create_searcher("halton", **arguments)
        searcher.set_search_properties("loss", "min", SPACE, num_samples=1)
        return searcher.ask("a")

    assert first() == first(skip=0) != first(skip=1)


@pytest.mark.parametrize("name", searchers())
def test_every_searcher_that_is_offered_is_there(name: str) -> None:
    module, _, attribute = searchers()[name].partition(":")
    assert importlib.util.find_spec(module)
    assert issubclass(getattr(importlib.import_module(module), attribute), Searcher)


def test_searchers_are_made_by_their_names() -> None:
    assert isinstance(create_searcher("random"), BasicVariantGenerator)
    optuna = create_searcher("optuna", metric="loss", mode="max")
    assert isinstance(optuna, OptunaSearch)
    assert optuna.objectives == [("loss", "max")]
    assert create_searcher(optuna) is optuna


def test_unknown_name_is_told_with_those_that_there_are() -> None:
    with pytest.raises(OptionError, match=r"no searcher 'optnua'; there are: .*halton, .*optuna"):
        create_searcher("optnua")


def test_missing_package_is_told_with_its_extra() -> None:
    with pytest.raises(
        ImportError, match=r"nowhere is not installed: pip install 'weft-tune\[x\]'"
    ):
        required("nowhere.inside", extra="x")


def test_package_that_another_needs_is_told_with_both(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "needs_nowhere.py").write_text("import nowhere")
    monkeypatch.syspath_prepend(tmp_path)
    with pytest.raises(ImportError, match="nowhere, which needs_nowhere needs, is not installed"):
        required("needs_nowhere", extra="x")
