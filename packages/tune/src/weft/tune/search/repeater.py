"""A searcher whose every configuration is tried several times: for noisy results."""

from __future__ import annotations

from statistics import fmean
from typing import TYPE_CHECKING, Any

import msgspec

from weft.lowlevel import override
from weft.tune._arguments import check_integer
from weft.tune.search.model_searcher import metric_of
from weft.tune.search.searcher import TellingSearcher

if TYPE_CHECKING:
    from weft.tune.search.searcher import Config, Finished, Searcher
    from weft.tune.views import Outcome, TrialView

TRIAL_INDEX = "__trial_index__"
"""The key of a configuration that says which of its repetitions this is, from 0."""


class _Group:
    """The trials of one configuration; the searcher knows the first of them."""

    def __init__(self, config: Config) -> None:
        self.config = config
        self.trials: list[str] = []
        self.ended: list[tuple[TrialView, Outcome]] = []


class Repeater(TellingSearcher):
    """Has each configuration of another searcher tried `repeat` times, and tells it the mean.

    Trials that failed, or reported no number, are left out of the mean. The searcher learns nothing
    of a configuration whose trials have not all ended: let `num_samples` be a multiple of `repeat`.

    Args:
        searcher: The other.
        repeat: How often.
        set_index: Whether a configuration says which repetition it is, under `TRIAL_INDEX`: a seed,
            for instance.
    """

    def __init__(self, searcher: Searcher, repeat: int = 1, *, set_index: bool = True) -> None:
        check_integer("Repeater", "repeat", repeat, least=1)
        super().__init__(searcher.metric, searcher.mode)
        self.searcher = searcher
        self.repeat = repeat
        self._set_index = set_index
        self._filling: _Group | None = None
        self._group_of: dict[str, _Group] = {}

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
    def ask(self, trial_id: str) -> Config | Finished | None:
        if self._filling is None:
            config = self.searcher.ask(trial_id)
            if not isinstance(config, dict):
                return config
            self._filling = _Group(config)
        return self._joined(trial_id, self._filling)

    @override
    def recall(self, trial_id: str, config: Config) -> None:
        if self._filling is None:
            own = {key: value for key, value in config.items() if key != TRIAL_INDEX}
            self.searcher.recall(trial_id, own)
            self._filling = _Group(own)
        self._joined(trial_id, self._filling)

    def _joined(self, trial_id: str, group: _Group) -> Config:
        index = {TRIAL_INDEX: len(group.trials)} if self._set_index else {}
        group.trials.append(trial_id)
        self._group_of[trial_id] = group
        if len(group.trials) == self.repeat:
            self._filling = None
        return {**group.config, **index}

    @override
    def tell(self, trial: TrialView, outcome: Outcome | None) -> None:
        if outcome is not None:
            group = self._group_of.pop(trial.trial_id)
            group.ended.append((trial, outcome))
            if len(group.ended) == self.repeat:
                self._tell_mean(group)

    def _tell_mean(self, group: _Group) -> None:
        """Tell the searcher of a group as of its first trial."""
        metrics = [self.metric] if isinstance(self.metric, str) else self.metric or []
        good = [view.result for view, outcome in group.ended if outcome != "failed"]
        outcomes = {outcome for _, outcome in group.ended}
        result: dict[str, Any] = dict(good[-1]) if good else {}
        for metric in metrics:
            values = [value for found in good if (value := metric_of(found, metric)) is not None]
            result[metric] = fmean(values) if values else None
        view = msgspec.structs.replace(
            group.ended[-1][0], trial_id=group.trials[0], config=group.config, result=result
        )
        outcome: Outcome = "completed" if "completed" in outcomes else "stopped"
        self.searcher.tell(view, outcome if good else "failed")
