"""The callback for Keras; it is loaded with that package."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

from weft.exceptions import OptionError
from weft.lowlevel import override
from weft.tune.integration._reports import chosen, report_with
from weft.tune.search.extras import required

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from keras.callbacks import Callback as KerasCallback
else:
    KerasCallback = required("keras.callbacks", extra="keras").Callback

FILE = "model.keras"
EVENTS = (
    "epoch_begin", "epoch_end", "train_batch_begin", "train_batch_end", "test_begin", "test_end",
    "test_batch_begin", "test_batch_end", "predict_begin", "predict_end", "predict_batch_begin",
    "predict_batch_end", "train_begin", "train_end",
)  # fmt: skip


class ReportCheckpointCallback(KerasCallback):  # type: ignore[misc]  # has types where it is there
    """Reports what Keras logs at an event, and saves the model.

    Keras runs on tensorflow, unless KERAS_BACKEND says torch or jax: one of them has to be there.

    Args:
        checkpoint_on: Events with a checkpoint: "epoch_end", "train_batch_end" and so on. They have
            to be among those that are reported: a checkpoint goes with a result.
        report_metrics_on: Events at which there is a report.
        metrics: Which, or what they are to be called by name; None: all.

    Raises:
        OptionError: There is no such event, or a checkpoint on one without a report.
    """

    def __init__(
        self,
        checkpoint_on: str | Sequence[str] = "epoch_end",
        report_metrics_on: str | Sequence[str] = "epoch_end",
        metrics: str | Sequence[str] | Mapping[str, str] | None = None,
    ) -> None:
        super().__init__()
        self._saving = _events(checkpoint_on)
        self._reporting = _events(report_metrics_on)
        if not self._saving <= self._reporting:
            raise OptionError(
                f"{checkpoint_on=} has events that {report_metrics_on=} has not: "
                "a checkpoint is reported with metrics"
            )
        self._metrics = metrics

    def _at(self, event: str, logs: Mapping[str, Any] | None) -> None:
        if event not in self._reporting:
            return
        model: Any = self.model
        report_with(
            chosen({name: float(value) for name, value in (logs or {}).items()}, self._metrics),
            (lambda directory: model.save(str(Path(directory, FILE))))
            if event in self._saving
            else None,
        )

    @override
    def on_epoch_begin(self, epoch: int, logs: Any = None) -> None:
        self._at("epoch_begin", logs)

    @override
    def on_epoch_end(self, epoch: int, logs: Any = None) -> None:
        self._at("epoch_end", logs)

    @override
    def on_train_batch_begin(self, batch: int, logs: Any = None) -> None:
        self._at("train_batch_begin", logs)

    @override
    def on_train_batch_end(self, batch: int, logs: Any = None) -> None:
        self._at("train_batch_end", logs)

    @override
    def on_test_begin(self, logs: Any = None) -> None:
        self._at("test_begin", logs)

    @override
    def on_test_end(self, logs: Any = None) -> None:
        self._at("test_end", logs)

    @override
    def on_test_batch_begin(self, batch: int, logs: Any = None) -> None:
        self._at("test_batch_begin", logs)

    @override
    def on_test_batch_end(self, batch: int, logs: Any = None) -> None:
        self._at("test_batch_end", logs)

    @override
    def on_predict_begin(self, logs: Any = None) -> None:
        self._at("predict_begin", logs)

    @override
    def on_predict_end(self, logs: Any = None) -> None:
        self._at("predict_end", logs)

    @override
    def on_predict_batch_begin(self, batch: int, logs: Any = None) -> None:
        self._at("predict_batch_begin", logs)

    @override
    def on_predict_batch_end(self, batch: int, logs: Any = None) -> None:
        self._at("predict_batch_end", logs)

    @override
    def on_train_begin(self, logs: Any = None) -> None:
        self._at("train_begin", logs)

    @override
    def on_train_end(self, logs: Any = None) -> None:
        self._at("train_end", logs)


def _events(given: str | Sequence[str]) -> frozenset[str]:
    found = frozenset([given] if isinstance(given, str) else given)
    unknown = sorted(found.difference(EVENTS))
    if unknown:
        raise OptionError(f"Keras has no event {unknown[0]!r}: give one of {', '.join(EVENTS)}")
    return found


TuneReportCheckpointCallback = ReportCheckpointCallback
