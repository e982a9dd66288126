"""What is loaded when: `import weft.tune` costs little, and a local disk needs no pyarrow."""

from __future__ import annotations

import subprocess
import sys
from typing import TYPE_CHECKING

import pytest

from weft import tune

if TYPE_CHECKING:
    from pathlib import Path


def loaded_by(program: str) -> set[str]:
    """Return the top-level modules that a program has loaded at its end."""
    program += "; import sys; print(*sys.modules)"
    done = subprocess.run(
        [sys.executable, "-c", program], check=True, capture_output=True, text=True
    )
    return set(done.stdout.split())


HEAVY = {"pyarrow", "fsspec", "numpy", "pandas", "optuna", "scipy", "sklearn", "matplotlib"}


def test_importing_loads_nothing_but_the_package_itself() -> None:
    loaded = loaded_by("import weft.tune")
    assert not loaded & HEAVY
    assert {name for name in loaded if name.startswith("weft.tune")} == {"weft.tune"}


def test_process_that_runs_trials_loads_nothing_of_the_driver() -> None:
    loaded = loaded_by("import weft.tune._runner")
    assert not loaded & HEAVY
    assert not loaded & {
        f"weft.tune.{name}" for name in ("_loop", "_trials", "tuner", "schedulers")
    }


def test_experiment_on_the_local_disk_needs_no_other_package(tmp_path: Path) -> None:
    program = (
        "import weft; from weft import tune; weft.init(local_mode=True); "
        f"run_config = tune.RunConfig(storage_path={str(tmp_path)!r}); "
        "tune.Tuner(lambda config: {'x': 1}, run_config=run_config).fit()"
    )
    assert not loaded_by(program) & HEAVY


def test_every_public_name_is_there_and_no_other() -> None:
    for name in tune.__all__:
        assert getattr(tune, name) is not None
    assert set(tune.__all__) <= set(dir(tune))
    with pytest.raises(AttributeError, match="has no attribute 'nothing'"):
        tune.nothing  # noqa: B018 - looking is the test


@pytest.mark.parametrize(
    "part", ["experiment", "integration", "logger", "schedulers", "search", "stopper", "utils"]
)
def test_part_of_the_package_is_an_attribute_without_being_imported(part: str) -> None:
    assert f"weft.tune.{part}" in loaded_by(f"from weft import tune; tune.{part}")
