"""The one interface between the loop and whatever suggests configurations.

The loop calls, always from one thread: `set_search_properties` once; then `ask` whenever a trial
can begin, `tell` at every result, `on_pause` and `on_unpause` when a scheduler lets a trial rest
and go on, and `tell` with an outcome once at a trial's end.

Order is all that a searcher may depend on. After a crash a fresh searcher is given the same calls
in the same order, from the journal, with `recall` for `ask`: the trial's configuration is in the
journal. So a searcher needs no state of its own on disk, and one that is seeded goes on as it would
have.

Searchers written for Ray override `suggest`, `on_trial_result` and `on_trial_complete` instead:
`ask` and `tell` call these. A `TellingSearcher` implements `ask` and `tell`, and does the same when
a program calls it by hand as it would call one of Ray's.
"""

from __future__ import annotations

import math
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, Literal

from weft.lowlevel import dumps, override, unpack
from weft.tune._values import flattened
from weft.tune.views import TrialView

if TYPE_CHECKING:
    from weft.tune.views import Outcome, Status

Config = dict[str, Any]
Finished = Literal["FINISHED"]


class Searcher:
    """Suggests configurations, and learns from results.

    Guaranteed to it: no two calls at once; every trial that it gave a configuration is told of to
    its end; a trial's results come in their order, those of different trials in the order in which
    they were seen.

    Expected of it: `ask` and `tell` return within milliseconds and never raise for what a trial
    reported: a metric may be missing, NaN or infinite.
    """

    FINISHED: ClassVar[Finished] = "FINISHED"
    _ran: Searcher | None = None
    """The copy that the last experiment ran with."""

    def __init__(
        self, metric: str | list[str] | None = None, mode: str | list[str] | None = None
    ) -> None:
        self.metric = metric
        self.mode = mode

    def set_search_properties(
        self,
        metric: str | list[str] | None,
        mode: str | list[str] | None,
        config: Config,
        **spec: Any,
    ) -> bool:
        """Take the objective and the space, unless they were given to the constructor.

        Args:
            metric: What to look at in results; a list: several objectives.
            mode: "min" or "max", for each.
            config: The search space: nested dictionaries and lists with domains in them.
            spec: `num_samples`, and `seed` if the user gave one.

        Returns:
            Whether it did. If not, the user gave a space twice, and is told so.
        """
        raise NotImplementedError

    def expected_trials(self, num_samples: int) -> float:
        """Return how many trials `num_samples` comes to; infinite for -1."""
        return num_samples if num_samples >= 0 else math.inf

    def ask(self, trial_id: str) -> Config | Finished | None:
        """Return the configuration of a trial that begins.

        None: nothing now, ask again after the next `tell`. FINISHED: nothing ever again.
        """
        return self.suggest(trial_id)

    def recall(self, trial_id: str, config: Config) -> None:
        """Take that `ask` once returned this for a trial: an experiment is continued.

        Called instead of `ask`, in its order among the calls of `tell`. As it stands it asks and
        throws away what comes, so a seeded searcher goes on as it would have; override it where
        asking takes long.
        """
        self.ask(trial_id)

    def tell(self, trial: TrialView, outcome: Outcome | None) -> None:
        """Learn what a trial has reported (outcome None), or how it ended.

        At the end `trial.result` is the last result, of which it was told before; it is empty if
        the trial reported nothing.
        """
        if outcome is None:
            self.on_trial_result(trial.trial_id, dict(trial.result))
        else:
            result = dict(trial.result) or None
            self.on_trial_complete(trial.trial_id, result, error=outcome == "failed")

    def suggest(self, trial_id: str) -> Config | Finished | None:
        """Return what `ask` returns; for searchers as Ray has them."""
        raise NotImplementedError

    def on_trial_result(self, trial_id: str, result: Config) -> None:
        """A trial has reported."""

    def on_trial_complete(
        self, trial_id: str, result: Config | None = None, error: bool = False
    ) -> None:
        """A trial has ended; with its last result, unless it reported nothing."""

    def on_pause(self, trial_id: str) -> None:
        """A trial is paused: it takes no room, and has not ended."""

    def on_unpause(self, trial_id: str) -> None:
        """A paused trial goes on, as soon as there is room."""

    @override
    def __getstate__(self) -> dict[str, Any]:
        return {name: value for name, value in vars(self).items() if name != "_ran"}

    def get_state(self) -> dict[str, Any]:
        """Return what `set_state` takes: all that the searcher knows.

        An experiment runs with a copy; after it, this is what the copy knows.
        """
        return (self._ran or self).__getstate__()

    def set_state(self, state: dict[str, Any]) -> None:
        """Know what another searcher knew, in another experiment say."""
        self._ran = None
        vars(self).update(state)

    def save(self, checkpoint_path: str) -> None:
        """Write the state to a file, which appears when it is whole. Blocks on the disk."""
        path = Path(checkpoint_path)
        beside = path.with_name(path.name + ".part")
        beside.write_bytes(dumps(self.get_state()).pack())
        beside.replace(path)

    def restore(self, checkpoint_path: str) -> None:
        """Take the state from a file that `save` wrote. It is unpickled: trust it."""
        self.set_state(unpack(Path(checkpoint_path).read_bytes()))

    def save_to_dir(self, dirpath: str, session_str: str = "default") -> None:
        """Write the state into a directory, in a file named after `session_str`."""
        self.save(str(Path(dirpath) / f"searcher-state-{session_str}.pkl"))

    def restore_from_dir(self, dirpath: str) -> None:
        """Take the newest state that `save_to_dir` wrote into a directory.

        Raises:
            FileNotFoundError: There is none.
        """
        found = sorted(
            Path(dirpath).glob("searcher-state-*.pkl"), key=lambda path: path.stat().st_mtime
        )
        if not found:
            raise FileNotFoundError(
                f"{dirpath} has no state of a searcher: no searcher-state-*.pkl"
            )
        self.restore(str(found[-1]))


class TellingSearcher(Searcher):
    """A searcher that is told of trials by `tell`, whoever calls it.

    Subclasses override `tell`, and `ask` or `suggest`.
    """

    @override
    def __init_subclass__(cls, **kwargs: Any) -> None:
        super().__init_subclass__(**kwargs)
        for name in ("on_trial_result", "on_trial_complete"):
            if name in vars(cls):
                raise TypeError(
                    f"{cls.__qualname__} overrides {name}, which an experiment does not call: "
                    "override tell(trial, outcome)"
                )

    @override
    def suggest(self, trial_id: str) -> Config | Finished | None:
        return self.ask(trial_id)

    @override
    def tell(self, trial: TrialView, outcome: Outcome | None) -> None:
        raise NotImplementedError

    @override
    def on_trial_result(self, trial_id: str, result: Config) -> None:
        self.tell(_seen_by_hand(trial_id, result, "RUNNING"), None)

    @override
    def on_trial_complete(
        self, trial_id: str, result: Config | None = None, error: bool = False
    ) -> None:
        trial = _seen_by_hand(trial_id, result or {}, "ERROR" if error else "TERMINATED")
        self.tell(trial, "failed" if error else "completed")


def _seen_by_hand(trial_id: str, result: Config, status: Status) -> TrialView:
    """Return a trial as far as its result tells."""
    flat = flattened(result)
    iterations = int(flat.get("training_iteration", bool(flat)))
    return TrialView(trial_id, {}, status, flat, iterations, has_checkpoint=False, resources={})
