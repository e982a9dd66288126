"""How much the connections of a process carry."""

from __future__ import annotations

from weft._metrics import Readings, measured


class Traffic:
    """Grows; whoever reads or sends adds to it."""

    __slots__ = ("read_bytes", "read_messages", "sent_bytes", "sent_messages")

    def __init__(self) -> None:
        self.read_bytes = 0
        self.read_messages = 0
        self.sent_bytes = 0
        """Also what the kernel has not taken yet."""
        self.sent_messages = 0

    def readings(self, process: str) -> list[Readings]:
        """Return it as metrics; `process` is driver, worker or daemon."""
        value_of = {
            ("weft_read_bytes_total", "Bytes read from other processes."): self.read_bytes,
            ("weft_read_messages_total", "Messages read from other processes."): self.read_messages,
            ("weft_sent_bytes_total", "Bytes sent to other processes."): self.sent_bytes,
            ("weft_sent_messages_total", "Messages sent to other processes."): self.sent_messages,
        }
        return [
            measured("counter", name, description, ("process",), {(process,): value})
            for (name, description), value in value_of.items()
        ]
