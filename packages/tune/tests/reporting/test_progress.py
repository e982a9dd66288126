"""What is said while an experiment runs: on a terminal, elsewhere, in a notebook."""

from __future__ import annotations

import io
import math
import re
import sys
from types import ModuleType
from typing import TYPE_CHECKING, Any

import pytest

from weft import tune
from weft.lowlevel import Resources
from weft.tune import progress_reporter
from weft.tune._archive import Archive
from weft.tune._journal import Header
from weft.tune._storage import LocalStorage
from weft.tune._table import Column, shown, table
from weft.tune._terminal import TerminalBlock
from weft.tune._trial_runs import TrialRun
from weft.tune._values import encode
from weft.tune._watching import TrialList
from weft.tune.progress_reporter import CLIReporter, JupyterNotebookReporter, ProgressReporter

if TYPE_CHECKING:
    from pathlib import Path


class Trials:
    """Trials without an experiment."""

    def __init__(self) -> None:
        header = Header(
            experiment="trees", trainable="grow", prefix="a", seed=1, metric="loss", mode="min",
            parameters=[], begun_at=0.0,
        )  # fmt: skip
        self.run_of: dict[str, TrialRun] = {}
        self.list = TrialList(self.run_of, Archive(LocalStorage("/results/trees"), header, ()))

    def add(self, status: Any, loss: float | None = None, **config: Any) -> TrialRun:
        run = TrialRun(f"a_{len(self.run_of):05d}", encode(config), Resources())
        run.status = status
        if loss is not None:
            run.result = encode({"training_iteration": 1, "time_total_s": 0.5, "loss": loss})
        self.run_of[run.id] = run
        return run


@pytest.fixture
def trials() -> Trials:
    return Trials()


class Terminal(io.StringIO):
    """A terminal that understands what a TerminalBlock writes."""

    def isatty(self) -> bool:
        return True

    def screen(self) -> list[str]:
        lines = [""]
        for part in re.findall(r"\x1b\[\d*[FJ]|\n|[^\x1b\n]+", self.getvalue()):
            if part == "\n":
                lines.append("")
            elif part.endswith("F") and part.startswith("\x1b"):
                assert lines[-1] == ""
                del lines[len(lines) - int(part[2:-1]) - 1 :]
                lines.append("")
            elif part != "\x1b[J":
                lines[-1] += part
        assert lines.pop() == ""
        return lines


def terminal_of(monkeypatch: pytest.MonkeyPatch) -> Terminal:
    """Make the program's output a terminal. Not a fixture: pytest sets it anew for each test."""
    made = Terminal()
    monkeypatch.setattr(sys, "stderr", made)
    monkeypatch.setattr(sys, "stdout", made)
    monkeypatch.setenv("COLUMNS", "60")
    monkeypatch.setenv("LINES", "14")
    return made


def test_table_leaves_out_what_has_no_room_and_names_it() -> None:
    columns = [
        Column("trial", ["a", "b"], 0),
        Column("a long title", ["x", "y"], 2),
        Column("loss", [0.123456, 10], 1),
    ]
    assert table(columns, 40).lines == [
        "trial  a long title    loss",
        "a      x             0.1235",
        "b      y                 10",
    ]
    narrow = table(columns, 14)
    assert narrow.lines == ["trial    loss", "a      0.1235", "b          10"]
    assert narrow.left_out == ["a long title"]
    assert table(columns, 3).lines == ["tr…", "a", "b"]
    assert table([], 10).lines == []


def test_value_is_shown_in_one_short_line() -> None:
    assert shown("a\n b", 10) == "a b"
    assert shown("abcdef", 4) == "abc…"
    assert shown(math.nan, 10) == "nan"
    assert shown(None, 10) == ""


def test_block_stands_under_everything_else(monkeypatch: pytest.MonkeyPatch) -> None:
    terminal = terminal_of(monkeypatch)
    block = TerminalBlock(terminal)
    block.draw(["one", "two"])
    print("said by a trial")
    sys.stderr.writelines(["from a logger\n"])
    block.draw(["three"])
    assert terminal.screen() == ["said by a trial", "from a logger", "three"]
    block.close()
    assert sys.stdout is terminal
    assert sys.stderr is terminal


def test_block_waits_for_the_end_of_a_line(monkeypatch: pytest.MonkeyPatch) -> None:
    terminal = terminal_of(monkeypatch)
    block = TerminalBlock(terminal)
    block.draw(["one"])
    sys.stdout.write("half ")
    block.draw(["two"])
    sys.stdout.write("a line\n")
    assert terminal.screen() == ["half a line", "two"]
    sys.stdout.write("no end")
    block.close()
    assert terminal.screen() == ["half a line", "no end", "two"]


def test_block_is_no_larger_than_the_terminal(monkeypatch: pytest.MonkeyPatch) -> None:
    terminal = terminal_of(monkeypatch)
    block = TerminalBlock(terminal)
    block.draw(["x" * 100] * 100)
    assert terminal.screen() == ["x" * 59] * 13
    block.close()


def test_terminal_shows_a_table_that_is_drawn_in_place(
    monkeypatch: pytest.MonkeyPatch, trials: Trials
) -> None:
    terminal = terminal_of(monkeypatch)
    reporter = CLIReporter(max_report_frequency=0)
    reporter.setup(total_samples=3, metric="loss", mode="min")
    trials.add("TERMINATED", 0.5, lr=0.1)
    running = trials.add("RUNNING", lr=0.2)
    reporter.report(trials.list, done=False)
    reporter.report(trials.list, done=False)
    assert terminal.screen()[0].startswith("1 of 3 trials ended, 1 running; 0.")
    assert "; best loss=0.5 in gr" in terminal.screen()[0]
    assert terminal.screen()[1:] == [
        "best: lr=0.1",
        "",
        "trial         status    lr  iter  seconds  loss",
        "grow_a_00001  running  0.2",
        "grow_a_00000  ended    0.1     1      0.5   0.5",
    ]
    running.status = "ERROR"
    running.error = "ValueError: too much"
    trials.add("TERMINATED", 0.25, lr=0.3)
    reporter.report(trials.list, done=True)
    assert terminal.screen()[0].startswith("2 of 3 trials ended, 1 failed")
    assert terminal.screen()[1:] == [
        "best: lr=0.3",
        "",
        "trial         status   lr  iter  seconds  loss",
        "grow_a_00002  ended   0.3     1      0.5  0.25",
        "grow_a_00000  ended   0.1     1      0.5   0.5",
        "grow_a_00001  failed  0.2",
        "failed: grow_a_00001: ValueError: too much",
        "results: /results/trees",
    ]
    assert sys.stderr is terminal


def test_terminal_that_is_low_shows_fewer_trials(
    monkeypatch: pytest.MonkeyPatch, trials: Trials
) -> None:
    terminal = terminal_of(monkeypatch)
    reporter = CLIReporter()
    reporter.setup(metric="loss", mode="min")
    for number in range(40):
        trials.add("TERMINATED", number, lr=0.1)
    for _ in range(10):
        trials.add("ERROR").error = "ValueError: too much"
    reporter.report(trials.list, done=False)
    screen = terminal.screen()
    assert len(screen) <= 13
    assert "(46 trials more)" in screen
    assert screen[-1] == "failed: 7 more"
    reporter.close()


def test_elsewhere_there_is_a_line_now_and_the_whole_at_the_end(
    trials: Trials, capsys: pytest.CaptureFixture[str]
) -> None:
    reporter = CLIReporter()
    reporter.setup(metric="loss", mode="max")
    trials.add("TERMINATED", 0.5, lr=0.1)
    trials.add("PENDING")
    reporter.report(trials.list, False, "a node more")
    said = capsys.readouterr()
    assert said.out == ""
    assert re.fullmatch(
        r"1 of 2 trials ended, 1 waiting; 0\.\d s; best loss=0\.5 in grow_a_00000\na node more\n",
        said.err,
    )
    trials.add("TERMINATED", 0.75, lr=0.2)
    reporter.report(trials.list, done=True)
    said = capsys.readouterr()
    assert said.err.splitlines()[1:] == ["best: lr=0.2", "results: /results/trees"]


def test_report_is_due_at_most_once_in_its_period(
    trials: Trials, monkeypatch: pytest.MonkeyPatch
) -> None:
    now = 100.0
    monkeypatch.setattr(progress_reporter.time, "monotonic", lambda: now)
    reporter = CLIReporter(max_report_frequency=5)
    reporter.setup()
    assert not reporter.should_report(trials.list)
    assert reporter.should_report(trials.list, done=True)
    now = 105.0
    assert reporter.should_report(trials.list)
    assert not reporter.should_report(trials.list)
    silent = CLIReporter(print_intermediate_tables=False, max_report_frequency=0)
    silent.setup()
    assert not silent.should_report(trials.list)
    assert CLIReporter().period_s == progress_reporter.LINE_S


def test_failed_trial_that_is_revived_is_counted_as_what_it_is(
    trials: Trials, capsys: pytest.CaptureFixture[str]
) -> None:
    reporter = CLIReporter()
    reporter.setup()
    trials.add("TERMINATED", 1.0)
    failed = trials.add("ERROR")
    trials.add("TERMINATED", 1.0)
    reporter.report(trials.list, done=False)
    failed.status = "RUNNING"
    reporter.report(trials.list, done=False)
    first, second = capsys.readouterr().err.splitlines()
    assert first.startswith("2 of 3 trials ended, 1 failed;")
    assert second.startswith("2 of 3 trials ended, 1 running;")


def test_columns_are_those_that_were_named(monkeypatch: pytest.MonkeyPatch, trials: Trials) -> None:
    terminal = terminal_of(monkeypatch)
    reporter = CLIReporter(metric_columns={"loss": "l"}, parameter_columns=["lr"])
    reporter.add_metric_column("training_iteration", "n")
    reporter.add_parameter_column("depth", "d")
    reporter.setup()
    trials.add("TERMINATED", 0.5, lr=0.1, depth=2, other=1)
    reporter.report(trials.list, done=False)
    assert terminal.screen()[2:] == [
        "trial         status   lr  d    l  n",
        "grow_a_00000  ended   0.1  2  0.5  1",
    ]
    reporter.close()


def test_notebook_shows_one_report_in_place(
    trials: Trials, monkeypatch: pytest.MonkeyPatch
) -> None:
    shown_first: list[str] = []
    updates: list[str] = []

    class Place:
        def update(self, text: str) -> None:
            updates.append(text)

    def display(text: str, *, display_id: bool) -> Place:
        assert display_id
        shown_first.append(text)
        return Place()

    notebook = ModuleType("IPython.display")
    monkeypatch.setattr(notebook, "HTML", str, raising=False)
    monkeypatch.setattr(notebook, "display", display, raising=False)
    monkeypatch.setitem(sys.modules, "IPython.display", notebook)
    reporter = JupyterNotebookReporter()
    reporter.setup(metric="loss", mode="min")
    trials.add("TERMINATED", 0.5, name="<b>")
    reporter.report(trials.list, done=False)
    reporter.report(trials.list, done=True)
    assert len(shown_first) == len(updates) == 1
    assert "&lt;b&gt;" in shown_first[0]
    anew = JupyterNotebookReporter(overwrite=False)
    anew.setup()
    anew.report(trials.list, done=False)
    anew.report(trials.list, done=False)
    assert len(shown_first) == 3


def train(config: dict[str, Any]) -> None:
    if config["x"] == 2:
        raise ValueError("two is too much")
    for _ in range(2):
        tune.report({"loss": config["x"]})


def fit(path: Path, **options: Any) -> None:
    tune.Tuner(
        train,
        param_space={"x": tune.grid_search([0, 1, 2])},
        tune_config=tune.TuneConfig(metric="loss", mode="min"),
        run_config=tune.RunConfig(name="said", storage_path=str(path), **options),
    ).fit()


@pytest.mark.slow
@pytest.mark.usefixtures("session")
class TestExperiment:
    def test_says_how_it_ended(self, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
        fit(tmp_path)
        said = capsys.readouterr().err
        assert "2 of 3 trials ended, 1 failed; " in said
        assert "best: x=0\n" in said
        assert "ValueError: two is too much\n" in said
        assert f"results: {tmp_path}/said\n" in said

    def test_says_nothing_with_verbose_0(
        self, tmp_path: Path, capsys: pytest.CaptureFixture[str]
    ) -> None:
        fit(tmp_path, verbose=0)
        assert capsys.readouterr().err == ""

    def test_says_more_with_higher_levels(
        self, tmp_path: Path, capsys: pytest.CaptureFixture[str]
    ) -> None:
        fit(tmp_path / "2", verbose=2)
        said = capsys.readouterr().err
        assert said.count(" has ended: training_iteration=2, ") == 2
        assert said.count(" failed: ValueError: two is too much\n") == 1
        assert " reports " not in said
        fit(tmp_path / "3", verbose=3)
        assert capsys.readouterr().err.count(" reports training_iteration=") == 4

    def test_reporter_of_the_users_own_is_asked_and_closed(self, tmp_path: Path) -> None:
        reporter = Noting()
        fit(tmp_path, progress_reporter=reporter)
        assert reporter.said[0] == "setup 3 loss min"
        assert "asked" in reporter.said
        assert reporter.said[-2:] == ["report True", "close"]

    def test_reporter_is_closed_when_the_run_fails(self, tmp_path: Path) -> None:
        reporter = Noting()
        reporter.fails = True
        with pytest.raises(RuntimeError, match="reporter fails"):
            fit(tmp_path, progress_reporter=reporter)
        assert reporter.said[-1] == "close"


class Noting(ProgressReporter):
    """Notes what it is told."""

    fails = False

    def __init__(self) -> None:
        self.said: list[str] = []

    def setup(
        self,
        start_time: float | None = None,
        total_samples: int | None = None,
        metric: str | None = None,
        mode: str | None = None,
        **kwargs: Any,
    ) -> None:
        self.said.append(f"setup {total_samples} {metric} {mode}")

    def should_report(self, trials: Any, done: bool = False) -> bool:
        if self.fails:
            raise RuntimeError("reporter fails")
        self.said.append("asked")
        return False

    def report(self, trials: Any, done: bool, *sys_info: Any) -> None:
        self.said.append(f"report {done}")

    def close(self) -> None:
        self.said.append("close")
