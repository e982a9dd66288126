"""Fail on class names used twice, and on names that WORDS.md has another word for.

    python tools/words.py [ROOT ...]        default: every packages/*/src

Checked:
1. A class name stands once in the repository; classes inside functions do not count.
2. No class is a Base-, -Impl, -Manager, -Handler or -Util.
3. No class or module name contains a word that the column "not" of WORDS.md lists.
4. No module is called utils, common, helpers, misc or base (but for base.py inside a package
   of adapters, which holds their interface).
5. WORDS.md lists each word once, in order, and no word in both columns.
Modules that users import are out of rules 2 and 3: their names are as users of Ray know them.
"""

from __future__ import annotations

import ast
import re
import sys
from collections import defaultdict
from pathlib import Path
from typing import TYPE_CHECKING

from cycles import REPOSITORY, load, source_roots

if TYPE_CHECKING:
    from collections.abc import Iterator

    from cycles import Source

PREFIXES = ("Base",)
SUFFIXES = ("Impl", "Manager", "Handler", "Util", "Utils")
MODULES = frozenset({"utils", "common", "helpers", "misc", "base"})
ADAPTERS = frozenset({"_transport", "_store", "_serialize", "_env", "_control"})
"""Packages of which each may have a base.py: the interface that its adapters implement."""


def read_words(text: str) -> tuple[list[str], dict[str, str]]:
    """Read the table of WORDS.md: the words in order, and for each avoided word the one to use."""
    words: list[str] = []
    instead: dict[str, str] = {}
    for line in text.splitlines():
        cells = [cell.strip() for cell in line.strip().strip("|").split("|")]
        if not line.startswith("|") or len(cells) != 3 or set(cells[0]) <= set("-: "):
            continue
        word, _, avoided = cells
        if (word, avoided) == ("word", "not"):
            continue
        words.append(word)
        instead.update({other.strip(): word for other in avoided.split(",") if other.strip()})
    return words, instead


def table_problems(words: list[str], instead: dict[str, str]) -> Iterator[str]:
    """Yield what is wrong with the table itself (rule 5)."""
    if not words:
        yield "WORDS.md: no table of three columns: word, meaning, not"
    if words != sorted(words, key=str.lower):
        first = next(a for a, b in zip(words, sorted(words, key=str.lower), strict=True) if a != b)
        yield f"WORDS.md: not in alphabetical order from {first!r} on"
    for word in sorted({word for word in words if words.count(word) > 1}):
        yield f"WORDS.md: {word!r} is listed twice"
    for other in sorted(set(instead) & set(words)):
        yield f"WORDS.md: {other!r} is a word, and is also to be avoided for {instead[other]!r}"


def classes(node: ast.AST, *, path: str) -> Iterator[tuple[str, str]]:
    """Yield (name, place) of the classes outside functions."""
    for child in ast.iter_child_nodes(node):
        if isinstance(child, ast.ClassDef):
            yield child.name, f"{path}:{child.lineno}"
        if not isinstance(child, ast.FunctionDef | ast.AsyncFunctionDef):
            yield from classes(child, path=path)


def parts(name: str) -> list[str]:
    """Split a name into its words, lower-case: DeathCertificate and death_certificate alike."""
    return re.findall(r"[a-z0-9]+", re.sub(r"([a-z0-9])([A-Z])", r"\1 \2", name).lower())


def is_public(source: Source) -> bool:
    """Tell whether users import this module."""
    return not any(part.startswith("_") for part in source.name.split("."))


def name_problems(sources: list[Source], instead: dict[str, str]) -> Iterator[str]:
    """Yield what is wrong with the names of classes and modules (rules 1 to 4)."""
    places: dict[str, list[str]] = defaultdict(list)
    for source in sources:
        module = source.name.split(".")
        is_known = is_public(source) or (module[-1] == "base" and ADAPTERS & set(module[:-1]))
        if module[-1].strip("_") in MODULES and not is_known:
            yield f"{source.path}: a module is named after what it holds, not {module[-1]!r}"
        named = [(module[-1].strip("_"), str(source.path))]
        for name, place in classes(source.tree, path=str(source.path)):
            places[name].append(place)
            named.append((name, place))
        if is_public(source):
            continue
        for name, place in named:
            if name.lstrip("_").startswith(PREFIXES) or name.endswith(SUFFIXES):
                yield f"{place}: {name}: say what it is, without Base-, -Impl, -Manager, ..."
            for other in sorted(set(parts(name)) & set(instead)):
                yield f"{place}: {name}: WORDS.md says {instead[other]!r}, not {other!r}"
    for name, found in sorted(places.items()):
        if len(found) > 1:
            yield f"class {name} is defined {len(found)} times: {', '.join(found)}"


def main(arguments: list[str]) -> int:
    """Print what is wrong; return 1 if anything is."""
    words, instead = read_words((REPOSITORY / "WORDS.md").read_text(encoding="utf-8"))
    sources = load([Path(argument) for argument in arguments] or source_roots())
    problems = [*table_problems(words, instead), *name_problems(sources, instead)]
    for problem in problems:
        print(problem)
    print(f"words: {len(words)} words, {len(sources)} modules, {len(problems)} problems")
    return 1 if problems else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
