"""Keep the one version number of all distributions.

    python tools/release.py            fail if a package disagrees
    python tools/release.py 0.2.0      write this version into every package

Checked, for each packages/*:
1. pyproject.toml has the version of packages/core; so has `__version__`, where a module sets it.
2. A library depends on `weft-core == X.Y.*`.
3. CHANGELOG.md has a heading for the version.
4. LICENSE is the repository's: a distribution carries its own copy.
"""

from __future__ import annotations

import re
import sys
import tomllib
from pathlib import Path

REPOSITORY = Path(__file__).resolve().parent.parent
IN_PYPROJECT = re.compile(r'^version = "([^"]+)"$', re.MULTILINE)
IN_MODULE = re.compile(r'^(__version__(?:: \w+)? = )"([^"]+)"$', re.MULTILINE)
PIN = re.compile(r'"weft-core ?== ?[\d.]+\.\*"')


def pin(version: str) -> str:
    """Return what a library of this version depends on."""
    return f"weft-core == {'.'.join(version.split('.')[:2])}.*"


def packages(repository: Path) -> list[Path]:
    """Return the folders of the packages."""
    return sorted(path.parent for path in repository.glob("packages/*/pyproject.toml"))


def version_of(package: Path) -> str:
    """Return the version that a package's pyproject.toml states."""
    text = (package / "pyproject.toml").read_text(encoding="utf-8")
    return str(tomllib.loads(text)["project"]["version"])


def problems(repository: Path = REPOSITORY) -> list[str]:
    """Return what disagrees, one line each."""
    version = version_of(repository / "packages" / "core")
    found = []
    for package in packages(repository):
        name = package.relative_to(repository)
        if version_of(package) != version:
            found.append(f"{name}: version {version_of(package)}, but packages/core has {version}")
        for path in sorted(package.glob("src/**/*.py")):
            stated = IN_MODULE.search(path.read_text(encoding="utf-8"))
            if stated and stated[2] != version:
                found.append(f"{path.relative_to(repository)}: {stated[2]}, not {version}")
        text = (package / "pyproject.toml").read_text(encoding="utf-8")
        if package.name != "core" and f'"{pin(version)}"' not in text:
            found.append(f'{name}: its dependencies lack "{pin(version)}"')
        changes = package / "CHANGELOG.md"
        headings = changes.read_text(encoding="utf-8").splitlines() if changes.exists() else []
        if not any(line.split()[:2] == ["##", version] for line in headings):
            found.append(f"{name}: CHANGELOG.md has no heading '## {version}'")
        licence = package / "LICENSE"
        if not licence.exists() or licence.read_bytes() != (repository / "LICENSE").read_bytes():
            found.append(f"{name}: LICENSE is not a copy of the repository's")
    return found


def set_version(version: str, repository: Path = REPOSITORY) -> None:
    """Write a version into every package; changelogs are left to people."""
    for package in packages(repository):
        path = package / "pyproject.toml"
        text = IN_PYPROJECT.sub(f'version = "{version}"', path.read_text(encoding="utf-8"), 1)
        path.write_text(PIN.sub(f'"{pin(version)}"', text), encoding="utf-8")
        for module in package.glob("src/**/*.py"):
            text = module.read_text(encoding="utf-8")
            if IN_MODULE.search(text):
                module.write_text(IN_MODULE.sub(rf'\g<1>"{version}"', text), encoding="utf-8")


def main(arguments: list[str]) -> int:
    """Set the version if one is given; print what disagrees; return 1 if anything does."""
    if arguments:
        if len(arguments) > 1 or not re.fullmatch(r"\d+\.\d+\.\d+", arguments[0]):
            print("release: give one version, such as 0.2.0")
            return 2
        set_version(arguments[0])
    found = problems()
    for problem in found:
        print(problem)
    print(f"release: version {version_of(REPOSITORY / 'packages' / 'core')}, {len(found)} problems")
    return 1 if found else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
