from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

import release

if TYPE_CHECKING:
    from pathlib import Path


@pytest.fixture
def repository(tmp_path: Path) -> Path:
    (tmp_path / "LICENSE").write_text("licence")
    for name, dependency in (("core", "msgspec"), ("data", "weft-core == 0.1.*")):
        package = tmp_path / "packages" / name
        package.mkdir(parents=True)
        (package / "pyproject.toml").write_text(
            f'[project]\nname = "weft-{name}"\nversion = "0.1.0"\ndependencies = ["{dependency}"]\n'
        )
        (package / "CHANGELOG.md").write_text("# Changelog\n\n## 0.1.0\n")
        (package / "LICENSE").write_text("licence")
    module = tmp_path / "packages" / "core" / "src" / "weft" / "__init__.py"
    module.parent.mkdir(parents=True)
    module.write_text('__version__ = "0.1.0"\n')
    return tmp_path


def test_this_repository_agrees_with_itself() -> None:
    assert release.problems() == []


def test_packages_that_agree_have_no_problems(repository: Path) -> None:
    assert release.problems(repository) == []


@pytest.mark.parametrize(
    ("path", "old", "text", "complaint"),
    [
        ("data/pyproject.toml", '"0.1.0"', '"0.2.0"', "version 0.2.0"),
        ("data/pyproject.toml", "weft-core == 0.1.*", "weft-core", "lack"),
        ("data/CHANGELOG.md", "0.1.0", "0.0.9", "CHANGELOG"),
        ("data/LICENSE", "licence", "another", "LICENSE"),
        ("core/src/weft/__init__.py", "0.1.0", "0.1.1", "0.1.1, not 0.1.0"),
    ],
)
def test_disagreement_is_told(
    path: str, old: str, text: str, complaint: str, repository: Path
) -> None:
    file = repository / "packages" / path
    file.write_text(file.read_text().replace(old, text))
    (problem,) = release.problems(repository)
    assert complaint in problem


def test_set_version_reaches_every_place_but_the_changelogs(repository: Path) -> None:
    release.set_version("0.2.0", repository)
    assert [problem.split(":")[1] for problem in release.problems(repository)] == [
        " CHANGELOG.md has no heading '## 0.2.0'",
        " CHANGELOG.md has no heading '## 0.2.0'",
    ]


@pytest.mark.parametrize("arguments", [["0.2"], ["v0.2.0"], ["0.2.0", "0.3.0"]])
def test_what_is_no_version_is_refused(
    arguments: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    assert release.main(arguments) == 2
    assert "such as 0.2.0" in capsys.readouterr().out
