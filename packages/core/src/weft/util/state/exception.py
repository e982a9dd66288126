"""What the functions of weft.util.state raise."""

from weft.exceptions import WeftError

__all__ = ["DataSourceUnavailable", "ServerUnavailable", "StateApiException"]


class StateApiException(WeftError):  # noqa: N818 - users know it by this name
    """A question about the state of a session could not be answered."""


class ServerUnavailable(StateApiException):
    """There is no session to ask, or there are several, or its daemon does not answer."""


class DataSourceUnavailable(StateApiException):
    """A process has not answered in time, and `raise_on_missing_output` does without nobody."""
