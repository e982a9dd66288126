"""The callback for XGBoost; it is loaded with that package."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

from weft.lowlevel import override
from weft.tune.integration._reports import chosen, report_with
from weft.tune.search.extras import required

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

    from xgboost.callback import TrainingCallback

    from weft.tune.checkpoint import Checkpoint
else:
    TrainingCallback = required("xgboost.callback", extra="xgboost").TrainingCallback


class XGBoostReportCallback(TrainingCallback):  # type: ignore[misc]  # has types where it is there
    """Reports after each iteration; metrics are called `data-metric`: `validation-logloss`.

    Args:
        metrics: Which, or what they are to be called by name; None: all.
        filename: Of the model in a checkpoint.
        frequency: After so many iterations there is a checkpoint; 0: at the end only.
        checkpoint_at_end: Whether there is one when training ends, which reports the last metrics
            once more.
        results_postprocessing_fn: Makes what is reported of what XGBoost has measured.
    """

    CHECKPOINT_NAME: ClassVar[str] = "model.ubj"

    def __init__(
        self,
        metrics: str | Sequence[str] | Mapping[str, str] | None = None,
        filename: str = CHECKPOINT_NAME,
        *,
        frequency: int = 0,
        checkpoint_at_end: bool = True,
        results_postprocessing_fn: Callable[[dict[str, float]], dict[str, float]] | None = None,
    ) -> None:
        super().__init__()
        self._metrics = metrics
        self._filename = filename
        self._frequency = frequency
        self._saves_end = checkpoint_at_end
        self._process = results_postprocessing_fn
        self._iterations = 0
        self._last: dict[str, Any] = {}
        self._is_saved = False

    @classmethod
    def get_model(cls, checkpoint: Checkpoint, filename: str = CHECKPOINT_NAME) -> Any:
        """Return the `xgboost.Booster` of a checkpoint."""
        booster = required("xgboost", extra="xgboost").Booster()
        with checkpoint.as_directory() as directory:
            booster.load_model(str(Path(directory, filename)))
        return booster

    @override
    def after_iteration(self, model: Any, epoch: int, evals_log: Any) -> bool:
        found = {
            f"{data}-{metric}": _number(values[-1])
            for data, metrics in evals_log.items()
            for metric, values in metrics.items()
        }
        self._iterations += 1
        found = self._process(found) if self._process is not None else found
        self._last = chosen(found, self._metrics)
        self._is_saved = self._frequency > 0 and self._iterations % self._frequency == 0
        self._report(model, saves=self._is_saved)
        return False

    @override
    def after_training(self, model: Any) -> Any:
        if self._saves_end and not self._is_saved:
            self._report(model, saves=True)
        return model

    def _report(self, model: Any, *, saves: bool) -> None:
        report_with(
            self._last,
            (lambda directory: model.save_model(str(Path(directory, self._filename))))
            if saves
            else None,
        )


def _number(value: Any) -> float:
    # Cross-validation measures a mean and a deviation.
    return float(value[0] if isinstance(value, tuple) else value)


TuneReportCheckpointCallback = XGBoostReportCallback
