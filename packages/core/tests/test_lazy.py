from __future__ import annotations

import subprocess
import sys
from typing import TYPE_CHECKING

import pytest

from weft._lazy import lazy

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path


@pytest.fixture
def module(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    """The name of a module that nobody has imported yet."""
    name = "weft_lazy_example"
    (tmp_path / f"{name}.py").write_text("loads = [1]\ndef double(x):\n    return 2 * x\n")
    monkeypatch.syspath_prepend(str(tmp_path))
    monkeypatch.delitem(sys.modules, name, raising=False)
    yield name
    sys.modules.pop(name, None)


def test_module_is_loaded_when_it_is_used(module: str) -> None:
    stand_in = lazy(module)
    assert module not in sys.modules
    assert stand_in.double(2) == 4
    assert module in sys.modules


def test_stand_in_gives_the_modules_own_attributes(module: str) -> None:
    stand_in = lazy(module)
    assert stand_in.loads is sys.modules[module].loads
    assert stand_in.double is stand_in.double


def test_attribute_is_looked_up_once(module: str) -> None:
    stand_in = lazy(module)
    assert "double" not in vars(stand_in)
    stand_in.double(1)
    assert "double" in vars(stand_in)


def test_stand_in_has_the_name_of_its_module(module: str) -> None:
    assert lazy(module).__name__ == module
    assert module not in sys.modules


def test_attribute_that_is_not_there_is_named(module: str) -> None:
    with pytest.raises(AttributeError, match=f"module '{module}' has no attribute 'triple'"):
        _ = lazy(module).triple


def test_module_that_is_not_installed_is_missed_at_its_first_use() -> None:
    stand_in = lazy("weft_no_such_module")
    with pytest.raises(ModuleNotFoundError, match="weft_no_such_module"):
        _ = stand_in.anything


def test_module_inside_a_package_can_be_lazy() -> None:
    assert lazy("xml.dom.minidom").parseString("<a/>").documentElement.tagName == "a"


@pytest.mark.slow
def test_threads_may_use_it_first_at_once() -> None:
    program = (
        "import threading\nfrom weft._lazy import lazy\njson = lazy('json')\nfound = []\n"
        "threads = [threading.Thread(target=lambda: found.append(json.dumps)) for _ in range(8)]\n"
        "[thread.start() for thread in threads]\n[thread.join() for thread in threads]\n"
        "print(len(found), len(set(found)))"
    )
    ended = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, check=False
    )
    assert (ended.stdout, ended.stderr) == ("8 1\n", "")
