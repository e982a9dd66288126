"""Reports from Keras: `model.fit(..., callbacks=[TuneReportCheckpointCallback()])`."""

from __future__ import annotations

from typing import TYPE_CHECKING

from weft.tune.integration._late import late

if TYPE_CHECKING:
    from weft.tune.integration._keras import ReportCheckpointCallback, TuneReportCheckpointCallback

    __all__ = ["ReportCheckpointCallback", "TuneReportCheckpointCallback"]
else:
    __getattr__ = late(
        "weft.tune.integration._keras", "ReportCheckpointCallback", "TuneReportCheckpointCallback"
    )
