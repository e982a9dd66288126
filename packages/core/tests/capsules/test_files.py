"""Capsules as files: how large they get, what they tell, and files that are none."""

from __future__ import annotations

import json
import os
import zipfile
from typing import TYPE_CHECKING, Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from weft._capsules.reading import Capsule, CapsuleError
from weft._capsules.records import FORMAT, Died, Manifest
from weft._capsules.writing import Attempt, Directory, Packed
from weft._serialize.pickling import dumps, dumps_call, unpack

if TYPE_CHECKING:
    from pathlib import Path

LIMIT = 100_000
KEY = b"k" * 16


def attempt(**facts: Any) -> Attempt:
    given: dict[str, Any] = {
        "kind": "task",
        "name": "f",
        "function": "f",
        "task_id": bytes(range(16)),
        "number": 1,
        "pid": 1,
        "code": b"\x80code",
        "call": Packed(),
        "variables": {"API_TOKEN": "hunter2hunter2"},
    }
    return Attempt(**(given | facts))


def directory(path: Path, **limits: int) -> Directory:
    limits = {"most_bytes": LIMIT, "kept": 3} | limits
    return Directory(str(path), **limits, placeholder=lambda index: ["piece", index])


def leave(path: Path, **facts: Any) -> Capsule:
    place = directory(path)
    assert not place.is_full()
    return Capsule(str(place.leave(attempt(**facts), os.getpid(), lambda _id: None)))


# ------------------------------------------------------------------ writing


def test_what_is_written_is_read(tmp_path: Path) -> None:
    died = Died(words="it died", exit_code=-9)
    packed = dumps_call((1,), {"x": [2]}).pack()
    with leave(tmp_path / "a" / "b", call=Packed(packed), died=died, log="last words") as capsule:
        manifest = capsule.manifest
        assert (manifest.format, manifest.name, manifest.died) == (FORMAT, "f", died)
        assert capsule.text("log.txt") == "last words"
        assert capsule.text("traceback.txt") == "it died\n"
        assert capsule.text("source.py") == ""
        assert manifest.call.packed is not None
        assert unpack(capsule.packed(manifest.call.packed)) == ((1,), {"x": [2]})
        assert capsule.packed(manifest.code) == b"\x80code"


def test_secrets_are_in_no_text(tmp_path: Path) -> None:
    error = ValueError("with hunter2hunter2")
    with leave(tmp_path, error=error, log="hunter2hunter2") as capsule:
        assert capsule.manifest.raised is not None
        assert capsule.manifest.raised.message == "with [redacted]"
        texts = [capsule.text(name) for name in ("manifest.json", "traceback.txt", "log.txt")]
    assert not any("hunter2hunter2" in text for text in texts)


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], max_examples=30)
@given(
    code=st.integers(10, 2 * LIMIT),
    args=st.lists(st.integers(0, 2 * LIMIT), max_size=5),
    deps=st.lists(st.integers(0, 2 * LIMIT), max_size=5),
    log=st.integers(0, 2 * LIMIT),
)
def test_capsule_is_never_larger_than_its_limit(
    tmp_path: Path, code: int, args: list[int], deps: list[int], log: int
) -> None:
    values = [bytes([index]) * size for index, size in enumerate(args)]
    referred = [b"y" * size for size in deps]
    packed = Packed(
        dumps_call(tuple(values), {}).pack() if values else b"",
        [dumps(value).pack() for value in referred],
    )
    place = directory(tmp_path)
    path = place.leave(
        attempt(code=b"\x80" + b"c" * code, call=packed, log="z" * log),
        os.getpid(),
        lambda _id: None,
    )
    assert path.stat().st_size <= LIMIT
    with Capsule(str(path)) as capsule:
        given_ = capsule.manifest.call
        kept = [piece for piece in given_.pieces if piece.file]
        left_out = [piece for piece in given_.pieces if not piece.file]
        if kept and left_out:
            assert max(p.size_bytes for p in kept) <= min(p.size_bytes for p in left_out)
        if given_.packed is not None and given_.packed.file:
            made, _ = unpack(capsule.packed(given_.packed))
            for value, here in zip(values, made, strict=True):
                if isinstance(here, list):
                    piece = given_.pieces[here[1]]
                    assert not piece.file or unpack(capsule.packed(piece)) == value
                else:
                    assert here == value


def test_values_of_references_inside_are_kept_and_those_inside_them(tmp_path: Path) -> None:
    class Reference:
        def __init__(self, object_id: bytes) -> None:
            self.object_id = object_id

        def __reduce__(self) -> Any:
            from weft._serialize.refs import rebuild_ref  # noqa: PLC0415

            return rebuild_ref, (self.object_id, "owner")

    values = {
        KEY: dumps([Reference(b"o" * 16), Reference(KEY)]).pack(),
        b"o" * 16: dumps("deeper").pack(),
        b"n" * 16: None,
    }
    packed = dumps_call(([Reference(KEY), Reference(b"n" * 16)],), {}).pack()
    place = directory(tmp_path)
    path = place.leave(attempt(call=Packed(packed)), os.getpid(), values.get)
    with Capsule(str(path)) as capsule:
        references = capsule.manifest.references
        assert references.keys() == {KEY.hex(), (b"o" * 16).hex()}
        assert unpack(capsule.packed(references[(b"o" * 16).hex()])) == "deeper"


def test_argument_that_is_gone_is_said_to_be_left_out(tmp_path: Path) -> None:
    packed = Packed(dumps_call((["piece", 0],), {}).pack(), [None])
    with leave(tmp_path, call=packed, constructor=Packed(None)) as capsule:
        assert [piece.file for piece in capsule.manifest.call.pieces] == [""]
        constructor = capsule.manifest.constructor
        assert constructor is not None
        assert constructor.packed is not None
        assert constructor.packed.file == ""


def test_end_of_a_long_text_is_kept(tmp_path: Path) -> None:
    with leave(tmp_path, log="ä" * LIMIT + "the end") as capsule:
        assert capsule.text("log.txt").endswith("ä" * 100 + "the end")
    with leave(tmp_path, log="\ud800 alone") as capsule:
        assert capsule.text("log.txt") == "\\ud800 alone"


def test_directory_is_full_with_so_many(tmp_path: Path) -> None:
    place = directory(tmp_path)
    for number in range(3):
        assert not place.is_full()
        place.leave(attempt(number=number), os.getpid(), lambda _id: None)
    (tmp_path / "notes.txt").write_text("not a capsule")
    assert place.is_full()


def test_nothing_is_left_of_a_capsule_that_cannot_be_written(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*_: object) -> None:
        raise OSError("no space left")

    monkeypatch.setattr("pathlib.Path.rename", fail)
    with pytest.raises(OSError, match="no space left"):
        directory(tmp_path).leave(attempt(), os.getpid(), lambda _id: None)
    assert list(tmp_path.iterdir()) == []


def test_name_of_a_file_is_harmless(tmp_path: Path) -> None:
    with leave(tmp_path, name="../../<lambda> of\n" + "x" * 300) as capsule:
        assert capsule.path.parent == tmp_path
        assert len(capsule.path.name) < 120
        assert capsule.path.name.startswith(".._.._lambda_of_xxx")


# ------------------------------------------------------------------ files that are none


@pytest.fixture
def good(tmp_path: Path) -> Path:
    with leave(tmp_path, log="last words") as capsule:
        return capsule.path


def rewritten(good: Path, manifest: bytes | None) -> str:
    """The capsule with another manifest."""
    path = good.with_name("rewritten.zip")
    with zipfile.ZipFile(good) as source, zipfile.ZipFile(path, "w") as target:
        for name in source.namelist():
            if name != "manifest.json":
                target.writestr(name, source.read(name))
        if manifest is not None:
            target.writestr("manifest.json", manifest)
    return str(path)


def refused(path: str) -> str:
    with pytest.raises(CapsuleError) as caught:
        Capsule(path)
    assert "\n" not in str(caught.value)
    return str(caught.value)


def test_file_that_is_not_there(tmp_path: Path) -> None:
    assert "No such file" in refused(str(tmp_path / "nothing"))
    assert "Is a directory" in refused(str(tmp_path))


def test_file_that_is_no_zip(tmp_path: Path) -> None:
    (tmp_path / "text").write_text("hello")
    assert "is no capsule" in refused(str(tmp_path / "text"))
    (tmp_path / "empty").touch()
    assert "is no capsule" in refused(str(tmp_path / "empty"))


def test_capsule_that_was_cut_short_anywhere(good: Path) -> None:
    whole = good.read_bytes()
    for size in range(4, len(whole), 97):
        good.write_bytes(whole[:size])
        assert "cut short" in refused(str(good))


def test_capsule_with_a_flipped_byte_is_damaged_or_the_same(good: Path) -> None:
    whole = good.read_bytes()
    with Capsule(str(good)) as capsule:
        before: Manifest = capsule.manifest
    for position in range(0, len(whole), 13):
        damaged = bytearray(whole)
        damaged[position] ^= 0xFF
        good.write_bytes(damaged)
        try:
            with Capsule(str(good)) as capsule:
                manifest = capsule.manifest
                log = capsule.text("log.txt")
        except CapsuleError:
            continue
        assert (manifest, log) in [(before, "last words"), (before, "")]


def test_zip_without_a_manifest(good: Path) -> None:
    assert "without manifest.json" in refused(rewritten(good, None))


@pytest.mark.parametrize(
    "manifest", [b"", b"{", b"[]", b'{"format": 1}', b'{"format": "one"}', b"\xff\xfe"]
)
def test_manifest_that_says_nothing(good: Path, manifest: bytes) -> None:
    assert "is no capsule" in refused(rewritten(good, manifest))


def test_newer_format(good: Path) -> None:
    newer = json.dumps({"format": FORMAT + 1, "everything": "else"}).encode()
    assert "install a newer weft-core" in refused(rewritten(good, newer))


def test_manifest_that_unpacks_to_much(good: Path) -> None:
    path = rewritten(good, None)
    with zipfile.ZipFile(path, "a", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("manifest.json", b" " * (17 << 20))
    assert "is no capsule" in refused(path)


def test_member_that_is_missing(good: Path) -> None:
    with (
        Capsule(str(good)) as capsule,
        pytest.raises(CapsuleError, match=r"code-9\.pkl is missing"),
    ):
        capsule.member("code-9.pkl")
