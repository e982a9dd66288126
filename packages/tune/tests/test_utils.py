from __future__ import annotations

import threading
from typing import TYPE_CHECKING

import pytest

from weft.exceptions import OptionError
from weft.tune.utils import date_str, diagnose_serialization, wait_for_gpu
from weft.tune.utils.log import Verbosity
from weft.tune.utils.util import validate_warmstart

if TYPE_CHECKING:
    from pathlib import Path


@pytest.fixture
def smi(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A program nvidia-smi that says what is in a file."""
    program = tmp_path / "nvidia-smi"
    program.write_text(f'#!/bin/sh\necho "$1" >> {tmp_path}/asked\ncat {tmp_path}/says || exit 6\n')
    program.chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}:/usr/bin:/bin")
    return tmp_path


def test_gpu_is_waited_for_until_it_is_free(smi: Path) -> None:
    (smi / "says").write_text("100, 80000\n")
    assert wait_for_gpu(3)
    (smi / "says").write_text("2000, 80000\n")
    with pytest.raises(RuntimeError, match="GPU 3 still has"):
        wait_for_gpu(3, retry=2, delay_s=0)
    assert wait_for_gpu("3", gpu_memory_limit=3e9)
    assert (smi / "asked").read_text() == "--id=3\n" * 4


def test_gpu_that_is_not_there_is_said(smi: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(RuntimeError, match="nvidia-smi does not know GPU 3"):
        wait_for_gpu(3)
    monkeypatch.setenv("PATH", "")
    with pytest.raises(RuntimeError, match="nvidia-smi does not know GPU 3"):
        wait_for_gpu(3)


def test_points_that_do_not_fit_are_refused() -> None:
    validate_warmstart(["a", "b"], [{"a": 1, "b": 2}, [1, 2]], [0.5, 0.6])
    validate_warmstart(["a", "b"], [{"a": 1}], None, validate_point_name_lengths=False)
    validate_warmstart(["a"], None, None)
    for points, rewards, message in (
        ([3], None, "give a dictionary or a list"),
        ([{"a": 1}], None, "has 1 values, and the space 2: a, b"),
        ([[1, 2]], [1, 2], "2 evaluated_rewards for 1 points"),
    ):
        with pytest.raises(OptionError, match=message):
            validate_warmstart(["a", "b"], points, rewards)  # type: ignore[arg-type]


def test_parts_that_cannot_be_sent_are_named(capsys: pytest.CaptureFixture[str]) -> None:
    lock = threading.Lock()
    assert diagnose_serialization(len) is True
    assert diagnose_serialization(lambda: lock) is not True
    assert "lock" in capsys.readouterr().out


def test_small_things() -> None:
    assert len(date_str()) == len("2026-01-01_00-00-00")
    assert Verbosity.V0_MINIMAL < Verbosity.V1_EXPERIMENT < Verbosity.V2_TRIAL_NORM
    assert Verbosity.V3_TRIAL_DETAILS == 3
