"""`weft replay`: run a failed task again, from its capsule."""

from __future__ import annotations

import sys
import traceback
from pathlib import Path
from typing import TYPE_CHECKING

import click

from weft._capsules.reading import Capsule, CapsuleError
from weft._cli import surroundings
from weft._cli.out import plain, say
from weft._cli.reruns import Rerun, run_in_child
from weft._cli.values import KeptValues, describe
from weft._cli.verdicts import judge
from weft._lazy import lazy
from weft._override import override
from weft._serialize.failures import user_traceback

if TYPE_CHECKING:
    import pdb  # noqa: T100 - the command is a debugger
    from collections.abc import Iterator, Sequence

    from weft._capsules.records import Manifest, Piece
    from weft._cli import steps
else:
    pdb = lazy("pdb")
    steps = lazy("weft._cli.steps")

# Of a text of the capsule's.
SHOWN_LINES = 10


class RefusedCapsule(click.ClickException):
    """The capsule cannot be replayed."""

    exit_code = 2

    @override
    def format_message(self) -> str:
        """Return the line that click prints."""
        return plain(self.message)


@click.command()
@click.argument("file")
@click.option(
    "--arg",
    "given",
    multiple=True,
    metavar="NAME=FILE",
    help="Take an argument's value from a .npy or pickle file, such as one that was too large.",
)
@click.option("--step", is_flag=True, help="Stop in the debugger at the function's first line.")
@click.option("--no-debugger", is_flag=True, help="Only run it, and say whether it fails again.")
@click.option("-y", "--yes", is_flag=True, help="Do not ask before the capsule's code is run.")
def replay(file: str, given: Sequence[str], *, step: bool, no_debugger: bool, yes: bool) -> None:
    """Run a failed task again, from its capsule.

    FILE is what the task has left in the directory WEFT_CAPSULES. It runs in this process, and so
    do the tasks that it starts. An exception opens the debugger where it was raised.

    The exit code is 0 if the failure came again, 1 if not, 2 if the task could not be run. Opening
    a capsule runs code that is in it: do that with your own only.
    """
    if step and no_debugger:
        raise click.UsageError("--step is for the debugger: leave out --no-debugger")
    supplied = _supplied(given)
    try:
        with Capsule(file) as capsule:
            _summarize(capsule)
            _refuse_other_python(capsule)
            if not yes:
                click.confirm("Replaying it runs code that is in the file. Go on?", abort=True)
            sys.exit(_replay(capsule, supplied, step=step, no_debugger=no_debugger))
    except CapsuleError as error:
        raise RefusedCapsule(str(error)) from None


def _supplied(given: Sequence[str]) -> dict[str, Path]:
    supplied = {}
    for words in given:
        name, separator, path = words.partition("=")
        if not separator or not name or not path:
            raise click.BadParameter(f"{words!r}: give NAME=FILE", param_hint="--arg")
        supplied[name] = Path(path).absolute()
    return supplied


def _replay(capsule: Capsule, supplied: dict[str, Path], *, step: bool, no_debugger: bool) -> int:
    manifest = capsule.manifest
    if problem := surroundings.enter(manifest):
        _tell("remark", problem)
    debugger = steps.StepDebugger() if step else None
    rerun = Rerun(manifest, KeptValues(capsule, supplied), debugger)
    ends = manifest.died is not None or manifest.is_late
    outcome = run_in_child(rerun) if ends and no_debugger else rerun.run()
    if outcome.problem:
        raise CapsuleError(outcome.problem)
    for remark in outcome.remarks:
        _tell("remark", remark)
    verdict = judge(manifest, outcome)
    say(plain(f"{'reproduced' if verdict.is_reproduced else 'not reproduced'}: {verdict.words}"))
    if rerun.error is not None and not no_debugger and not outcome.has_quit:
        _look_at(rerun.error)
    return 0 if verdict.is_reproduced else 1


def _look_at(error: BaseException) -> None:
    trace = user_traceback(error.__traceback__) or error.__traceback__
    traceback.print_exception(type(error), error, trace)
    pdb.post_mortem(trace)


def _refuse_other_python(capsule: Capsule) -> None:
    """Bytecode of another version would crash the interpreter, at best."""
    manifest = capsule.manifest
    if surroundings.is_other_python(manifest) and capsule.has_bytecode():
        raise CapsuleError(
            f"{capsule.path} holds code as bytecode of Python {manifest.python}, which this "
            "interpreter cannot run: replay it with that version"
        )


# ------------------------------------------------------------------ the summary


def _summarize(capsule: Capsule) -> None:
    """Say what failed, from what can be read without running anything."""
    manifest = capsule.manifest
    _tell("capsule", f"{capsule.path.name}, left at {manifest.written_at}")
    again = f", attempt {manifest.attempt}" if manifest.attempt > 1 else ""
    _tell("what", f"{manifest.subject}{again}, process {manifest.pid} on {manifest.host}")
    if manifest.driver:
        _tell("driver", " ".join(manifest.driver))
    if manifest.is_late:
        _tell("late", f"it was ended at its time limit of {manifest.timeout_s:g} s")
    if manifest.raised is not None:
        raised = manifest.raised
        _tell("raised", f"{raised.type}: {raised.message}")
        if raised.file:
            _tell("where", f"{raised.file}:{raised.line} in {raised.function}: {raised.source}")
    if manifest.died is not None:
        _tell("died", manifest.died.words)
        _tell("", "this process will end with it too; with --no-debugger, a child of it")
    if manifest.kind == "method":
        _tell("actor", "made anew: what earlier calls had made of it is not in the capsule")
    for piece in _left_out(manifest):
        _tell("left out", describe(piece))
    for heading, words in surroundings.differences(manifest):
        _tell(heading, words)


def _left_out(manifest: Manifest) -> Iterator[Piece]:
    for given in (manifest.call, manifest.constructor):
        if given is not None:
            yield from (piece for piece in given.pieces if not piece.file)


def _tell(heading: str, words: str) -> None:
    first, *rest = plain(words).splitlines() or [""]
    say(f"{heading:<12}{first}")
    for line in rest[: SHOWN_LINES - 1]:
        say(f"{'':<12}{line}")
