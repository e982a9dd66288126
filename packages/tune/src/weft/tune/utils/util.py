"""Waiting for a GPU, looking at what cannot be sent, checking points that a search begins with."""

from __future__ import annotations

import subprocess
import time
from typing import TYPE_CHECKING, Any

import weft
from weft.exceptions import OptionError
from weft.util import inspect_serializability

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence


def date_str() -> str:
    """Return the time now as results have it."""
    return time.strftime("%Y-%m-%d_%H-%M-%S")


def diagnose_serialization(trainable: Any) -> bool | set[Any]:
    """Return True if a trainable can be sent, else the parts that cannot; print which."""
    can_be_sent, parts = inspect_serializability(trainable)
    return can_be_sent or parts


def wait_for_gpu(
    gpu_id: int | str | None = None,
    target_util: float = 0.01,
    retry: int = 20,
    delay_s: float = 5,
    gpu_memory_limit: float | None = None,
) -> bool:
    """Wait until a GPU's memory is free of what another process had in it. Blocks.

    Args:
        gpu_id: Its number or UUID; None: the first that this task or trial was given.
        target_util: The fraction of its memory that may be in use.
        retry: How often to look.
        delay_s: Seconds between two looks.
        gpu_memory_limit: Bytes that may be in use, instead of a fraction.

    Returns:
        True: it is free.

    Raises:
        OptionError: No GPU was given.
        RuntimeError: It is not free, or nvidia-smi does not know it.
    """
    if gpu_id is None:
        given = weft.get_gpu_ids()
        if not given:
            raise OptionError("wait_for_gpu: this task has no GPU; give gpu_id")
        gpu_id = given[0]
    for attempt in range(retry):
        used, total = _memory_of(str(gpu_id))
        if used <= (total * target_util if gpu_memory_limit is None else gpu_memory_limit):
            return True
        if attempt + 1 < retry:
            time.sleep(delay_s)
    raise RuntimeError(f"GPU {gpu_id} still has {used:g} of {total:g} bytes in use")


def _memory_of(gpu: str) -> tuple[float, float]:
    """Return bytes in use, and all."""
    command = [
        "nvidia-smi", f"--id={gpu}", "--query-gpu=memory.used,memory.total",
        "--format=csv,noheader,nounits",
    ]  # fmt: skip
    try:
        said = subprocess.run(command, check=True, capture_output=True, text=True).stdout  # noqa: S603 - no shell
    except (OSError, subprocess.CalledProcessError) as error:
        raise RuntimeError(f"nvidia-smi does not know GPU {gpu}: {error}") from error
    used, total = (float(part) * 2**20 for part in said.split(","))
    return used, total


def validate_warmstart(
    parameter_names: Sequence[str],
    points_to_evaluate: Sequence[Mapping[str, Any] | Sequence[Any]] | None,
    evaluated_rewards: Sequence[float] | None,
    validate_point_name_lengths: bool = True,
) -> None:
    """Refuse points that do not fit a space.

    Args:
        parameter_names: Of the space.
        points_to_evaluate: Each a dictionary, or values in the order of the names.
        evaluated_rewards: What is known of them; as many, or None.
        validate_point_name_lengths: Whether a point has to have a value for every name.

    Raises:
        OptionError: One does not fit; the message says which.
    """
    points = list(points_to_evaluate or ())
    for number, point in enumerate(points):
        if not isinstance(point, dict | list):
            raise OptionError(
                f"points_to_evaluate[{number}]={point!r}: give a dictionary or a list"
            )
        if validate_point_name_lengths and len(point) != len(parameter_names):
            raise OptionError(
                f"points_to_evaluate[{number}] has {len(point)} values, and the space "
                f"{len(parameter_names)}: {', '.join(parameter_names)}"
            )
    if evaluated_rewards is not None and len(evaluated_rewards) != len(points):
        raise OptionError(
            f"{len(evaluated_rewards)} evaluated_rewards for {len(points)} points_to_evaluate: "
            "give one for each"
        )
