"""What there is to run trials: who has it, and who waits for it.

A trial has what it took from `take` until `give_back`, whatever becomes of it meanwhile. One that
waits is in one of three places: it ran before (`returning`), it has never run (`fresh`), or it is
paused; the first go before the second, the third wait to be resumed.

What is always true
1. What the trials that are on runners took fits into the total, and they are at most
   `max_concurrent`.
2. A trial waits in one place at most.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

    from weft.lowlevel import Resources
    from weft.tune._trial_runs import TrialRun


class TrialRoom:
    """Knows trials only as far as they take or want room."""

    def __init__(self, total: Resources, max_concurrent: int | None) -> None:
        self.total = total
        self._free = total
        self._max_concurrent = max_concurrent
        self.held = 0
        """How many trials are on runners."""
        self.returning: dict[str, TrialRun] = {}
        self.fresh: dict[str, TrialRun] = {}
        self.paused: dict[str, TrialRun] = {}
        """The oldest pause first."""

    def fits(self, amounts: Resources) -> bool:
        """Tell whether another trial that takes this can begin."""
        most = self._max_concurrent
        return (most is None or self.held < most) and amounts.fits(self._free)

    def take(self, trial: TrialRun) -> None:
        """Give a trial what it reserves."""
        self.leave(trial)
        trial.taken = trial.reserved.total
        self._free -= trial.taken
        self.held += 1

    def give_back(self, trial: TrialRun) -> None:
        """Take it back, if the trial has it."""
        if trial.taken is not None:
            self._free += trial.taken
            trial.taken = None
            self.held -= 1

    def wait(self, trial: TrialRun, place: dict[str, TrialRun]) -> None:
        """Put a trial into one of the places."""
        self.leave(trial)
        place[trial.id] = trial

    def leave(self, trial: TrialRun) -> None:
        """Let a trial wait no more."""
        for place in (self.returning, self.fresh, self.paused):
            place.pop(trial.id, None)

    def startable(self) -> Iterator[TrialRun]:
        """Yield the trials that can begin, those that ran before first; `take` each."""
        for place in (self.returning, self.fresh):
            for trial in list(place.values()) if place else ():
                if not trial.is_held and self.fits(trial.reserved.total):
                    yield trial

    def is_anyone_next(self) -> bool:
        """Tell whether a trial waits that is on no runner any more: it goes before new ones."""
        return bool(self.fresh) or any(not trial.is_held for trial in self.returning.values())

    def is_idle(self) -> bool:
        """Tell whether nothing is on a runner, and none waits but paused trials."""
        return bool(self.paused) and not (self.returning or self.fresh or self.held)

    def check(self, trials: Iterable[TrialRun]) -> None:
        """Assert what is always true."""
        free, held = self.total, 0
        for trial in trials:
            if trial.taken is not None:
                free -= trial.taken
                held += 1
        assert (free, held) == (self._free, self.held), 1
        assert all(amount >= 0 for amount in free.values()), 1
        assert self._max_concurrent is None or held <= self._max_concurrent, 1
        places = [*self.returning, *self.fresh, *self.paused]
        assert len(places) == len(set(places)), 2
