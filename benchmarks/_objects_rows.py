"""The rows of the objects' benchmark: what is measured, by which program, against which target."""

from __future__ import annotations

import _core_rows
from _rows import Floor, Row

FLOORS = {
    **_core_rows.FLOORS,
    "pickles": Floor("100,000 pickles", "_floors_values", "pickle_many"),
    "write": Floor("plain files", "_floors_disk", "write_files"),
    "disk_write": Floor("the disk", "_floors_disk", "write_direct"),
    "read": Floor("plain files", "_floors_disk", "read_warm"),
    "read_cold": Floor("the disk", "_floors_disk", "read_cold"),
}

PROGRAMS = "_objects_programs"
SPILLING = "_objects_spilling"
OF_CORE = (
    "get_small", "put_small", "put_large", "get_large", "get_with_references",
    "tasks_with_argument", "actors_n_n_with_argument", "tasks_returning",
)  # fmt: skip
"""Puts, gets, arguments and returns, as core's benchmark has them."""

ROWS = (
    *(row for row in _core_rows.ROWS if row.key in OF_CORE),
    Row("small_put_and_freed", "100,000 small objects put and freed", "s", 2, ("pickles",),
        SPILLING, 0),
    Row("shared_with_readers", "100 MiB put, read by 8 actors", "GB/s", 4, ("memcpy",), PROGRAMS,
        cpus=8),
    Row("round_trip", "1 GiB array to a task and back", "GB/s", 4, ("memcpy",), PROGRAMS),
    Row("spill", "put into a full store", "GB/s", 0.7, ("disk_write", "write"), SPILLING, 0,
        share_of="disk_write"),
    Row("restore", "get of what was spilled, warm", "GB/s", 0.7, ("read_cold", "read"), SPILLING, 0,
        share_of="read_cold"),
    Row("restore_cold", "get of what was spilled, cold", "GB/s", 0.7, ("read_cold",), SPILLING, 0,
        share_of="read_cold"),
    Row("working_set", "4 GB through 400 MB, compared", "GB/s", 0.3, ("write",), SPILLING, 0),
)  # fmt: skip
