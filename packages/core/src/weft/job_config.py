"""What a job brings along."""

from weft._api.jobs import JobConfig

__all__ = ["JobConfig"]
