"""Reports from LightGBM: `lightgbm.train(..., callbacks=[TuneReportCheckpointCallback()])`."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

from weft.tune.integration._reports import chosen, report_with
from weft.tune.search.extras import required

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

    from weft.tune.checkpoint import Checkpoint


class LightGBMReportCallback:
    """Reports after each iteration; metrics are called `data-metric`: `valid_0-auc`.

    Of `lightgbm.cv` the means are reported, and deviations as `data-metric-stdv`.

    Args:
        metrics: Which, or what they are to be called by name; None: all.
        filename: Of the model in a checkpoint.
        frequency: After so many iterations there is a checkpoint; 0: at the end only.
        checkpoint_at_end: Whether there is one after the last iteration. Training that LightGBM
            itself stops early has no last iteration: give a frequency, too.
        results_postprocessing_fn: Makes what is reported of what LightGBM has measured.
    """

    CHECKPOINT_NAME: ClassVar[str] = "model.txt"
    order = 20

    def __init__(
        self,
        metrics: str | Sequence[str] | Mapping[str, str] | None = None,
        filename: str = CHECKPOINT_NAME,
        *,
        frequency: int = 0,
        checkpoint_at_end: bool = True,
        results_postprocessing_fn: Callable[[dict[str, float]], dict[str, float]] | None = None,
    ) -> None:
        self._metrics = metrics
        self._filename = filename
        self._frequency = frequency
        self._saves_end = checkpoint_at_end
        self._process = results_postprocessing_fn

    @classmethod
    def get_model(cls, checkpoint: Checkpoint, filename: str = CHECKPOINT_NAME) -> Any:
        """Return the `lightgbm.Booster` of a checkpoint."""
        lightgbm = required("lightgbm", extra="lightgbm")
        with checkpoint.as_directory() as directory:
            return lightgbm.Booster(model_file=str(Path(directory, filename)))

    def __call__(self, env: Any) -> None:
        """Report an iteration: LightGBM calls this."""
        found: dict[str, float] = {}
        for data, metric, value, _, *deviation in env.evaluation_result_list or ():
            # Cross-validation has the data's name within the metric's.
            name = "-".join(metric.split()) if deviation else f"{data}-{metric}"
            found[name] = value
            if deviation:
                found[f"{name}-stdv"] = deviation[0]
        done = env.iteration - env.begin_iteration + 1
        is_last = self._saves_end and env.iteration == env.end_iteration - 1
        is_due = self._frequency > 0 and done % self._frequency == 0
        found = self._process(found) if self._process is not None else found
        report_with(
            chosen(found, self._metrics),
            (lambda directory: env.model.save_model(str(Path(directory, self._filename))))
            if is_last or is_due
            else None,
        )


TuneReportCheckpointCallback = LightGBMReportCallback
