"""Core against Ray: `./dev bench core` runs the same programs on both, and on the floor beneath.

Every number is taken in a process of its own, Weft and Ray in turns, in several rounds; medians
count. The rows and their targets are in _core_rows.py, the programs in _core_startup.py,
_core_memory.py and _core_programs.py, the floors in _floors_*.py.
"""

from __future__ import annotations

import argparse
import importlib.util
from pathlib import Path
from typing import Any

from _core_rows import FLOORS, ROWS, Row
from _machine import machine, today, versions
from _report import fill_in, summary, text_table, where, write_json, write_page
from _rounds import Numbers, Program, run_rounds

FOLDER = Path(__file__).parent
LEAST_ROUNDS = 5


def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description="Measure Weft's core against Ray.")
    parser.add_argument("--rounds", type=int, default=LEAST_ROUNDS)
    parser.add_argument("--seconds", type=float, default=2.0, help="how long a rate is measured")
    known = [row.key for row in ROWS]
    parser.add_argument("--only", nargs="+", metavar="ROW", choices=known, default=known,
                        help=f"some rows: {', '.join(known)}")  # fmt: skip
    parser.add_argument("--no-ray", action="store_true", help="measure Weft and the floor only")
    parser.add_argument("--json", type=Path, default=FOLDER / "results" / "core.json")
    parser.add_argument("--write", action="store_true", help="fill RESULTS.md and README.md")
    given = parser.parse_args()
    if given.write and (given.no_ray or given.only != known or given.rounds < LEAST_ROUNDS):
        parser.error(f"--write takes all rows, Ray and at least {LEAST_ROUNDS} rounds")
    if not given.no_ray and importlib.util.find_spec("ray") is None:
        parser.error("Ray is not installed here: use ./dev bench core, or give --no-ray")
    return given


def program(row: Row, system: str) -> Program:
    return Program(row.module, row.key, system, row.cpus)


def floor_program(key: str) -> Program:
    return Program(FLOORS[key].module, FLOORS[key].function, "floor")


def groups(rows: list[Row], systems: list[str]) -> list[list[Program]]:
    """Return what to run: for each row its systems, and the floors that it is the first to name."""
    seen: set[str] = set()
    found = []
    for row in rows:
        found.append([program(row, system) for system in systems])
        fresh = [key for key in row.floors if key not in seen]
        found += [[floor_program(key)] for key in fresh]
        seen.update(fresh)
    return found


def result_of(row: Row, numbers: dict[Program, Numbers]) -> dict[str, Any]:
    """Return one row of the results."""
    weft = numbers[program(row, "weft")]
    ray = numbers.get(program(row, "ray"), Numbers())
    ratio = None
    if weft.median is not None and ray.median is not None:
        ratio = row.ratio(weft.median, ray.median)
    return {
        "key": row.key,
        "what": row.what,
        "unit": row.unit,
        "higher_is_better": row.higher_is_better,
        "ray": ray.median,
        "weft": weft.median,
        "ratio": ratio,
        "floors": [
            {
                "words": FLOORS[key].words,
                "value": numbers[floor_program(key)].median,
                "values": numbers[floor_program(key)].values,
            }
            for key in row.floors
        ],
        "target": row.target,
        "met": row.is_met(weft.median) if weft.median is not None else None,
        "ray_values": ray.values,
        "weft_values": weft.values,
        "failures": [f"weft: {why}" for why in weft.failures]
        + [f"ray: {why}" for why in ray.failures],
    }


def main() -> None:
    given = arguments()
    installed = versions("weft-core", "ray", "numpy")
    about = {"date": today(), "machine": machine(), "versions": installed}
    rows = [row for row in ROWS if row.key in given.only]
    systems = ["weft"] if given.no_ray else ["weft", "ray"]
    numbers = run_rounds(groups(rows, systems), rounds=given.rounds, seconds=given.seconds)
    results = {
        **about,
        "rounds": given.rounds,
        "seconds": given.seconds,
        "rows": [result_of(row, numbers) for row in rows],
    }
    print(text_table(results["rows"]))
    for row in results["rows"]:
        for failure in row["failures"]:
            print(f"failed: {row['what']}: {failure}")
    print(f"{where(results)}\n{summary(results['rows'])}")
    write_json(results, given.json)
    if given.write:
        write_page(results, FOLDER / "RESULTS.md")
        fill_in(results, FOLDER.parent / "README.md")


if __name__ == "__main__":
    main()
