from __future__ import annotations

import os
import random
import subprocess
import sys
from typing import TYPE_CHECKING

import msgspec
import numpy as np

from weft._capsules import facts
from weft._capsules.secrets import Redaction

if TYPE_CHECKING:
    import pytest

NOTHING_SECRET = Redaction({})


def test_random_generators_go_back_to_where_they_were() -> None:
    random.gauss(0, 1)
    np.random.normal()
    states = facts.random_states()
    drawn = random.random(), random.gauss(0, 1), np.random.normal(), np.random.random()
    facts.set_random_states(states)
    again = random.random(), random.gauss(0, 1), np.random.normal(), np.random.random()
    assert again == drawn


def test_generator_that_fails_is_left_out(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delitem(sys.modules, "torch", raising=False)
    monkeypatch.delattr(np.random, "get_state")
    assert list(facts.random_states()) == ["random"]


def test_versions_are_of_imported_packages() -> None:
    versions = facts.versions()
    assert versions["numpy"] == np.__version__
    assert versions["msgspec"] == msgspec.__version__
    assert {"os", "sys", "weft._ids"}.isdisjoint(versions)
    assert list(versions) == sorted(versions)


def test_package_without_a_version_is_not_listed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "of_the_program", type(sys)("of_the_program"))
    assert "of_the_program" not in facts.versions()


def test_variables_are_compared_with_the_drivers_start() -> None:
    start = {"KEPT": "1", "CHANGED": "old", "GONE": "x", "API_KEY": "secret", "PATH": "/bin"}
    driver = subprocess.Popen(
        ["/bin/cat"], env=start, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    )
    assert driver.stdin is not None
    assert driver.stdout is not None
    with driver:
        driver.stdin.write("started\n")
        driver.stdin.flush()
        driver.stdout.readline()
        here = {"KEPT": "1", "CHANGED": "new", "ADDED": "2", "API_KEY": "other", "NEW_TOKEN": "t"}
        here |= {"PATH": "/bin", "WEFT_CAPSULES": "x", "PWD": "/"}
        found = facts.variables(driver.pid, here, NOTHING_SECRET)
    assert found.compared_with == "the driver's start"
    assert found.set == {"ADDED": "2", "CHANGED": "new"}
    assert found.redacted == ["API_KEY", "NEW_TOKEN"]
    assert found.unset == ["GONE"]
    assert found.same.keys() == {"KEPT", "PATH"}
    assert found.same["KEPT"] == facts.digest_of("KEPT", "1") != facts.digest_of("KEPT", "2")


def test_variables_are_compared_with_this_processs_start_if_the_driver_is_gone() -> None:
    gone = subprocess.Popen(["/bin/true"])
    gone.wait()
    found = facts.variables(gone.pid, dict(os.environ), NOTHING_SECRET)
    assert found.compared_with == "this process's start"
    assert facts.command_of(gone.pid) == []


def test_unchanged_secret_is_listed_without_a_trace_of_its_value() -> None:
    start = facts.started_with(os.getpid()) or {}
    name, value = next((name, value) for name, value in start.items() if name.startswith("P"))
    assert facts.digest_of(name, value)
    assert facts.digest_of("API_KEY", value) == ""


def test_command_of_this_process_is_known() -> None:
    assert facts.command_of(os.getpid()) == sys.orig_argv
