"""The part of an environment that says of which job a task is."""

from __future__ import annotations

from weft._env.jobs import JobEnvironment, job_in, with_job, without_job
from weft._env.spec import encode

JOB = JobEnvironment(id="ab", namespace="mine", sys_path=("/a", "/b"))


def test_environment_has_the_job_that_it_was_given() -> None:
    for env in ("", encode({"env_vars": {"A": "1"}})):
        assert job_in(with_job(env, JOB)) == JOB
        assert without_job(with_job(env, JOB)) == env


def test_environment_without_a_job_has_none() -> None:
    for env in ("", encode({"env_vars": {"job": "1"}}), encode({"env_vars": {'"job":': "1"}})):
        assert job_in(env) is None
        assert without_job(env) == env


def test_equal_jobs_make_equal_environments() -> None:
    fields = {"pip": ["x"], "env_vars": {"A": "1"}}
    assert with_job(encode(fields), JOB) == encode({**fields, "job": {
        "id": "ab", "namespace": "mine", "sys_path": ["/a", "/b"]
    }})  # fmt: skip
