"""How much of an experiment's time budget is left: its runs spend it together.

What is spent is written to the journal now and then, so that a killed driver gives little of it
back; the time between two runs does not count.
"""

from __future__ import annotations

# Of the budget: so much is spent between two records, if not more than a second.
SHARE = 0.01
LEAST_S = 1.0


class TimeBudget:
    """Seconds that all runs of an experiment have. Times are of one clock."""

    def __init__(self, budget_s: float) -> None:
        self._budget_s = budget_s
        self._before_s = 0.0
        self._begun_at = 0.0
        self._written_at = 0.0
        self.ends_at: float | None = None
        """None: it does not run, or it is over and that was said."""

    def recall(self, spent_s: float) -> None:
        """Take what the journal says: so much was spent."""
        self._before_s = spent_s

    def begin(self, now: float) -> None:
        """A run begins."""
        self._begun_at = self._written_at = now
        self.ends_at = now + self._budget_s - self._before_s

    def spent(self, now: float) -> float:
        """Return what is spent, to be written."""
        self._written_at = now
        return self._before_s + now - self._begun_at

    def is_due(self, now: float) -> bool:
        """Tell whether it is time to write what is spent."""
        return now - self._written_at >= max(LEAST_S, SHARE * self._budget_s)

    def is_over(self, now: float) -> bool:
        """Tell, once, that all is spent."""
        if self.ends_at is None or now < self.ends_at:
            return False
        self.ends_at = None
        return True
