from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from weft._env.requirements import RequirementsError, local_paths, pip_field

if TYPE_CHECKING:
    from pathlib import Path


def packages(value: object) -> list[str]:
    field = pip_field(value)
    assert field is not None
    return field["packages"]


def test_requirements_file_is_read_with_what_it_includes(tmp_path: Path) -> None:
    (tmp_path / "more").mkdir()
    (tmp_path / "more" / "other.txt").write_text("c\n./local\n")
    (tmp_path / "all.txt").write_text(
        "# a comment\na==1 # why\n\n-r more/other.txt\n--requirement=more/other.txt\nb \\\n  >= 2\n"
        "-c limits.txt\n-e .[extra]\n--index-url https://example.com/simple\nd#e\n"
    )
    twice = ["c", str(tmp_path / "more" / "local")] * 2
    assert packages(tmp_path / "all.txt") == [
        "a==1", *twice, "b   >= 2", f"-c {tmp_path / 'limits.txt'}", f"{tmp_path}[extra]",
        "--index-url https://example.com/simple", "d#e",
    ]  # fmt: skip


def test_file_that_includes_itself_is_refused(tmp_path: Path) -> None:
    (tmp_path / "a.txt").write_text("-r b.txt")
    (tmp_path / "b.txt").write_text("-r a.txt")
    with pytest.raises(RequirementsError, match="includes itself"):
        pip_field({"packages": str(tmp_path / "a.txt")})


def test_local_paths_are_absolute_and_found_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    lines = packages([
        "./one", "two-1.0-py3-none-any.whl", "sub/three.tar.gz", "-e git+https://x/y",
        "four @ file:///abs/four.whl", "five @ https://x/five.whl", "/abs/six[all]",
    ])  # fmt: skip
    assert lines == [
        f"{tmp_path}/one", "two-1.0-py3-none-any.whl", f"{tmp_path}/sub/three.tar.gz",
        "git+https://x/y", "four @ file:///abs/four.whl", "five @ https://x/five.whl",
        "/abs/six[all]",
    ]  # fmt: skip
    assert local_paths([*lines, "-c /abs/limits.txt"]) == [
        f"{tmp_path}/one", f"{tmp_path}/sub/three.tar.gz", "/abs/four.whl", "/abs/six",
        "/abs/limits.txt",
    ]  # fmt: skip


def test_no_packages_are_no_field() -> None:
    assert pip_field([]) is None
    assert pip_field({"packages": ["", " "]}) is None
