from __future__ import annotations

import importlib
import sys
from typing import TYPE_CHECKING

import pytest

import public_names

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path
    from types import ModuleType

FILES = {
    "__init__.py": "import os\nfrom shop._stock import Box\n__all__ = ['Box', 'open_shop']\n"
    "def open_shop(): pass\ndef not_listed(): pass\n",
    "_stock.py": "class Shelf:\n    def fill(self): pass\n"
    "class Box(Shelf, dict):\n    size: int\n    def open(self): pass\n    def _hide(self): pass\n",
    "orders.py": "import json\nfrom shop._stock import Box\nLIMIT = 3\nclass Order(Exception):\n"
    "    def send(self): pass\n",
    "books/__init__.py": "",
    "books/_private.py": "class Secret: pass\n",
    "books/ledger.py": "def write(): pass\n",
}


@pytest.fixture
def shop(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[ModuleType]:
    for path, text in FILES.items():
        file = tmp_path / "shop" / path
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(text)
    monkeypatch.syspath_prepend(tmp_path)
    yield importlib.import_module("shop")
    for name in [name for name in sys.modules if name.split(".")[0] == "shop"]:
        del sys.modules[name]


def test_names_are_those_that_users_may_rely_on(shop: ModuleType) -> None:
    assert public_names.public_names(shop) == [
        "shop.Box",
        "shop.Box.fill",
        "shop.Box.open",
        "shop.Box.size",
        "shop.books",
        "shop.books.ledger",
        "shop.books.ledger.write",
        "shop.open_shop",
        "shop.orders",
        "shop.orders.Order",
        "shop.orders.Order.send",
    ]


def test_library_in_the_namespace_is_left_to_its_own_list(
    shop: ModuleType, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(public_names, "PROJECT", "shop")
    found = public_names.public_names(shop, {"books"})
    assert not [name for name in found if name.startswith("shop.books")]


def test_difference_names_what_is_gone_and_what_is_not_listed() -> None:
    assert public_names.compare(["a", "b"], ["b", "c"]) == ["- a", "+ c"]


def test_gate_fails_until_the_list_is_written(
    shop: ModuleType,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    (tmp_path / "packages" / "core" / "tests").mkdir(parents=True)
    (tmp_path / "packages" / "core" / "pyproject.toml").touch()
    monkeypatch.setattr(public_names, "REPOSITORY", tmp_path)
    monkeypatch.setattr(public_names, "PROJECT", shop.__name__)
    assert public_names.main([]) == 1
    assert "+ shop.open_shop" in capsys.readouterr().out
    assert public_names.main(["--write"]) == 0
    assert public_names.main([]) == 0
