from __future__ import annotations

import pytest

import protos


@pytest.mark.slow
def test_generated_code_is_current(capsys: pytest.CaptureFixture[str]) -> None:
    assert protos.main([]) == 0, capsys.readouterr().out
