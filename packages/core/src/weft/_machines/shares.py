"""What the jobs of a node take of it, and whose turn it is: quota, weight and priority.

    turn:   the highest priority; of those the job with the least share for its weight
    share:  of all that the node has, the largest part of any one resource that the job takes

So two jobs that want different things get the same share of what each wants most, and none gains by
asking for more than it needs (dominant resource fairness). What a task lends while it waits for
others counts for nobody.

What is always true
1. What a job takes here is the sum of what was counted for it, and none of it is negative but for
   CPU: what goes on after it was lent is not asked.
2. A job that takes nothing and has no limits is not kept.
3. A need exceeds a quota only by resources that it has some of. What other nodes say is late, so
   jobs may exceed a quota over nodes by what several of them grant in the same moment; never by
   what one node grants.

Nobody is stopped for another of a higher priority: who has waited is told to yield (tasks.py).

Source: Ghodsi et al., Dominant Resource Fairness: Fair Allocation of Multiple Resource Types, NSDI
2011, section 4; weights: section 4.3.
"""

from __future__ import annotations

from typing import TypeAlias

import msgspec

from weft._machines.stock import NOTHING
from weft._resources import UNITS, JobLimits, Resources

Turn: TypeAlias = tuple[int, float]
"""The least goes first: (-priority, share for its weight)."""
NO_TURN: Turn = (0, 0.0)


class JobLimited(msgspec.Struct, frozen=True):
    """A job may take so much, and takes this on other nodes, as far as is known."""

    job: bytes
    limits: JobLimits
    elsewhere: Resources = NOTHING


_NO_LIMITS = JobLimits()


class _Account:
    """What one job takes and may take."""

    __slots__ = ("elsewhere", "limits", "used")

    def __init__(self) -> None:
        self.limits = _NO_LIMITS
        self.used = NOTHING
        self.elsewhere = NOTHING


class Shares:
    """The jobs of one node."""

    def __init__(self, total: Resources) -> None:
        self._total = total
        self._account_of: dict[bytes, _Account] = {}

    # -------------------------------------------------------------- events

    def limit(self, event: JobLimited) -> None:
        """Take note of what a job may take."""
        account = self._account_of.setdefault(event.job, _Account())
        account.limits, account.elsewhere = event.limits, event.elsewhere
        self._forget_if_idle(event.job, account)

    def count(self, job: bytes, amounts: Resources, sign: int) -> None:
        """A job takes amounts (`sign` 1), or gives them back (-1)."""
        account = self._account_of.get(job)
        if account is None:
            account = self._account_of[job] = _Account()
        account.used = account.used + amounts if sign > 0 else account.used - amounts
        if not account.used:
            self._forget_if_idle(job, account)

    def _forget_if_idle(self, job: bytes, account: _Account) -> None:
        if not account.used and not account.elsewhere and account.limits == _NO_LIMITS:
            del self._account_of[job]

    # -------------------------------------------------------------- questions

    def turn(self, job: bytes) -> Turn:
        """Return the place of a job among those that wait: the least goes first."""
        account = self._account_of.get(job)
        if account is None:
            return NO_TURN
        shares = (
            units / self._total[name] for name, units in account.used.items() if name in self._total
        )
        return (-account.limits.priority, max(shares, default=0.0) / account.limits.weight)

    def used(self) -> dict[bytes, Resources]:
        """Return what each job takes here; other nodes are told."""
        return {job: account.used for job, account in self._account_of.items() if account.used}

    def exceeded(self, job: bytes, need: Resources) -> set[str]:
        """Return the resources of which a job would have more than its quota."""
        account = self._account_of.get(job)
        if account is None or not account.limits.quota:
            return set()
        return {
            name
            for name, most in account.limits.quota.items()
            if name in need and self._taken(account, name) + need[name] > most
        }

    def _taken(self, account: _Account, name: str) -> int:
        return account.used.get(name, 0) + account.elsewhere.get(name, 0)

    def explain(self, job: bytes, need: Resources) -> str:
        """Say which quota keeps a need of a job from being met; empty if none does."""
        names = sorted(self.exceeded(job, need))
        if not names:
            return ""
        account = self._account_of[job]
        parts = []
        for name in names:
            most, taken = account.limits.quota[name], self._taken(account, name)
            if need[name] > most:
                parts.append(
                    f"{most / UNITS:g} {name} at most, and this needs {need[name] / UNITS:g}"
                )
            else:
                there = account.elsewhere.get(name, 0)
                where = f" ({there / UNITS:g} of it on other nodes)" if there else ""
                parts.append(f"{taken / UNITS:g} of {most / UNITS:g} {name}{where}")
        return f"job {job.hex()} has used up its quota: {', '.join(parts)}"

    def check(self) -> None:
        """Assert what is always true."""
        for job, account in self._account_of.items():
            assert all(units > 0 or name == "CPU" for name, units in account.used.items()), 1
            assert account.used or account.elsewhere or account.limits != _NO_LIMITS, (2, job)
