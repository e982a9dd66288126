"""From a search space to configurations: grids are written out, then domains are drawn.

A space is nested dictionaries and lists. In them stand values, which stay as they are; domains, of
which a value is drawn; and `grid_search([...])`, of which each value is tried.

Conditional values
- A function (`sample_from`) sees what was drawn before it. Functions are called when what they ask
  for is there, in any order of the keys; a circle is a RecursiveDependencyError.
- What a choice or a function gives may hold domains itself: these are drawn in turn. So
  `choice([{"kind": "sgd", "momentum": uniform(0, 1)}, {"kind": "adam"}])` has a momentum only
  where it makes sense.
- Values of a grid may hold domains and grids. What is drawn may not hold a grid: how many variants
  there are would be a matter of luck.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from weft.exceptions import OptionError, UsageError
from weft.lowlevel import override
from weft.tune.search.sample import Categorical, Domain, Function, generator

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator, Mapping

    from weft.tune.search.sample import RandomState

    Path = tuple[str | int, ...]
    Draw = Callable[[Path, Domain, "Given"], Any]

GRID = "grid_search"


class RecursiveDependencyError(UsageError):
    """Functions of a search space ask for each other's values. Nothing was started."""

    def __init__(self, msg: str) -> None:
        super().__init__(msg)


class _NotDrawnError(Exception):
    """A function asked for a value that is not there: it is called again later."""


class Given(dict[str, Any]):
    """What a function sees of a configuration: `spec.config.lr`, `spec["lr"]` or `spec.lr`."""

    @override
    def __getitem__(self, key: str) -> Any:
        if key == "config" and key not in self:
            return self
        value = super().__getitem__(key)
        if _waits(value):
            raise _NotDrawnError(key)
        return Given(value) if type(value) is dict else value

    def __getattr__(self, name: str) -> Any:
        try:
            return self[name]
        except KeyError:
            raise AttributeError(f"nothing in the search space is called {name!r}") from None

    @override
    def get(self, key: str, default: Any = None) -> Any:
        return self[key] if key in self else default  # noqa: SIM401 - get is what this is


def _waits(value: Any) -> bool:
    return isinstance(value, Domain) or (isinstance(value, list) and any(map(_waits, value)))


def grid_search(values: Iterable[Any]) -> dict[str, list[Any]]:
    """Return what stands in a space for values that are all tried.

    Raises:
        OptionError: There are none.
    """
    grid = list(values)
    if not grid:
        raise OptionError("a grid_search of no values: give at least one")
    return {GRID: grid}


def path_name(path: Path) -> str:
    """Return a path as one word: `model/layers/0`."""
    return "/".join(map(str, path))


def grid_values(value: Any) -> list[Any] | None:
    """Return the values of a grid; None: it is none."""
    if type(value) is dict and len(value) == 1 and GRID in value:
        return grid_search(value[GRID])[GRID]
    if isinstance(value, Categorical) and value.is_grid():
        return value.categories
    return None


def _children(path: Path, value: Any) -> Iterator[tuple[Path, Any]]:
    """Yield what stands in a dictionary or a list; in anything else stands nothing."""
    if isinstance(value, dict):
        for key, child in value.items():
            yield (*path, key), child
    elif isinstance(value, list):
        for number, child in enumerate(value):
            yield (*path, number), child
    elif type(value) is tuple and any(isinstance(child, Domain) for child in value):
        raise OptionError(f"{path_name(path)}: a domain stands in a tuple; make it a list")


def _rebuilt(path: Path, value: Any, make: Callable[[Path, Any], Any]) -> Any:
    """Return a dictionary or a list with other things in it; anything else as it is."""
    children = [make(*child) for child in _children(path, value)]
    if isinstance(value, dict):
        return dict(zip(value, children, strict=True))
    return children if isinstance(value, list) else value


def grid_size(space: Any) -> int:
    """Return of how many variants the grids of a space consist."""
    values = grid_values(space)
    if values is not None:
        return sum(map(grid_size, values))
    size = 1
    for _, child in _children((), space):
        size *= grid_size(child)
    return size


def fix_grids(space: Any, number: int) -> tuple[Any, dict[Path, Any]]:
    """Write out one variant of the grids; the last grid of the space changes first.

    Args:
        space: The space.
        number: Of the variant, from 0 to below `grid_size(space)`.

    Returns:
        The space without grids, and the values that were taken, by their places.
    """
    taken: dict[Path, Any] = {}
    left = grid_size(space)

    def fix(path: Path, value: Any) -> Any:
        nonlocal left, number
        values = grid_values(value)
        if values is None:
            return _rebuilt(path, value, fix)
        left //= grid_size(value)
        index, number = divmod(number, left)
        for candidate in values:
            size = grid_size(candidate)
            if index < size:
                break
            index -= size
        fixed, inner = fix_grids(candidate, index)
        taken[path] = fixed
        taken.update({(*path, *place): found for place, found in inner.items() if place})
        return fixed

    return fix((), space), taken


def resolve(space: Any, draw: Draw) -> Any:
    """Return the space with a value for each domain.

    Args:
        space: It has no grids: see `fix_grids`.
        draw: Is asked for the value of each domain: of functions after the others, when what they
            ask for is there.

    Raises:
        RecursiveDependencyError: Functions ask for each other's values.
    """
    # In a list, so that a space which is one domain has a place for its value, too.
    root: list[Any] = [None]
    functions: dict[Path, Function] = {}

    def drawn(path: Path, value: Any) -> Any:
        if grid_values(value) is not None:
            raise OptionError(f"{path_name(path)}: a grid_search cannot stand in what is drawn")
        if isinstance(value, Function):
            functions[path] = value
            return value  # until it is called
        if isinstance(value, Domain):
            return drawn(path, draw(path, value, Given()))
        return _rebuilt(path, value, drawn)

    root[0] = drawn((), space)
    while functions:
        waiting, functions = functions, {}
        called = False
        for path, function in waiting.items():
            try:
                value = draw(path, function, Given(root[0] if isinstance(root[0], dict) else {}))
            except _NotDrawnError:
                functions[path] = function
            else:
                called = True
                assign_value(root, (0, *path), drawn(path, value))
        if not called:
            names = ", ".join(map(path_name, functions))
            raise RecursiveDependencyError(f"functions that wait for each other's values: {names}")
    return root[0]


def generate_variants(
    unresolved_spec: Mapping[str, Any],
    constant_grid_search: bool = False,
    random_state: RandomState = None,
) -> Iterator[tuple[dict[Path, Any], dict[str, Any]]]:
    """Yield each variant of a space's grids, with a value drawn for each domain.

    Args:
        unresolved_spec: The space.
        constant_grid_search: Whether the variants differ in the grids alone: what is drawn is
            drawn once for all of them.
        random_state: A generator, or a seed; None: the module `random` seeds one.

    Yields:
        What was taken or drawn, by its place; and the configuration.
    """
    rng = generator(random_state)
    seed = rng.getrandbits(64)
    for number in range(grid_size(unresolved_spec)):
        yield variant(unresolved_spec, number, generator(seed) if constant_grid_search else rng)


def variant(
    space: Mapping[str, Any], number: int, random_state: RandomState
) -> tuple[dict[Path, Any], dict[str, Any]]:
    """Return one variant of a space's grids, as `generate_variants` yields it."""
    rng = generator(random_state)
    fixed, taken = fix_grids(space, number)

    def draw(path: Path, domain: Domain, given: Given) -> Any:
        taken[path] = domain.sample(given, random_state=rng)
        return taken[path]

    return taken, resolve(fixed, draw)


def parse_spec_vars(
    spec: Mapping[str, Any],
) -> tuple[list[tuple[Path, Any]], list[tuple[Path, Any]], list[tuple[Path, Any]]]:
    """Return what stands in a space: values, domains, and grids (as their values), with places."""
    values: list[tuple[Path, Any]] = []
    domains: list[tuple[Path, Any]] = []
    grids: list[tuple[Path, Any]] = []

    def sort(path: Path, value: Any) -> None:
        grid = grid_values(value)
        if grid is not None:
            grids.append((path, grid))
        elif isinstance(value, Domain):
            domains.append((path, value))
        elif isinstance(value, dict | list) and value:
            for child in _children(path, value):
                sort(*child)
        else:
            values.append((path, value))

    sort((), spec)
    return values, domains, grids


def assign_value(spec: Any, path: Path, value: Any) -> None:
    """Put a value in its place in nested dictionaries and lists."""
    *way, last = path
    for step in way:
        spec = spec[step]
    spec[last] = value


def format_vars(resolved_vars: Mapping[Path, Any]) -> str:
    """Return what was drawn as one short line: `lr=0.01,layers=3`."""
    return ",".join(
        f"{path_name(path)}={_short(value)}"
        for path, value in sorted(resolved_vars.items(), key=str)
    )


def _short(value: Any) -> str:
    return f"{value:.4g}" if isinstance(value, float) else str(value)
