"""What callbacks of training libraries have in common: which metrics they report, and how."""

from __future__ import annotations

import shutil
from typing import TYPE_CHECKING, Any

from weft.tune._session import report
from weft.tune._storage import scratch
from weft.tune.checkpoint import Checkpoint

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence


def chosen(
    found: Mapping[str, Any], metrics: str | Sequence[str] | Mapping[str, str] | None
) -> dict[str, Any]:
    """Return what is to be reported.

    Args:
        found: What the library has measured.
        metrics: Names in it, or what they are to be called by name; None: all.

    Raises:
        KeyError: The library has not measured that; the message says what it has.
    """
    if metrics is None:
        return dict(found)
    if isinstance(metrics, str):
        metrics = [metrics]
    name_of = metrics if isinstance(metrics, dict) else {name: name for name in metrics}
    for name in name_of.values():
        if name not in found:
            raise KeyError(f"there is no metric {name!r}: there is {', '.join(found) or 'none'}")
    return {called: found[name] for called, name in name_of.items()}


def report_with(metrics: dict[str, Any], save: Callable[[str], object] | None) -> None:
    """Report metrics, with a checkpoint if there is something to save.

    Args:
        metrics: What to report.
        save: Writes into a directory that is there; None: no checkpoint.
    """
    if save is None:
        report(metrics)
        return
    directory = scratch("model")
    try:
        save(directory)
        report(metrics, checkpoint=Checkpoint.from_directory(directory))
    finally:
        shutil.rmtree(directory, ignore_errors=True)
