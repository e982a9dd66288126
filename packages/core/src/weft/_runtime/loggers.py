"""Loggers: the level and format of Weft's own, and of the root logger where a program asks for it.

A driver applies a LoggingConfig to itself and hands it to its workers as JSON
(InitOptions.logging).
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import msgspec

from weft._lazy import lazy
from weft._override import override
from weft.exceptions import OptionError

if TYPE_CHECKING:
    import logging
    from collections.abc import Mapping, Sequence
    from typing import Self
else:
    logging = lazy("logging")

_ENCODINGS = ("TEXT", "JSON")
_TEXT = "%(asctime)s\t%(levelname)s %(filename)s:%(lineno)s -- %(message)s"


class LoggingConfig:
    """How records of the root logger are written.

    Attributes:
        encoding: "TEXT", or "JSON": one object a line.
        log_level: The least level that is written.
        additional_log_standard_attrs: More attributes of a record to write, such as "name" or
            "funcName".
    """

    def __init__(
        self,
        encoding: str = "TEXT",
        log_level: str = "INFO",
        additional_log_standard_attrs: Sequence[str] = (),
    ) -> None:
        """Check the values; OptionError for an unknown encoding."""
        if encoding not in _ENCODINGS:
            raise OptionError(
                f"encoding={encoding!r} of LoggingConfig has to be one of {', '.join(_ENCODINGS)}"
            )
        self.encoding = encoding
        self.log_level = log_level
        self.additional_log_standard_attrs = list(additional_log_standard_attrs)

    def to_dict(self) -> dict[str, Any]:
        """Return the values by name."""
        return dict(vars(self))

    @classmethod
    def from_dict(cls, d: Mapping[str, Any]) -> Self:
        """Make one of its values by name."""
        return cls(**d)

    @classmethod
    def from_json(cls, text: str) -> Self:
        """Make one of what `to_json` returned."""
        return cls.from_dict(msgspec.json.decode(text))

    def to_json(self) -> str:
        """Return the values as JSON."""
        return msgspec.json.encode(self.to_dict()).decode()

    def apply(self) -> None:
        """Make the root logger of this process write like this."""
        handler = logging.StreamHandler()
        handler.setFormatter(_formatter(self.encoding, self.additional_log_standard_attrs))
        logging.basicConfig(level=self.log_level, handlers=[handler], force=True)


def _formatter(encoding: str, more: Sequence[str]) -> logging.Formatter:
    if encoding == "TEXT":
        return logging.Formatter(_TEXT + "".join(f" {name}=%({name})s" for name in more))

    class JsonLines(logging.Formatter):
        @override
        def format(self, record: logging.LogRecord) -> str:
            fields = {
                "asctime": self.formatTime(record),
                "levelname": record.levelname,
                "message": record.getMessage(),
                "filename": record.filename,
                "lineno": record.lineno,
                **{name: getattr(record, name, None) for name in more},
            }
            if record.exc_info:
                fields["exc_text"] = self.formatException(record.exc_info)
            return msgspec.json.encode(fields, enc_hook=str).decode()

    return JsonLines()


def configure_logger(level: int | str | None, text_format: str | None) -> None:
    """Give the logger "weft" a level and a format, where they are given."""
    if level is None and text_format is None:
        return
    logger = logging.getLogger("weft")
    if level is not None:
        logger.setLevel(level)
    if text_format is not None:
        handler = logging.StreamHandler()
        handler.setFormatter(logging.Formatter(text_format))
        logger.handlers[:] = [handler]
        logger.propagate = False
