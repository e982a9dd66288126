from __future__ import annotations

from pathlib import Path

import pytest

from weft._store.opens import Opens, opens_counter

A, B = b"a", b"b"


@pytest.fixture(autouse=True)
def processor_that_orders(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("weft._store.opens.IS_ORDERED", True)


def test_all_openings_are_told_when_every_process_has_told_of_as_many_as_it_began(
    tmp_path: Path,
) -> None:
    opens = Opens(tmp_path)
    counters = [opens_counter(tmp_path, opens.met(client)) for client in (A, B)]
    assert opens.are_all_told()
    counters[0].value += 1
    assert not opens.are_all_told()
    opens.told(B, 1)
    counters[1].value += 2
    opens.told(A, 1)
    assert not opens.are_all_told()
    # It has found no file.
    counters[1].value -= 1
    assert opens.are_all_told()


def test_slot_of_a_process_that_has_ended_begins_anew_for_the_next(tmp_path: Path) -> None:
    opens = Opens(tmp_path)
    slots = [opens.met(A), opens.met(B)]
    assert slots[0] != slots[1]
    opens_counter(tmp_path, slots[0]).value += 3
    assert not opens.are_all_told()
    opens.lost(A)
    opens.lost(A)
    assert opens.are_all_told()
    assert opens.met(b"c") == slots[0]
    assert opens_counter(tmp_path, slots[0]).value == 0
    assert opens.met(b"d") not in slots


def test_file_of_the_numbers_takes_no_descriptor_and_little_memory(tmp_path: Path) -> None:
    before = len(list(Path("/proc/self/fd").iterdir()))
    opens = Opens(tmp_path)
    counter = opens_counter(tmp_path, opens.met(A))
    counter.value += 1
    assert len(list(Path("/proc/self/fd").iterdir())) == before
    (file,) = tmp_path.iterdir()
    assert file.stat().st_blocks * 512 <= 16384
    assert file.stat().st_mode & 0o777 == 0o600


def test_without_the_file_nothing_is_counted(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError):
        opens_counter(tmp_path, 0)


def test_processor_that_orders_less_fills_no_file_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    opens = Opens(tmp_path)
    opens.met(A)
    assert opens.are_all_told()
    monkeypatch.setattr("weft._store.opens.IS_ORDERED", False)
    assert not opens.are_all_told()
