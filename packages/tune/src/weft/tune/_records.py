"""What the machine of an experiment is told, decides and orders; the first two are the journal.

A `JournalEntry` is one record of the journal: an event, and what was decided at it. Configurations
and results are in it as text (see `_values.py`), so that the driver opens them once at most.
"""

from __future__ import annotations

from typing import Literal

import msgspec

from weft.tune._trial_runs import Reservation
from weft.tune.views import Outcome, TrialView

# ------------------------------------------------------------------ events


class ConfigSuggested(msgspec.Struct, frozen=True, tag="suggested", omit_defaults=True):
    """The searcher gave a configuration: there is a trial."""

    trial_id: str
    config: msgspec.Raw
    bundles: list[dict[str, float]] = []
    """What it reserves; empty: as trials do by default."""
    dirname: str = ""
    """Of its directory; empty: as its name."""
    name: str = ""
    """Empty: the trainable's, and its id."""


class NothingNow(msgspec.Struct, frozen=True, tag="nothing-now"):
    """The searcher has no configuration before it is told more."""


class NothingEver(msgspec.Struct, frozen=True, tag="nothing-ever"):
    """The searcher has no configuration any more."""


class Reported(msgspec.Struct, frozen=True, tag="reported", omit_defaults=True):
    """A trial has a result."""

    trial_id: str
    result: msgspec.Raw
    checkpoint: str = ""
    """Name of the one that came with it."""
    done: bool = False
    """It was the last: the trial has left its runner."""


class TrialEnded(msgspec.Struct, frozen=True, tag="ended"):
    """A trial came to its end, and has left its runner."""

    trial_id: str


class Failed(msgspec.Struct, frozen=True, tag="failed", omit_defaults=True):
    """A trial raised, or its runner died; it has left its runner."""

    trial_id: str
    error: str
    """One line."""
    traceback: str = ""
    pickled: str = ""
    """The exception in base64, if it travels."""


class Saved(msgspec.Struct, frozen=True, tag="saved"):
    """A trial wrote a checkpoint when it was asked to, and waits."""

    trial_id: str
    checkpoint: str
    """Empty: it cannot be saved."""


class Left(msgspec.Struct, frozen=True, tag="left", omit_defaults=True):
    """A trial that was released has left its runner."""

    trial_id: str
    checkpoint: str = ""
    """Written as it left."""


class Revived(msgspec.Struct, frozen=True, tag="revived"):
    """A trial that failed is to run again, as the user said when the experiment was continued."""

    trial_id: str
    fresh: bool
    """From its beginning; else from its last checkpoint."""


class Reset(msgspec.Struct, frozen=True, tag="reset"):
    """A trial that had not ended is to begin anew, as the user said."""

    trial_id: str


class Abandoned(msgspec.Struct, frozen=True, tag="abandoned"):
    """A trial that had not ended is not to go on, as the user said."""

    trial_id: str


class Closed(msgspec.Struct, frozen=True, tag="closed"):
    """Everything ends: time is up, or a stopper said so."""

    why: str


class Spent(msgspec.Struct, frozen=True, tag="spent"):
    """So much of the time budget is spent, in this run and those before it."""

    seconds: float


class Interrupted(msgspec.Struct, frozen=True, tag="interrupted"):
    """The run is to end orderly: nothing begins, and what runs leaves at its next report."""


Event = (
    ConfigSuggested
    | NothingNow
    | NothingEver
    | Reported
    | TrialEnded
    | Failed
    | Saved
    | Left
    | Revived
    | Abandoned
    | Reset
    | Closed
    | Spent
    | Interrupted
)

# ------------------------------------------------------------------ decisions


class Completed(msgspec.Struct, frozen=True, tag="completed"):
    """The trial met a stopping criterion."""

    trial_id: str


class Stopped(msgspec.Struct, frozen=True, tag="stopped"):
    """The scheduler ended the trial."""

    trial_id: str


class Paused(msgspec.Struct, frozen=True, tag="paused"):
    """The trial gives its resources back until it is resumed."""

    trial_id: str


class Resumed(msgspec.Struct, frozen=True, tag="resumed"):
    """The trial runs again when there is room."""

    trial_id: str


class Restarted(msgspec.Struct, frozen=True, tag="restarted", omit_defaults=True):
    """The trial goes on with another configuration, or other resources."""

    trial_id: str
    config: msgspec.Raw
    source: str
    checkpoint: str = ""
    """Of the source; empty: from the beginning, or (its own) from where it is."""
    iteration: int = 0
    time_total_s: float = 0.0
    bundles: list[dict[str, float]] = []
    """What it reserves; empty: as before."""


class Retried(msgspec.Struct, frozen=True, tag="retried"):
    """The trial failed and runs again from its last checkpoint."""

    trial_id: str


class GaveUp(msgspec.Struct, frozen=True, tag="gave-up"):
    """The trial failed for good."""

    trial_id: str


class Idled(msgspec.Struct, frozen=True, tag="idled"):
    """Nothing could go on, and the scheduler was asked."""


Decision = Completed | Stopped | Paused | Resumed | Restarted | Retried | GaveUp | Idled


class JournalEntry(msgspec.Struct, frozen=True, omit_defaults=True):
    """One record of the journal."""

    event: Event
    decided: list[Decision] = []
    """In the order in which it was done."""


# ------------------------------------------------------------------ effects


class Record(msgspec.Struct, frozen=True):
    """Append to the journal; before any other effect."""

    entry: JournalEntry


class AskSearcher(msgspec.Struct, frozen=True):
    """Ask the searcher; the answer is ConfigSuggested, NothingNow or NothingEver."""


class Begin(msgspec.Struct, frozen=True):
    """Have a runner begin the trial, or go on with it, up to its first report."""

    trial_id: str
    config: bytes
    reserved: Reservation
    checkpoint: str
    """`trial/name` of the one to load; empty: none."""
    iteration: int
    """How many results came before that checkpoint."""
    time_total_s: float


class Advance(msgspec.Struct, frozen=True):
    """Let the trial go on to its next report."""

    trial_id: str


class SaveTrial(msgspec.Struct, frozen=True):
    """Have the trial write a checkpoint; the answer is Saved."""

    trial_id: str


class Release(msgspec.Struct, frozen=True):
    """End the trial on its runner; the answer is Left.

    What it is still doing does not count: the result of that is not reported.
    """

    trial_id: str
    save: bool
    """Write a checkpoint before, if the trial can."""


class TellSearcher(msgspec.Struct, frozen=True):
    """Tell the searcher."""

    trial: TrialView
    outcome: Outcome | None


class TellPause(msgspec.Struct, frozen=True):
    """Tell the searcher that a trial is paused, or that it goes on."""

    trial_id: str
    is_paused: bool


What = Literal["start", "result", "complete", "error", "recover", "save", "restore"]


class Note(msgspec.Struct, frozen=True):
    """Call the callbacks."""

    what: What
    trial_id: str


class DiscardCheckpoint(msgspec.Struct, frozen=True):
    """Remove a checkpoint from the storage."""

    trial_id: str
    checkpoint: str


class Store(msgspec.Struct, frozen=True):
    """Put a small file of the scheduler's into the experiment's directory."""

    file: str
    text: str


class Halt(msgspec.Struct, frozen=True):
    """End the run at once, since this trial failed; what runs can be continued."""

    trial_id: str


Effect = (
    Record
    | AskSearcher
    | Begin
    | Advance
    | SaveTrial
    | Release
    | TellSearcher
    | TellPause
    | Note
    | DiscardCheckpoint
    | Store
    | Halt
)
