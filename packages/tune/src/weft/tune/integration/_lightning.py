"""The callback for Lightning; it is loaded with that package."""

from __future__ import annotations

import importlib.util
from pathlib import Path
from typing import TYPE_CHECKING, Any

from weft.exceptions import OptionError
from weft.tune.integration._reports import chosen, report_with
from weft.tune.search.extras import required

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from lightning.pytorch.callbacks import Callback as LightningCallback
else:
    # The same library under its name of today and the one before.
    _name = "lightning.pytorch"
    if importlib.util.find_spec("lightning") is None:
        _name = "pytorch_lightning"
    LightningCallback = required(f"{_name}.callbacks", extra="lightning").Callback

HOOKS = (
    "train_start", "train_end", "train_epoch_start", "train_epoch_end", "train_batch_end",
    "validation_start", "validation_end", "validation_epoch_start", "validation_epoch_end",
    "validation_batch_end", "fit_start", "fit_end", "test_end", "test_epoch_end",
)  # fmt: skip


class LightningReportCallback(LightningCallback):  # type: ignore[misc]  # has types where it is there
    """Reports what Lightning has logged, at one of its hooks, and saves a checkpoint.

    Nothing is reported before Lightning has logged something, nor in its sanity check.

    Args:
        metrics: Which, or what they are to be called by name; None: all.
        filename: Of Lightning's checkpoint in Tune's.
        save_checkpoints: Whether there is a checkpoint with each report.
        on: The hook: "validation_end", "train_epoch_end" and so on; or several.

    Raises:
        OptionError: There is no such hook.
    """

    def __init__(
        self,
        metrics: str | Sequence[str] | Mapping[str, str] | None = None,
        filename: str = "checkpoint",
        save_checkpoints: bool = True,
        on: str | Sequence[str] = "validation_end",
    ) -> None:
        super().__init__()
        self._metrics = metrics
        self._filename = filename
        self._saves = save_checkpoints
        hooks = [on] if isinstance(on, str) else list(on)
        for hook in hooks:
            if hook not in HOOKS:
                raise OptionError(f"{on=}: give one of {', '.join(HOOKS)}")
            # Lightning calls what a callback has of its hooks.
            setattr(self, f"on_{hook}", self._report)

    def _report(self, trainer: Any, module: Any, *args: Any, **kwargs: Any) -> None:
        if trainer.sanity_checking:
            return
        found = {name: value.item() for name, value in trainer.callback_metrics.items()}
        metrics = chosen(found, self._metrics)
        if not metrics:
            return
        report_with(
            metrics,
            (lambda directory: trainer.save_checkpoint(str(Path(directory, self._filename))))
            if self._saves
            else None,
        )


TuneReportCheckpointCallback = LightningReportCallback
