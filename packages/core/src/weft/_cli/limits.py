"""`weft limit-job`: set what a job may take."""

from __future__ import annotations

from typing import Any

import click
import msgspec

from weft._cli.amounts import amounts
from weft._cli.asking import session_options, telling_refusals
from weft._cli.out import plain, say
from weft._options import job_limits
from weft.exceptions import OptionError
from weft.util.state._listing import Session
from weft.util.state._sources import ask


@click.command("limit-job")
@click.argument("job", metavar="JOB")
@click.option(
    "--quota",
    type=amounts,
    metavar="AMOUNTS",
    help="The most of each resource at one time on all nodes, like CPU=4,GPU=1; others are not "
    "limited.",
)
@click.option("--no-quota", is_flag=True, help="As much as there is.")
@click.option("--weight", type=int, help="Its share where several jobs wait, beside theirs.")
@click.option("--priority", type=int, help="Where jobs wait, the one of the highest goes first.")
@session_options
def limit_job(
    job: str,
    *,
    quota: dict[str, float] | None,
    no_quota: bool,
    weight: int | None,
    priority: int | None,
    address: str | None,
    timeout: float,
) -> None:
    """Set what a job may take: quota, weight and priority.

    What is not given stays as it is. JOB is its id, or the beginning of that; `weft list jobs`
    shows both, and the limits.
    """
    if no_quota and quota is not None:
        raise click.UsageError("--quota and --no-quota: give one of them")
    given = {"quota": {} if no_quota else quota, "weight": weight, "priority": priority}
    given = {name: value for name, value in given.items() if value is not None}
    if not given:
        raise click.UsageError("say what: --quota, --no-quota, --weight or --priority")
    try:
        limits = msgspec.structs.asdict(job_limits(given, "weft limit-job"))
    except OptionError as error:
        raise click.UsageError(plain(str(error))) from None
    with telling_refusals():
        job_id = _job(Session(address, timeout), job)
        body: dict[str, Any] = {"job_id": job_id, **{name: limits[name] for name in given}}
        ask("limit_job", body, address=address, timeout=timeout)
    say(f"job {job_id} is limited so from now on; see `weft list jobs`")


def _job(session: Session, job: str) -> str:
    known = [each.job_id for each in session.jobs()]
    found = [each for each in known if each.startswith(job)]
    if len(found) != 1:
        what = "several jobs are" if found else "no job is"
        raise click.ClickException(plain(f"{what} {job!r}; there are {', '.join(known) or 'none'}"))
    return found[0]
