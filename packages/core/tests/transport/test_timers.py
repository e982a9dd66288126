from __future__ import annotations

from weft._transport.timers import Timers


def test_what_is_for_after_the_next_sleep_is_not_called_after_the_one_that_is_now() -> None:
    timers = Timers()
    called: list[str] = []
    timers.call_next(lambda: called.append("early"))
    assert timers.sleep_s() == 0.0
    timers.call_next(lambda: called.append("late"))
    timers.ring()
    assert called == ["early"]
    assert timers.sleep_s() == 0.0
    timers.ring()
    assert called == ["early", "late"]
    assert timers.sleep_s() is None
