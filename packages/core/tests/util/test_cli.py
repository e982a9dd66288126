from __future__ import annotations

import subprocess
import sys
from typing import Any

import click
from click.testing import CliRunner

import weft
from weft._cli.main import COMMANDS, main
from weft._cli.out import plain
from weft._cli.status import merged
from weft._cli.tables import block, moment, table


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


def test_help_names_the_commands_and_loads_none() -> None:
    program = (
        "import sys\n"
        "from weft._cli.main import COMMANDS, main\n"
        "main(['--help'], standalone_mode=False)\n"
        "loaded = {place.partition(':')[0] for place, _ in COMMANDS.values()} & set(sys.modules)\n"
        "assert not loaded, loaded\n"
    )
    ended = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, check=True, timeout=60
    )
    assert "replay      Run a failed task again, from its capsule." in ended.stdout
    assert "summary     Count tasks, actors or objects." in ended.stdout


def test_every_command_is_found_and_says_what_help_says() -> None:
    with click.Context(main) as context:
        for name, (_, words) in COMMANDS.items():
            command = main.get_command(context, name)
            assert command is not None
            assert command.get_short_help_str(limit=100) == words


def test_control_characters_of_elsewhere_are_shown() -> None:
    assert plain("a\x1b[31mb\r\n\tc\x00") == "a\\x1b[31mb\\x0d\n\tc\\x00"
    assert plain("größe") == "größe"


def test_table_is_cut_to_the_terminal_but_for_its_first_column() -> None:
    rows = [["0123456789abcdef", "a long text that goes on", 7], ["x", "short", None]]
    whole = table(["ID", "TEXT", "NUMBER"], rows)
    assert whole.splitlines()[1] == "0123456789abcdef  a long text that goes on       7"
    lines = table(["ID", "TEXT", "NUMBER"], rows, 40).splitlines()
    assert lines[1] == "0123456789abcdef  a long text t…       7"
    assert lines[2] == "x                 short"
    assert table(["ID", "TEXT", "NUMBER"], rows, 10).splitlines()[1] == "0123456…  a long …       7"


def test_text_of_the_last_column_stands_below_its_row_if_there_is_no_room() -> None:
    rows = [["0123456789", 7, "a long text that goes on"], ["x", 8, ""]]
    headers = ["ID", "NUMBER", "TEXT"]
    assert (
        table(headers, rows, 44).splitlines()[1] == "0123456789       7  a long text that goes on"
    )
    assert table(headers, rows, 24).splitlines() == [
        "ID          NUMBER",
        "    TEXT",
        "0123456789       7",
        "    a long text that go…",
        "x                8",
    ]
    assert table(["ID", "TEXT"], [["0123456789", "a long text"]], 20).splitlines()[1] == (
        "0123456789  a long …"
    )


def test_record_is_shown_field_by_field() -> None:
    record = {
        "name": "f",
        "error": None,
        "amounts": {"CPU": 1.0, "GPU": 0.5},
        "end_time_ms": 1_000_000_000_123.5,
        "stderr": "one\ntwo",
    }
    assert block(record).splitlines() == [
        "name:        f",
        "amounts:     CPU 1, GPU 0.5",
        f"end_time_ms: 1000000000123.500 ({moment(1_000_000_000_123.5)})",
        "stderr:      one",
        "             two",
    ]


def test_misuse_is_told_in_one_line() -> None:
    for arguments, words in [
        (["list"], "Missing argument 'RESOURCE'. Choose from: actors, cluster-events"),
        (["list", "foo"], "'foo' is not one of 'actors'"),
        (["list", "tasks", "--limit", "0"], "0 is not in the range"),
        (["list", "tasks", "--filter", "x"], "'x' is no filter: write key=value"),
        (["logs", "--follow", "--format", "json"], "what is followed has no end"),
        (["--frob"], "No such option"),
    ]:
        ended = CliRunner().invoke(main, arguments, prog_name="weft")
        assert (ended.exit_code, ended.stdout) == (2, "")
        assert ended.stderr.startswith("Error: ")
        assert words in ended.stderr
        assert ended.stderr.count("\n") == 1
        assert ended.stderr.endswith(" --help\n")


def test_table_shows_what_a_terminal_would_obey() -> None:
    assert table(["A"], [["x\x1b[31m\ny"]]).splitlines()[1] == "x\\x1b[31m y"


def test_what_waits_on_several_nodes_is_joined_and_says_who_says_why() -> None:
    def wish(workers: int, why: str, cpus: float = 1.0) -> dict[str, Any]:
        needs = {"CPU": cpus}
        return {
            "needs": needs, "strategy": "DEFAULT", "are_actors": False, "workers": workers,
            "why": why,
        }  # fmt: skip

    joined = merged(
        [
            ("a", [wish(2, "full"), wish(1, "small", 2.0)]),
            ("b", [wish(3, "full")]),
            ("c", [wish(4, "busy")]),
        ]
    )
    assert joined == [wish(9, "a, b: full\nc: busy"), wish(1, "a: small", 2.0)]
    assert merged([("the node", [wish(2, "full")])]) == [wish(2, "full")]
