"""Modules for tests: made by hand, or loaded from files."""

from __future__ import annotations

import importlib
import sys
from importlib.util import module_from_spec, spec_from_file_location
from types import ModuleType
from typing import TYPE_CHECKING, Any

import pytest

if TYPE_CHECKING:
    import pathlib
    from collections.abc import Callable


@pytest.fixture
def make_module(monkeypatch: pytest.MonkeyPatch) -> Callable[..., Any]:
    """Make a module by hand; it is forgotten after the test."""

    def make(name: str, source: str = "") -> Any:
        module = ModuleType(name)
        monkeypatch.setitem(sys.modules, name, module)
        exec(source, module.__dict__)
        return module

    return make


@pytest.fixture
def load_module(tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch) -> Callable[..., Any]:
    """Load a module from a file of `tmp_path`; it is forgotten after the test."""

    def load(name: str, source: str = "", *, file: str = "") -> Any:
        place = tmp_path / (file or f"{name}.py")
        place.parent.mkdir(exist_ok=True)
        place.write_text(source)
        importlib.invalidate_caches()
        spec = spec_from_file_location(name, place)
        assert spec is not None
        assert spec.loader is not None
        module = module_from_spec(spec)
        monkeypatch.setitem(sys.modules, name, module)
        spec.loader.exec_module(module)
        return module

    return load
