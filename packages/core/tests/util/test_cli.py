from __future__ import annotations

from click.testing import CliRunner

import weft
from weft._cli.main import main


def test_version_is_said() -> None:
    for option in ("--version", "-V"):
        ended = CliRunner().invoke(main, [option])
        assert (ended.exit_code, ended.output) == (0, f"weft {weft.__version__}\n")


def test_help_is_shown_for_nothing() -> None:
    for arguments in ([], ["--help"], ["-h"]):
        ended = CliRunner().invoke(main, arguments, prog_name="weft")
        assert ended.exit_code == 0
        assert ended.output.startswith("Usage: weft [OPTIONS]")


def test_unknown_command_is_refused() -> None:
    ended = CliRunner().invoke(main, ["strat"])
    assert ended.exit_code == 2
    assert "strat" in ended.output
