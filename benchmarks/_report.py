"""The table of a benchmark: for a terminal, as Markdown, and as JSON."""

from __future__ import annotations

import json
import textwrap
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from pathlib import Path

HEAD = ("what", "Ray", "Weft", "ratio", "floor", "target", "met")


def amount(value: float | None, unit: str) -> str:
    """Return a number for a reader: `15.2 k/s`, `28 ms`."""
    if value is None:
        return "-"
    if unit == "s":
        return f"{value:.2f} s" if value >= 0.1 else f"{value * 1000:.3g} ms"
    if unit == "/s":
        return f"{figure(value / 1000)} k/s" if value >= 10_000 else f"{figure(value)}/s"
    return f"{figure(value)} {unit}"


def figure(value: float) -> str:
    """Return three digits at least: 1,674 or 15.2."""
    return f"{value:,.0f}" if value >= 100 else f"{value:.3g}"


def cells(row: Mapping[str, Any]) -> tuple[str, ...]:
    """Return the words of one line of the table, as HEAD names them."""
    unit = row["unit"]
    sign = "≥" if row["higher_is_better"] else "≤"
    ratio = row["ratio"]
    met = row["met"]
    return (
        row["what"],
        amount(row["ray"], unit),
        amount(row["weft"], unit),
        "-" if ratio is None else f"{ratio:.1f}x",
        ", ".join(f"{amount(floor['value'], unit)} ({floor['words']})" for floor in row["floors"]),
        f"{sign} {amount(row['target'], unit)}",
        "-" if met is None else "yes" if met else "no",
    )


def text_table(rows: Sequence[Mapping[str, Any]]) -> str:
    """Return the table for a terminal."""
    lines = [HEAD, *map(cells, rows)]
    widths = [max(len(line[column]) for line in lines) for column in range(len(HEAD))]
    aligned = [
        "  ".join(
            cell.ljust(width) if column in (0, 4) else cell.rjust(width)
            for column, (cell, width) in enumerate(zip(line, widths, strict=True))
        )
        for line in lines
    ]
    return "\n".join(line.rstrip() for line in aligned)


def markdown_table(rows: Sequence[Mapping[str, Any]], columns: Sequence[str] = HEAD) -> str:
    """Return the table, or some of its columns, as Markdown."""
    chosen = [HEAD.index(name) for name in columns]
    lines = [columns, ["---" if column in (0, 4) else "---:" for column in chosen]]
    lines += [[cells(row)[column] for column in chosen] for row in rows]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def summary(rows: Sequence[Mapping[str, Any]]) -> str:
    """Return how many targets are met, and which are not."""
    known = [row for row in rows if row["met"] is not None]
    missed = [row["what"] for row in known if not row["met"]]
    told = f"{len(known) - len(missed)} of {len(rows)} targets met"
    return f"{told}; not met: {'; '.join(missed)}" if missed else told


def where(results: Mapping[str, Any]) -> str:
    """Return what the figures were measured on, in a sentence or two."""
    machine = results["machine"]
    names = ", ".join(f"{name} {version}" for name, version in results["versions"].items())
    return (
        f"{results['date']}, {machine['cpu']}, {machine['cores']} cores, "
        f"{machine['memory_gib']} GiB, Linux {machine['kernel']}, {names}. "
        f"Load at the start: {machine['load_at_start']:g}. "
        f"Medians; rounds: {results['rounds']}; {results['seconds']:g} s a rate."
    )


def wrapped(text: str) -> str:
    """Return a paragraph in lines of the repository's length."""
    return textwrap.fill(text, 100, break_long_words=False, break_on_hyphens=False)


def write_json(results: Mapping[str, Any], file: Path) -> None:
    """Write everything that was measured."""
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_text(json.dumps(results, indent=2, ensure_ascii=False) + "\n")


def section(results: Mapping[str, Any]) -> str:
    """Return all that a run has found, in Markdown."""
    rows = results["rows"]
    paragraphs = [wrapped(where(results)), wrapped(f"{summary(rows)}."), markdown_table(rows)]
    notes = [wrapped(f"{row['what'][0].upper()}{row['what'][1:]}: {row['note']}")
             for row in rows if row["note"]]  # fmt: skip
    return "\n\n".join(paragraphs + notes)


def short_section(results: Mapping[str, Any]) -> str:
    """Return the table without floors and targets, in Markdown."""
    table = markdown_table(results["rows"], ("what", "Ray", "Weft", "ratio"))
    return f"{wrapped(where(results))}\n\n{table}"


def fill_in(file: Path, name: str, text: str) -> None:
    """Replace what stands between the two marks of a benchmark on a page."""
    begin_mark = f"<!-- {name}: written by ./dev bench {name} --write -->"
    end_mark = f"<!-- {name}: end -->"
    before, begin, rest = file.read_text().partition(begin_mark)
    _, end, after = rest.partition(end_mark)
    if not (begin and end):
        raise ValueError(f"{file.name} lacks the line {end_mark if begin else begin_mark}")
    file.write_text(f"{before}{begin_mark}\n{text}\n{end_mark}{after}")
