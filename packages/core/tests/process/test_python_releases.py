"""Tasks and actors that come from a process of another minor release of Python."""

from __future__ import annotations

import operator
from typing import TYPE_CHECKING

import pytest

import weft
from weft._serialize import pickling
from weft.exceptions import OtherPythonError

if TYPE_CHECKING:
    from collections.abc import Iterator

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def session() -> Iterator[None]:
    weft.init(num_cpus=2, log_to_driver=False)
    yield
    weft.shutdown()


@pytest.fixture
def elsewhere(session: None, monkeypatch: pytest.MonkeyPatch) -> None:
    """This driver is of another release than its workers."""
    monkeypatch.setattr(pickling, "PYTHON", "3.99")


@pytest.mark.usefixtures("elsewhere")
def test_task_by_value_fails_with_both_releases_and_what_to_do() -> None:
    def square(side: int) -> int:
        return side * side

    ref = weft.remote(square).remote(3)
    with pytest.raises(OtherPythonError, match=r"square comes by value from Python 3\.99.*module"):
        weft.get(ref)


@pytest.mark.usefixtures("elsewhere")
def test_actor_by_value_dies_of_it() -> None:
    class Counter:
        def count(self) -> int:
            return 1

    counter = weft.remote(Counter).remote()
    with pytest.raises(weft.exceptions.ActorDiedError, match=r"from Python 3\.99"):
        weft.get(counter.count.remote())


@pytest.mark.usefixtures("elsewhere")
def test_what_has_a_name_and_data_cross() -> None:
    total = weft.remote(operator.add)
    held = weft.put({"sides": [1, 2]})
    assert weft.get(total.remote(2, 3)) == 5
    assert weft.get(weft.remote(operator.getitem).remote(held, "sides")) == [1, 2]
