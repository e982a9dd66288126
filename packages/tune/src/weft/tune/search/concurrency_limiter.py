"""A searcher that is asked for a few trials at a time."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from weft.lowlevel import override
from weft.tune._arguments import check_integer
from weft.tune.search.searcher import TellingSearcher

if TYPE_CHECKING:
    from weft.tune.search.searcher import Config, Finished, Searcher
    from weft.tune.views import Outcome, TrialView


class ConcurrencyLimiter(TellingSearcher):
    """Asks another searcher only while fewer than `max_concurrent` of its trials are out.

    What a model suggests is the better the more results it has seen.

    Args:
        searcher: The other.
        max_concurrent: How many trials may be out. Those that a scheduler has paused do not count.
        batch: Whether trials come in batches: the searcher learns how those of a batch ended when
            all have, and only then are there others.
    """

    def __init__(self, searcher: Searcher, max_concurrent: int, *, batch: bool = False) -> None:
        check_integer("ConcurrencyLimiter", "max_concurrent", max_concurrent, least=1)
        super().__init__(searcher.metric, searcher.mode)
        self.searcher = searcher
        self.max_concurrent = max_concurrent
        self.batch = batch
        self._running: set[str] = set()
        self._paused: set[str] = set()
        self._ended: list[tuple[TrialView, Outcome]] = []

    @override
    def set_search_properties(
        self,
        metric: str | list[str] | None,
        mode: str | list[str] | None,
        config: Config,
        **spec: Any,
    ) -> bool:
        taken = self.searcher.set_search_properties(metric, mode, config, **spec)
        self.metric, self.mode = self.searcher.metric, self.searcher.mode
        return taken

    @override
    def expected_trials(self, num_samples: int) -> float:
        return self.searcher.expected_trials(num_samples)

    @override
    def ask(self, trial_id: str) -> Config | Finished | None:
        # A batch that is begun may be filled; one of which a trial has ended may not.
        if len(self._running) >= self.max_concurrent or self._ended:
            return None
        config = self.searcher.ask(trial_id)
        if isinstance(config, dict):
            self._running.add(trial_id)
        return config

    @override
    def recall(self, trial_id: str, config: Config) -> None:
        self.searcher.recall(trial_id, config)
        self._running.add(trial_id)

    @override
    def tell(self, trial: TrialView, outcome: Outcome | None) -> None:
        if outcome is None:
            self.searcher.tell(trial, None)
            return
        self._running.discard(trial.trial_id)
        self._paused.discard(trial.trial_id)
        self._ended.append((trial, outcome))
        if self.batch and (self._running or self._paused):
            return
        ended, self._ended = self._ended, []
        for view, how in ended:
            self.searcher.tell(view, how)

    @override
    def on_pause(self, trial_id: str) -> None:
        """A trial is paused: another one may be out."""
        self.searcher.on_pause(trial_id)
        if trial_id in self._running:
            self._running.remove(trial_id)
            self._paused.add(trial_id)

    @override
    def on_unpause(self, trial_id: str) -> None:
        """A paused trial goes on, and counts."""
        self.searcher.on_unpause(trial_id)
        if trial_id in self._paused:
            self._paused.remove(trial_id)
            self._running.add(trial_id)
