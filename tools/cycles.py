"""Fail on import cycles, and on imports inside functions.

    python tools/cycles.py [ROOT ...]        default: every packages/*/src

An import inside a function is how a cycle hides. It is allowed for optional third parties only:
what is neither in the standard library, nor Weft, nor a dependency in the package's pyproject.toml.
Imports for type checkers alone do not count. `lazy("weft.x")` counts as an import of weft.x.
"""

from __future__ import annotations

import ast
import re
import sys
import tomllib
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

REPOSITORY = Path(__file__).resolve().parent.parent


@dataclass(frozen=True)
class Source:
    """A module as it stands in a file."""

    name: str
    path: Path
    """Relative to the current folder, if it lies in it."""
    text: str
    tree: ast.Module
    required: frozenset[str]
    """Top-level names of the third parties that its package depends on."""


@dataclass(frozen=True)
class Import:
    """A name that a module imports: a module, or a module's attribute."""

    target: str
    line: int
    in_function: bool


def source_roots(repository: Path = REPOSITORY) -> list[Path]:
    """Return the source folder of each package."""
    return sorted(repository.glob("packages/*/src"))


def load(roots: Iterable[Path]) -> list[Source]:
    """Parse every module below the source folders."""
    sources = []
    for root in roots:
        required = _dependencies(root.parent / "pyproject.toml")
        for path in sorted(root.rglob("*.py")):
            name = ".".join(path.relative_to(root).with_suffix("").parts).removesuffix(".__init__")
            text = path.read_text(encoding="utf-8")
            here = path.relative_to(Path.cwd()) if path.is_relative_to(Path.cwd()) else path
            sources.append(Source(name, here, text, ast.parse(text, path), required))
    return sources


def _dependencies(pyproject: Path) -> frozenset[str]:
    if not pyproject.exists():
        return frozenset()
    project = tomllib.loads(pyproject.read_text(encoding="utf-8"))["project"]
    entries = project.get("dependencies", [])
    names = [re.split(r"[^\w.-]", entry, maxsplit=1)[0] for entry in entries]
    return frozenset(name.replace("-", "_").lower() for name in names)


def imports(source: Source) -> Iterator[Import]:
    """Yield what a module imports, wherever in it."""
    yield from _imports(source, source.tree, in_function=False)


def _imports(source: Source, node: ast.AST, *, in_function: bool) -> Iterator[Import]:
    if isinstance(node, ast.If) and "TYPE_CHECKING" in ast.unparse(node.test):
        children: Iterable[ast.AST] = node.orelse
    else:
        children = ast.iter_child_nodes(node)
        for target in _targets(source, node):
            yield Import(target, getattr(node, "lineno", 0), in_function)
    inside = in_function or isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.Lambda)
    for child in children:
        yield from _imports(source, child, in_function=inside)


def _targets(source: Source, node: ast.AST) -> list[str]:
    match node:
        case ast.Import(names=names):
            return [alias.name for alias in names]
        case ast.ImportFrom(module=module, names=names, level=level):
            base = module or ""
            if level:
                is_package = source.path.name == "__init__.py"
                parts = source.name.split(".")
                parts = parts[: len(parts) + is_package - level]
                base = ".".join([*parts, base] if base else parts)
            return [f"{base}.{alias.name}" for alias in names]
        case ast.Call(func=ast.Name(id="lazy"), args=[ast.Constant(value=str(name))]):
            return [name] if name.startswith("weft.") else []
        case _:
            return []


def graph(sources: list[Source]) -> dict[str, set[str]]:
    """Return, for each module, the modules among `sources` that it imports."""
    known = {source.name for source in sources}
    edges: dict[str, set[str]] = {}
    for source in sources:
        edges[source.name] = {_module_of(found.target, known) for found in imports(source)}
        edges[source.name] -= {"", source.name}
    return edges


def _module_of(target: str, known: set[str]) -> str:
    while target and target not in known:
        target = target.rpartition(".")[0]
    return target


def knots(edges: dict[str, set[str]]) -> list[list[str]]:
    """Return the groups of modules that import each other in a circle.

    The strongly connected components of more than one module (Tarjan 1972, "Depth-first search and
    linear graph algorithms", section 4; v and w, lowlink and the stack are named as there).
    """
    number: dict[str, int] = {}
    lowlink: dict[str, int] = {}
    stack: list[str] = []
    found: list[list[str]] = []

    def strong_connect(v: str) -> None:
        number[v] = lowlink[v] = len(number)
        stack.append(v)
        for w in sorted(edges[v]):
            if w not in number:
                strong_connect(w)
                lowlink[v] = min(lowlink[v], lowlink[w])
            elif w in stack:
                lowlink[v] = min(lowlink[v], number[w])
        if lowlink[v] == number[v]:
            start = stack.index(v)
            component = stack[start:]
            del stack[start:]
            if len(component) > 1:
                found.append(sorted(component))

    for v in sorted(edges):
        if v not in number:
            strong_connect(v)
    return sorted(found)


def hidden(sources: list[Source]) -> list[str]:
    """Return the places of imports inside functions that are not of an optional third party."""
    places = []
    for source in sources:
        forbidden = sys.stdlib_module_names | source.required | {"weft"}
        places += [
            f"{source.path}:{found.line}: {found.target}"
            for found in imports(source)
            if found.in_function and found.target.split(".")[0] in forbidden
        ]
    return places


def main(arguments: list[str]) -> int:
    """Print the cycles and hidden imports; return 1 if there are any."""
    sources = load([Path(argument) for argument in arguments] or source_roots())
    cycles, places = knots(graph(sources)), hidden(sources)
    for cycle in cycles:
        print(f"import cycle of {len(cycle)} modules: {', '.join(cycle)}")
    for place in places:
        print(f"import inside a function: {place}")
    print(f"cycles: {len(sources)} modules, {len(cycles)} cycles, {len(places)} hidden imports")
    return 1 if cycles or places else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
