"""The programs of tune's benchmark: the same for Weft and for Ray.

Each gets the module, weft or ray, in a session that has just begun, and returns one number. Times
are those of `Tuner.fit` as a whole, with what it has to start.
"""

from __future__ import annotations

import gc
import os
import time
from importlib import import_module
from random import Random
from statistics import median
from time import perf_counter
from typing import TYPE_CHECKING, Any

from _memory import shared_out_bytes
from _tune_problems import BRANIN
from _tune_searchers import opened

if TYPE_CHECKING:
    from _timing import Rate

TRIALS = 40
REPORTS = 5
THOUSAND = 1000
MANY = 10_000
SLEEPERS = 320
SLOTS = 32
SUGGESTIONS = 100


def fifo(ray: Any, _: Rate) -> float:
    """Seconds a trial of 5 reports."""
    return seconds_of(ray, reporting(ray), TRIALS) / TRIALS


def asha(ray: Any, _: Rate) -> float:
    """Seconds a trial of at most 5 reports, where ASHA decides at each."""
    schedulers = import_module(f"{ray.__name__}.tune.schedulers")
    scheduler = schedulers.ASHAScheduler(max_t=REPORTS, grace_period=1, reduction_factor=2)
    return seconds_of(ray, reporting(ray), TRIALS, scheduler=scheduler) / TRIALS


def trivial(ray: Any, _: Rate) -> float:
    """Seconds for 1,000 trials that return at once."""
    refuse(ray, THOUSAND)
    return seconds_of(ray, returning, THOUSAND)


def memory_per_trial(ray: Any, _: Rate) -> float:
    """Kilobytes (1,000 bytes) by which the driver grows with each of 10,000 trials."""
    refuse(ray, MANY)
    tune = import_module(f"{ray.__name__}.tune")
    taken: list[int] = []

    class Scales(tune.Callback):  # type: ignore[misc,name-defined]
        """Weighs the driver after the first 1,000 trials, and after 10,000 more."""

        def __init__(self) -> None:
            self.ended = 0

        def on_trial_complete(self, *_: object, **__: object) -> None:
            self.ended += 1
            if self.ended in {THOUSAND, THOUSAND + MANY}:
                gc.collect()
                taken.append(shared_out_bytes(os.getpid()))

    tuner = tuner_of(ray, returning, THOUSAND + MANY, callbacks=[Scales()])
    results = tuner.fit()
    assert len(results) == THOUSAND + MANY
    before, after = taken
    return (after - before) / MANY / 1000


def sleeping(ray: Any, _: Rate) -> float:
    """Percent of the time of 32 slots in which trials of a second run."""
    return 100 * SLEEPERS / SLOTS / seconds_of(ray, dozing, SLEEPERS)


def suggestion(system: str) -> float:
    """Seconds for a suggestion by TPE that knows 10,000 trials."""
    searcher = opened(system, BRANIN.space, seed=0)
    draws = Random(0)
    for _ in range(MANY):
        config = {"x": draws.uniform(-5, 10), "y": draws.uniform(0, 15)}
        searcher.learn(config, BRANIN.loss(config))
    took_s = []
    for _ in range(SUGGESTIONS):
        begin = perf_counter()
        config = searcher.ask()
        took_s.append(perf_counter() - begin)
        searcher.tell(BRANIN.loss(config))
    return median(took_s)


def restored(ray: Any, _: Rate) -> float:
    """Seconds until an experiment of 10,000 finished trials is there again, ready to go on."""
    refuse(ray, MANY)
    tune = import_module(f"{ray.__name__}.tune")
    path = tuner_of(ray, returning, MANY).fit().experiment_path
    gc.collect()
    begin = perf_counter()
    results = tune.Tuner.restore(path, returning).fit()
    took_s = perf_counter() - begin
    assert len(results) == results.num_terminated == MANY
    return took_s


# ------------------------------------------------------------------ what they are made of


def returning(config: dict[str, Any]) -> dict[str, Any]:
    return {"loss": config["x"]}


def dozing(config: dict[str, Any]) -> dict[str, Any]:
    time.sleep(1)
    return {"loss": config["x"]}


def reporting(ray: Any) -> Any:
    """Return a trainable that reports five times."""
    report = import_module(f"{ray.__name__}.tune").report

    def train(config: dict[str, Any]) -> None:
        for step in range(1, REPORTS + 1):
            report({"loss": config["x"] / step})

    return train


def tuner_of(
    ray: Any, trainable: Any, trials: int, *, scheduler: Any = None, callbacks: Any = None
) -> Any:
    tune = import_module(f"{ray.__name__}.tune")
    return tune.Tuner(
        trainable,
        param_space={"x": tune.uniform(0, 1)},
        tune_config=tune.TuneConfig(
            metric="loss", mode="min", num_samples=trials, scheduler=scheduler
        ),
        run_config=tune.RunConfig(
            name="measured", storage_path=storage(), verbose=0, callbacks=callbacks
        ),
    )


def seconds_of(ray: Any, trainable: Any, trials: int, *, scheduler: Any = None) -> float:
    tuner = tuner_of(ray, trainable, trials, scheduler=scheduler)
    begin = perf_counter()
    results = tuner.fit()
    took_s = perf_counter() - begin
    assert len(results) == results.num_terminated == trials
    return took_s


def storage() -> str:
    """Return the folder that _rounds.measure makes for the measurement, and removes."""
    return os.environ["RAY_TMPDIR"]


def refuse(ray: Any, trials: int) -> None:
    if ray.__name__ == "ray":
        raise RuntimeError(f"{trials:,} trials take Ray longer than a row may: see the first rows")
