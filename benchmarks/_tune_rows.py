"""The rows of tune's benchmark: what is measured, by which program, against which target."""

from __future__ import annotations

from _rows import Comparison, Floor, Row

FLOORS = {
    "joblib": Floor("optuna, joblib", "_floors_tune", "joblib_trials"),
    "joblib_1000": Floor("optuna, joblib", "_floors_tune", "joblib_thousand"),
    "optuna_memory": Floor("optuna's study", "_floors_tune", "optuna_memory"),
    "threads": Floor("joblib's threads", "_floors_tune", "joblib_sleeping"),
    "optuna_tpe": Floor("optuna", "_floors_tune", "optuna_suggestion"),
    "json": Floor("parse as much JSON", "_floors_tune", "parse_journal"),
}

PROGRAMS = "_tune_programs"

ROWS = (
    Row("fifo", "trial of 5 reports, FIFO", "s", 0.01, ("joblib",), PROGRAMS),
    Row("asha", "trial of 5 reports, ASHA", "s", 0.01, ("joblib",), PROGRAMS),
    Row("trivial", "1,000 trivial trials", "s", 5, ("joblib_1000",), PROGRAMS),
    Row("memory_per_trial", "driver's memory, a finished trial", "kB", 2, ("optuna_memory",),
        PROGRAMS),
    Row("sleeping", "use of 32 slots by trials of 1 s", "%", 95, ("threads",), PROGRAMS, cpus=32),
    Row("suggestion", "TPE suggestion after 10,000 trials", "s", 0.005, ("optuna_tpe",), PROGRAMS,
        0),
    Row("restored", "10,000 finished trials restored", "s", 2, ("json",), PROGRAMS),
)  # fmt: skip

COMPARISONS = (
    Comparison("branin", "Branin", "_tune_quality"),
    Comparison("hartmann6", "Hartmann6", "_tune_quality"),
    Comparison("digits", "networks on digits, recorded", "_tune_quality"),
)
