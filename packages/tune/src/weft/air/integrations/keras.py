"""Reports from Keras; the same as in `weft.tune.integration.keras`."""

from __future__ import annotations

from typing import TYPE_CHECKING

from weft.tune.integration._late import late

if TYPE_CHECKING:
    from weft.tune.integration._keras import ReportCheckpointCallback

    __all__ = ["ReportCheckpointCallback"]
else:
    __getattr__ = late("weft.tune.integration._keras", "ReportCheckpointCallback")
