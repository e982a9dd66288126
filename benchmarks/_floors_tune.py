"""What tuning costs without a framework: plain optuna with joblib, and less."""

from __future__ import annotations

import gc
import json
import os
import time
from statistics import median
from time import perf_counter
from typing import TYPE_CHECKING

import joblib
import optuna
from _memory import shared_out_bytes
from _tune_problems import BRANIN
from _tune_programs import MANY, REPORTS, SLEEPERS, SLOTS, SUGGESTIONS, THOUSAND, TRIALS

if TYPE_CHECKING:
    from _timing import Rate

PROCESSES = 2
SPACE: dict[str, optuna.distributions.BaseDistribution] = {
    "x": optuna.distributions.FloatDistribution(0, 1)
}
optuna.logging.set_verbosity(optuna.logging.WARNING)


def last_of_five(x: float) -> float:
    return [x / step for step in range(1, REPORTS + 1)][-1]


def seconds_of(trials: int) -> float:
    """Return the seconds for so many trials that a study suggests at random and processes run."""
    begin = perf_counter()
    study = optuna.create_study(sampler=optuna.samplers.RandomSampler(seed=0))
    asked = [study.ask(SPACE) for _ in range(trials)]
    work = (joblib.delayed(last_of_five)(trial.params["x"]) for trial in asked)
    losses = joblib.Parallel(n_jobs=PROCESSES)(work)
    for trial, loss in zip(asked, losses, strict=True):
        study.tell(trial, loss)
    took_s = perf_counter() - begin
    assert len(study.trials) == trials
    return took_s


def joblib_trials(_: Rate) -> float:
    """Seconds a trial, of 40."""
    return seconds_of(TRIALS) / TRIALS


def joblib_thousand(_: Rate) -> float:
    """Seconds for 1,000 trials."""
    return seconds_of(THOUSAND)


def joblib_sleeping(_: Rate) -> float:
    """Percent of the time of 32 threads that are asleep for 320 seconds."""
    begin = perf_counter()
    naps = (joblib.delayed(time.sleep)(1) for _ in range(SLEEPERS))
    joblib.Parallel(n_jobs=SLOTS, prefer="threads")(naps)
    return 100 * SLEEPERS / SLOTS / (perf_counter() - begin)


def random_trial(study: optuna.Study, number: int) -> optuna.trial.FrozenTrial:
    """Return a finished trial of the Branin function."""
    config = {"x": (number * 0.618 % 1) * 15 - 5, "y": (number * 0.414 % 1) * 15}
    distributions: dict[str, optuna.distributions.BaseDistribution] = {
        "x": optuna.distributions.FloatDistribution(-5, 10),
        "y": optuna.distributions.FloatDistribution(0, 15),
    }
    return optuna.trial.create_trial(
        params=config, distributions=distributions, value=BRANIN.loss(config)
    )


def filled_study(sampler: optuna.samplers.BaseSampler) -> optuna.Study:
    study = optuna.create_study(sampler=sampler)
    study.add_trials([random_trial(study, number) for number in range(MANY)])
    return study


def optuna_memory(_: Rate) -> float:
    """Kilobytes (1,000 bytes) by which a process grows with a trial of a study in memory."""
    study = optuna.create_study(sampler=optuna.samplers.RandomSampler(seed=0))
    sizes = []
    for count in (THOUSAND, MANY):
        for _ in range(count):
            trial = study.ask(SPACE)
            study.tell(trial, trial.params["x"])
        gc.collect()
        sizes.append(shared_out_bytes(os.getpid()))
    return (sizes[1] - sizes[0]) / MANY / 1000


def optuna_suggestion(_: Rate) -> float:
    """Seconds for a suggestion of a plain study that knows 10,000 trials."""
    study = filled_study(optuna.samplers.TPESampler(seed=0))
    took_s = []
    for _ in range(SUGGESTIONS):
        begin = perf_counter()
        trial = study.ask(
            {
                "x": optuna.distributions.FloatDistribution(-5, 10),
                "y": optuna.distributions.FloatDistribution(0, 15),
            }
        )
        took_s.append(perf_counter() - begin)
        study.tell(trial, BRANIN.loss(trial.params))
    return median(took_s)


def parse_journal(_: Rate) -> float:
    """Seconds to parse three lines for each of 10,000 trials."""
    line = json.dumps({"trial_id": "abcde_00001", "config": {"x": 0.5}, "result": {"loss": 0.5}})
    lines = [line] * (3 * MANY)
    begin = perf_counter()
    parsed = [json.loads(line) for line in lines]
    took_s = perf_counter() - begin
    assert len(parsed) == 3 * MANY
    return took_s
