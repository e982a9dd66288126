"""One benchmark from its arguments to its pages: the rows on Weft, on Ray, and their floors.

Every number is taken in a process of its own, Weft and Ray in turns, in several rounds; medians
count.
"""

from __future__ import annotations

import argparse
import importlib.util
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import _comparisons
from _machine import machine, today, versions
from _report import fill_in, section, short_section, summary, text_table, where, write_json
from _rounds import Numbers, Program, run_rounds

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from _rows import Comparison, Floor, Row

FOLDER = Path(__file__).parent


@dataclass(frozen=True)
class Suite:
    """What `./dev bench NAME` measures."""

    name: str
    rows: Sequence[Row]
    floors: Mapping[str, Floor]
    least_rounds: int
    """The default, and what --write takes at least."""
    is_in_readme: bool = False
    """A short table stands in README.md as well."""
    comparisons: Sequence[Comparison] = ()
    """Of what is found, beside how fast it goes."""
    packages: Sequence[str] = ("weft-core", "ray", "numpy")
    """Whose versions the tables name."""

    def run(self) -> None:
        """Do what the command line says."""
        given = self._arguments()
        installed = versions(*self.packages)
        about = {"date": today(), "machine": machine(), "versions": installed}
        rows = [row for row in self.rows if row.key in given.only]
        systems = ["weft"] if given.no_ray else ["weft", "ray"]
        programs = self._groups(rows, systems)
        numbers = run_rounds(programs, rounds=given.rounds, seconds=given.seconds)
        results = {
            **about,
            "rounds": given.rounds,
            "seconds": given.seconds,
            "rows": [self._result_of(row, numbers) for row in rows],
            "comparisons": [
                _comparisons.compare(comparison, systems)
                for comparison in self.comparisons
                if comparison.key in given.only
            ],
        }
        print(text_table(results["rows"]))
        if results["comparisons"]:
            print(_comparisons.text(results["comparisons"]))
        for row in (*results["rows"], *results["comparisons"]):
            for failure in row["failures"]:
                print(f"failed: {row['what']}: {failure}")
        print(f"{where(results)}\n{summary(results['rows'])}")
        write_json(results, given.json)
        if given.write:
            compared = results["comparisons"]
            tables = [section(results), *([_comparisons.markdown(compared)] if compared else [])]
            fill_in(FOLDER / "RESULTS.md", self.name, "\n\n".join(tables))
            if self.is_in_readme:
                fill_in(FOLDER.parent / "README.md", self.name, short_section(results))

    def _arguments(self) -> argparse.Namespace:
        parser = argparse.ArgumentParser(description=f"Measure Weft beside Ray: {self.name}.")
        parser.add_argument("--rounds", type=int, default=self.least_rounds)
        parser.add_argument(
            "--seconds", type=float, default=2.0, help="how long a rate is measured"
        )
        known = [row.key for row in (*self.rows, *self.comparisons)]
        parser.add_argument("--only", nargs="+", metavar="ROW", choices=known, default=known,
                            help=f"some rows: {', '.join(known)}")  # fmt: skip
        parser.add_argument("--no-ray", action="store_true", help="measure Weft and the floor only")
        parser.add_argument("--json", type=Path, default=FOLDER / "results" / f"{self.name}.json")
        pages = "RESULTS.md and README.md" if self.is_in_readme else "RESULTS.md"
        parser.add_argument("--write", action="store_true", help=f"fill {pages}")
        given = parser.parse_args()
        is_part = given.no_ray or given.only != known or given.rounds < self.least_rounds
        if given.write and is_part:
            parser.error(f"--write takes all rows, Ray and at least {self.least_rounds} rounds")
        if not given.no_ray and importlib.util.find_spec("ray") is None:
            parser.error(f"Ray is not installed here: use ./dev bench {self.name}, or --no-ray")
        return given

    def _floor_program(self, key: str) -> Program:
        return Program(self.floors[key].module, self.floors[key].function, "floor")

    def _groups(self, rows: list[Row], systems: list[str]) -> list[list[Program]]:
        """Return what to run: each row's systems, then the floors that it is the first to name."""
        seen: set[str] = set()
        found = []
        for row in rows:
            found.append(
                [program(row, each) for each in systems if each == "weft" or not row.is_ours]
            )
            fresh = [key for key in row.floors if key not in seen]
            found += [[self._floor_program(key)] for key in fresh]
            seen.update(fresh)
        return found

    def _result_of(self, row: Row, numbers: dict[Program, Numbers]) -> dict[str, Any]:
        """Return one row of the results."""
        weft = numbers[program(row, "weft")]
        ray = numbers.get(program(row, "ray"), Numbers())
        ratio = None
        if weft.median is not None and ray.median is not None:
            ratio = row.ratio(weft.median, ray.median)
        floors = {key: numbers[self._floor_program(key)] for key in row.floors}
        target = row.target_beside({key: floor.median for key, floor in floors.items()})
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
                    "words": self.floors[key].words,
                    "value": floor.median,
                    "values": floor.values,
                }
                for key, floor in floors.items()
            ],
            "target": target,
            "met": row.is_met(weft.median, target),
            "note": row.note,
            "ray_values": ray.values,
            "weft_values": weft.values,
            "failures": [f"weft: {why}" for why in weft.failures]
            + [f"ray: {why}" for why in ray.failures],
        }


def program(row: Row, system: str) -> Program:
    return Program(row.module, row.key, system, row.cpus)
