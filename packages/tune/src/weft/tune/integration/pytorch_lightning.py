"""Reports from Lightning: `Trainer(callbacks=[TuneReportCheckpointCallback()])`."""

from __future__ import annotations

from typing import TYPE_CHECKING

from weft.tune.integration._late import late

if TYPE_CHECKING:
    from weft.tune.integration._lightning import TuneReportCheckpointCallback

    __all__ = ["TuneReportCheckpointCallback"]
else:
    __getattr__ = late("weft.tune.integration._lightning", "TuneReportCheckpointCallback")
