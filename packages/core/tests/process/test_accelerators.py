"""What tasks and actors see of a node's accelerators. The devices are made up by their number."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING, Any

import pytest

import weft

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

pytestmark = pytest.mark.slow

CUDA, TPU = "CUDA_VISIBLE_DEVICES", "TPU_VISIBLE_CHIPS"


@pytest.fixture
def start(monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[..., None]]:
    monkeypatch.delenv(CUDA, raising=False)
    monkeypatch.delenv(TPU, raising=False)

    def start(**options: Any) -> None:
        weft.init(num_cpus=4, log_to_driver=False, **options)

    yield start
    weft.shutdown()


@weft.remote
def seen() -> tuple[str | None, str | None, dict[str, list[str]]]:
    ids = weft.get_runtime_context().get_accelerator_ids()
    return os.environ.get(CUDA), os.environ.get(TPU), {name: ids[name] for name in ("GPU", "TPU")}


@weft.remote
class Seer:
    def see(self) -> tuple[str | None, str | None, dict[str, list[str]]]:
        ids = weft.get_runtime_context().get_accelerator_ids()
        return os.environ.get(CUDA), os.environ.get(TPU), {n: ids[n] for n in ("GPU", "TPU")}


def test_tasks_see_the_devices_that_they_hold_and_no_others(start: Callable[..., None]) -> None:
    start(num_gpus=2, resources={"TPU": 4})
    assert weft.cluster_resources()["TPU"] == 4
    assert weft.get(seen.remote()) == ("", "", {"GPU": [], "TPU": []})
    one = weft.get(seen.options(num_gpus=1).remote())
    assert one == (one[2]["GPU"][0], "", {"GPU": one[2]["GPU"], "TPU": []})
    both = weft.get(seen.options(num_gpus=0.5, resources={"TPU": 2}).remote())
    assert both == (
        both[2]["GPU"][0],
        ",".join(both[2]["TPU"]),
        {"GPU": both[2]["GPU"], "TPU": both[2]["TPU"]},
    )
    assert len(both[2]["TPU"]) == 2
    assert weft.get(seen.remote()) == ("", "", {"GPU": [], "TPU": []})


def test_actors_hold_theirs_at_the_same_time_and_fractions_share_one(
    start: Callable[..., None],
) -> None:
    start(num_gpus=2)
    whole = Seer.options(num_gpus=1).remote()
    halves = [Seer.options(num_gpus=0.5).remote() for _ in range(2)]
    none = Seer.remote()
    first, second, third, last = weft.get([seer.see.remote() for seer in (whole, *halves, none)])
    assert second == third
    assert {first[0], second[0]} == {"0", "1"}
    assert last == ("", None, {"GPU": [], "TPU": []})


def test_devices_that_the_users_variable_names_are_those_handed_out(
    start: Callable[..., None], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(CUDA, "5,GPU-3")
    start(num_gpus=2)
    pair = weft.get(seen.options(num_gpus=2).remote())
    assert pair == ("5,GPU-3", None, {"GPU": ["5", "GPU-3"], "TPU": []})


def test_variable_of_the_runtime_environment_stays_as_it_is(start: Callable[..., None]) -> None:
    start(num_gpus=1)
    own = {"env_vars": {CUDA: "3"}}
    assert weft.get(seen.options(runtime_env=own).remote())[0] == "3"
    held = weft.get(seen.options(runtime_env=own, num_gpus=1).remote())
    assert held == ("3", None, {"GPU": ["0"], "TPU": []})
    seer = Seer.options(runtime_env=own, num_gpus=1).remote()
    assert weft.get(seer.see.remote())[0] == "3"


def test_more_than_one_device_is_held_whole(start: Callable[..., None]) -> None:
    start()
    with pytest.raises(weft.exceptions.OptionError, match="a fraction of one TPU or a whole"):
        seen.options(resources={"TPU": 1.5})
