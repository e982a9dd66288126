"""Print the shape of the packages: places worth a look, and the figures that a release tracks.

    python tools/sizes.py [ROOT ...]        default: every packages/*/src

These are smells, not verdicts: the exit status is 0 whatever is found. The thresholds are those of
STYLE.md. The time and modules of `import weft` are measured where weft is installed.
"""

from __future__ import annotations

import ast
import re
import subprocess
import sys
from collections import Counter
from pathlib import Path
from typing import TYPE_CHECKING

from cycles import REPOSITORY, graph, hidden, knots, load, source_roots

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

    from cycles import Source

FILE_LINES = 400
EXPLAINED_FILE_LINES = 800
"""Over this, the module's docstring says why the file is one: it has the words "one file"."""
FUNCTION_LINES = 40
NESTING = 4
PARAMETERS = 6
BRANCHES = 12
PUBLIC_METHODS = 15
CLASS_LINES = 300
IMPORTS_OF_WEFT = 8
PLACES = 12
"""How many places are printed for each kind of smell."""

BRANCH_NODES = (
    ast.If, ast.IfExp, ast.For, ast.AsyncFor, ast.While, ast.ExceptHandler, ast.match_case,
)  # fmt: skip
NESTING_NODES = (
    ast.If, ast.For, ast.AsyncFor, ast.While, ast.With, ast.AsyncWith, ast.Try, ast.TryStar,
    ast.Match,
)  # fmt: skip
FUNCTIONS = (ast.FunctionDef, ast.AsyncFunctionDef)

IMPORT_COST = """
import sys, time
before, start = len(sys.modules), time.perf_counter()
import weft
print(f"{time.perf_counter() - start:.3f} s, {len(sys.modules) - before} modules")
"""

Smell = tuple[str, int, str]
"""What kind, how much, where."""


def lines_of(node: ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef) -> int:
    """Return how many lines a definition takes."""
    return (node.end_lineno or node.lineno) - node.lineno + 1


def functions(tree: ast.AST) -> Iterator[ast.FunctionDef | ast.AsyncFunctionDef]:
    """Yield every function, nested ones too."""
    for node in ast.walk(tree):
        if isinstance(node, FUNCTIONS):
            yield node


def nesting(node: ast.AST) -> int:
    """Return how deep blocks stand in each other; an elif is no deeper than its if."""
    deepest = 0
    for name, field in ast.iter_fields(node):
        for child in field if isinstance(field, list) else [field]:
            if not isinstance(child, ast.AST) or isinstance(child, (*FUNCTIONS, ast.ClassDef)):
                continue
            is_elif = name == "orelse" and isinstance(node, ast.If) and isinstance(child, ast.If)
            counts = isinstance(child, NESTING_NODES) and not is_elif
            deepest = max(deepest, nesting(child) + counts)
    return deepest


def parameters(node: ast.FunctionDef | ast.AsyncFunctionDef) -> int:
    """Return how many parameters a function has, without self and cls."""
    named = node.args.posonlyargs + node.args.args + node.args.kwonlyargs
    return sum(argument.arg not in {"self", "cls"} for argument in named)


def file_smells(source: Source, imported: int) -> Iterator[Smell]:
    """Yield the smells of a file as a whole."""
    lines = source.text.count("\n")
    if lines > FILE_LINES:
        yield f"files over {FILE_LINES} lines", lines, str(source.path)
    docstring = " ".join((ast.get_docstring(source.tree) or "").split())
    if lines > EXPLAINED_FILE_LINES and "one file" not in docstring:
        kind = f"files over {EXPLAINED_FILE_LINES} lines whose docstring does not say why"
        yield kind, lines, str(source.path)
    if imported > IMPORTS_OF_WEFT:
        yield f"modules with over {IMPORTS_OF_WEFT} imports of weft", imported, str(source.path)


def smells(source: Source, imported: int) -> Iterator[Smell]:
    """Yield what is worth a look in a module, which imports so many others of Weft."""
    yield from file_smells(source, imported)
    for node in functions(source.tree):
        place = f"{source.path}:{node.lineno} {node.name}"
        branches = sum(isinstance(child, BRANCH_NODES) for child in ast.walk(node))
        for kind, limit, amount in (
            (f"functions over {FUNCTION_LINES} lines", FUNCTION_LINES, lines_of(node)),
            (f"functions nested over {NESTING} deep", NESTING, nesting(node)),
            (f"functions with over {PARAMETERS} parameters", PARAMETERS, parameters(node)),
            (f"functions with over {BRANCHES} branches", BRANCHES, branches),
        ):
            if amount > limit:
                yield kind, amount, place
    for cls in [node for node in ast.walk(source.tree) if isinstance(node, ast.ClassDef)]:
        place = f"{source.path}:{cls.lineno} {cls.name}"
        public = sum(isinstance(n, FUNCTIONS) and n.name[0] != "_" for n in cls.body)
        if public > PUBLIC_METHODS:
            yield f"classes with over {PUBLIC_METHODS} public methods", public, place
        if lines_of(cls) > CLASS_LINES:
            yield f"classes over {CLASS_LINES} lines", lines_of(cls), place


def p99_and_longest(lengths: Iterable[int]) -> str:
    """Return the 99th percentile and the maximum in words."""
    ordered = sorted(lengths) or [0]
    return f"p99 {ordered[int(0.99 * (len(ordered) - 1))]}, longest {ordered[-1]}"


def import_cost() -> str:
    """Return what `import weft` costs, or that it cannot be imported."""
    command = [sys.executable, "-c", IMPORT_COST]
    ended = subprocess.run(command, capture_output=True, text=True, check=False)
    return ended.stdout.strip() if ended.returncode == 0 else "not importable here"


def figures(sources: list[Source]) -> list[str]:
    """Return what a release tracks, one line each."""
    lengths = [lines_of(node) for source in sources for node in functions(source.tree)]
    texts = "\n".join(source.text for source in sources)
    variables = set(re.findall(r"\bWEFT_[A-Z_]+\b", texts))
    lists = REPOSITORY.glob("packages/*/tests/public_names.txt")
    names = sum(path.read_text(encoding="utf-8").count("\n") for path in lists)
    return [
        f"modules: {len(sources)}, {sum(source.text.count(chr(10)) for source in sources)} lines",
        f"lines of a file: {p99_and_longest(source.text.count(chr(10)) for source in sources)}",
        f"lines of a function: {p99_and_longest(lengths)}",
        f"modules in import cycles: {sum(map(len, knots(graph(sources))))}",
        f"imports inside functions: {len(hidden(sources))}",
        f"public names: {names}",
        f"environment variables: {len(variables)}",
        f"import weft: {import_cost()}",
    ]


def main(arguments: list[str]) -> int:
    """Print the smells, the worst first, and the figures."""
    sources = load([Path(argument) for argument in arguments] or source_roots())
    edges = graph(sources)
    found = [smell for source in sources for smell in smells(source, len(edges[source.name]))]
    found.sort(reverse=True)
    for kind, amount in sorted(Counter(kind for kind, *_ in found).items()):
        print(f"{kind}: {amount}")
        for _, size, place in [smell for smell in found if smell[0] == kind][:PLACES]:
            print(f"    {size}  {place}")
    print("\n".join(figures(sources)))
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
