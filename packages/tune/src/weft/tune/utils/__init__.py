"""Small things that programs from Ray look for here."""

from weft.tune.utils.util import date_str, diagnose_serialization, wait_for_gpu

__all__ = ["date_str", "diagnose_serialization", "wait_for_gpu"]
