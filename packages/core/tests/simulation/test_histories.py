from __future__ import annotations

import itertools
import math
import random
import threading
from typing import Any

import hypothesis.strategies as st
import pytest
from hypothesis import given, settings

from weft.testing.histories import (
    ANY_KEY,
    ClientHistory,
    CounterModel,
    ForbiddenHistoryError,
    KeyValueModel,
    LogModel,
    Operation,
    RegisterModel,
    SequentialModel,
    UndecidedHistoryError,
    check_history,
)


def op(
    client: str,
    kind: str,
    argument: Any = None,
    value: Any = None,
    *,
    at: tuple[float, float],
    key: Any = "x",
) -> Operation:
    return Operation(client, kind, key, argument, value=value, began_at=at[0], ended_at=at[1])


def lost(client: str, kind: str, argument: Any = None, *, at: float, key: Any = "x") -> Operation:
    return Operation(client, kind, key, argument, began_at=at)


# ------------------------------------------------------------------ a register


def test_reads_that_overlap_a_write_may_see_the_old_or_the_new_value() -> None:
    for seen in (None, 1):
        check_history(
            [op("a", "write", 1, at=(0, 10)), op("b", "read", value=seen, at=(1, 2))],
            RegisterModel(),
        )


def test_read_after_a_write_that_has_ended_sees_it() -> None:
    with pytest.raises(ForbiddenHistoryError, match="none of these can be next") as caught:
        check_history(
            [op("a", "write", 1, at=(0, 1)), op("b", "read", value=None, at=(2, 3))],
            RegisterModel(),
        )
    assert "b: read -> None" in str(caught.value)
    assert "a: write(1) -> None, 0.0000 to 1.0000" in str(caught.value)


def test_value_that_was_seen_does_not_go_away_again() -> None:
    stale = [
        op("a", "write", 1, at=(0, 10)),
        op("b", "read", value=1, at=(1, 2)),
        op("c", "read", value=None, at=(3, 4)),
    ]
    with pytest.raises(ForbiddenHistoryError):
        check_history(stale, RegisterModel())


def test_two_readers_see_two_writes_in_one_order() -> None:
    writes = [op("a", "write", 1, at=(0, 10)), op("b", "write", 2, at=(0, 10))]
    one = [op("c", "read", value=1, at=(1, 2)), op("c", "read", value=2, at=(3, 4))]
    other = [op("d", "read", value=2, at=(1, 2)), op("d", "read", value=1, at=(3, 4))]
    check_history([*writes, *one], RegisterModel())
    with pytest.raises(ForbiddenHistoryError):
        check_history([*writes, *one, *other], RegisterModel())


def test_write_that_nobody_saw_end_may_come_late_or_never_but_stays() -> None:
    unknown = lost("a", "write", 1, at=0)
    before, after = op("b", "read", at=(1, 2)), op("b", "read", value=1, at=(3, 4))
    check_history([unknown, before], RegisterModel())
    check_history([unknown, before, after], RegisterModel())
    with pytest.raises(ForbiddenHistoryError):
        check_history([unknown, before, after, op("b", "read", at=(5, 6))], RegisterModel())


def test_write_does_not_take_effect_before_it_began() -> None:
    with pytest.raises(ForbiddenHistoryError):
        check_history(
            [op("b", "read", value=1, at=(0, 1)), lost("a", "write", 1, at=2)], RegisterModel()
        )


def test_only_one_of_two_swaps_from_the_same_value_succeeds() -> None:
    def swap(client: str, new: int, *, value: bool) -> Operation:
        return op(client, "swap", (0, new), value, at=(0, 5))

    check_history([swap("a", 1, value=True), swap("b", 2, value=False)], RegisterModel(0))
    with pytest.raises(ForbiddenHistoryError):
        check_history([swap("a", 1, value=True), swap("b", 2, value=True)], RegisterModel(0))


def test_keys_are_checked_by_themselves() -> None:
    check_history(
        [op("a", "write", 1, at=(0, 1), key="x"), op("a", "read", at=(2, 3), key="y")],
        RegisterModel(),
    )


# ------------------------------------------------------------------ calls that run at most once


def test_call_that_was_lost_may_have_run_once_but_not_twice() -> None:
    first, unknown = op("a", "add", value=1, at=(0, 1)), lost("b", "add", at=2)
    for seen in (2, 3):
        check_history([first, unknown, op("a", "add", value=seen, at=(4, 5))], CounterModel())
    with pytest.raises(ForbiddenHistoryError):
        check_history([first, unknown, op("a", "add", value=4, at=(4, 5))], CounterModel())


def test_call_that_was_answered_has_run() -> None:
    with pytest.raises(ForbiddenHistoryError):
        check_history(
            [op("a", "add", value=1, at=(0, 1)), op("b", "read", value=0, at=(2, 3))],
            CounterModel(),
        )


def test_log_tells_which_call_ran_twice() -> None:
    said = [
        op("a", "append", "p", 1, at=(0, 1)),
        op("a", "append", "q", 2, at=(2, 3)),
        op("b", "read", value=("p", "q", "p"), at=(4, 5)),
    ]
    with pytest.raises(ForbiddenHistoryError, match=r"\('p', 'q', 'p'\)"):
        check_history(said, LogModel())
    check_history([*said[:2], op("b", "read", value=("p", "q"), at=(4, 5))], LogModel())


def test_actor_that_restarts_empty_is_counted_by_restarts() -> None:
    calls = [
        op("a", "add", value=1, at=(0, 1), key=0),
        lost("a", "add", at=2, key=ANY_KEY),
        op("b", "add", value=2, at=(6, 7), key=1),
    ]
    check_history(calls, CounterModel())
    with pytest.raises(ForbiddenHistoryError):
        check_history([calls[0], calls[2]], CounterModel())


# ------------------------------------------------------------------ names and keys


def test_name_is_given_once() -> None:
    taken = [op("a", "add", "id 1", True, at=(0, 5)), op("b", "add", "id 2", True, at=(0, 5))]
    with pytest.raises(ForbiddenHistoryError):
        check_history(taken, KeyValueModel())
    freed = op("c", "delete", value=True, at=(1, 4))
    check_history([*taken, freed], KeyValueModel())


def test_what_was_removed_is_not_there_again() -> None:
    gone = [
        op("a", "put", 1, at=(0, 1)),
        op("a", "delete", value=True, at=(2, 3)),
        op("b", "get", value=1, at=(4, 5)),
    ]
    with pytest.raises(ForbiddenHistoryError):
        check_history(gone, KeyValueModel())


# ------------------------------------------------------------------ the search


@pytest.mark.parametrize("model", [RegisterModel(), CounterModel(), LogModel(), KeyValueModel()])
def test_operation_that_a_model_does_not_know_is_an_error(model: SequentialModel) -> None:
    with pytest.raises(ValueError, match="knows no operation 'fly'"):
        check_history([op("a", "fly", at=(0, 1))], model)


def test_operation_that_has_ended_has_a_key() -> None:
    with pytest.raises(ValueError, match="has no key"):
        check_history([op("a", "add", value=1, at=(0, 1), key=ANY_KEY)], CounterModel())


def test_search_gives_up_at_its_bound() -> None:
    many = [lost("a", "append", number, at=0.0) for number in range(12)]
    with pytest.raises(UndecidedHistoryError, match="too many"):
        check_history(
            [*many, op("b", "read", value=("z",), at=(1, 2))], LogModel(), most_configurations=1000
        )


def orders(operations: list[Operation], model: SequentialModel) -> bool:
    """Tell whether a history is allowed, by trying every order of every choice."""
    must = [each for each in operations if each.has_ended]
    may = [each for each in operations if not each.has_ended]
    for number in range(len(may) + 1):
        for some in itertools.combinations(may, number):
            for order in itertools.permutations([*must, *some]):
                if any(b.ended_at < a.began_at for a, b in itertools.combinations(order, 2)):
                    continue
                state = model.initial()
                for each in order:
                    state, value = model.apply(state, each)
                    if each.has_ended and value != each.value:
                        break
                else:
                    return True
    return False


@st.composite
def histories(draw: st.DrawFn) -> list[Operation]:
    made = []
    for client in range(draw(st.integers(1, 5))):
        kind = draw(st.sampled_from(["read", "write", "swap"]))
        argument = {"read": None, "write": client % 3, "swap": (client % 2, 2)}[kind]
        began = draw(st.integers(0, 6))
        ended = draw(st.sampled_from([began, began + 1, began + 3, math.inf]))
        value = {"write": None}.get(kind, draw(st.sampled_from([None, 0, 1, 2, True, False])))
        made.append(op(str(client), kind, argument, value, at=(began, ended)))
    return made


@given(histories())
@settings(deadline=None, max_examples=300)
def test_search_says_what_trying_all_orders_says(operations: list[Operation]) -> None:
    try:
        check_history(operations, RegisterModel())
    except ForbiddenHistoryError:
        assert not orders(operations, RegisterModel())
    else:
        assert orders(operations, RegisterModel())


def run_clients(history: ClientHistory, *, loses_updates: bool) -> None:
    """Let threads add to a counter; half of the time under a lock, if it is to lose updates."""
    lock, number = threading.Lock(), [0]
    turn = threading.Barrier(4)

    def client(name: str) -> None:
        draw = random.Random(name)
        for _ in range(30):
            turn.wait()
            with history.doing(name, "add", "n") as operation:
                if loses_updates:
                    before = number[0]
                    turn.wait()
                    number[0] = operation.value = before + 1
                else:
                    with lock:
                        number[0] += 1
                        operation.value = number[0]
            if draw.random() < 0.3:
                with history.doing(name, "read", "n") as operation, lock:
                    operation.value = number[0]

    threads = [threading.Thread(target=client, args=(f"c{i}",)) for i in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()


def test_history_of_a_right_counter_is_allowed() -> None:
    history = ClientHistory()
    run_clients(history, loses_updates=False)
    assert len(history.operations) >= 120
    check_history(history.operations, CounterModel())


def test_history_of_a_counter_that_loses_updates_is_forbidden() -> None:
    history = ClientHistory()
    run_clients(history, loses_updates=True)
    with pytest.raises(ForbiddenHistoryError):
        check_history(history.operations, CounterModel())


def test_operation_that_raises_has_no_seen_end_and_one_that_was_refused_is_forgotten() -> None:
    history = ClientHistory(iter(range(10)).__next__)
    with pytest.raises(KeyError), history.doing("a", "add", "n"):
        raise KeyError
    with history.doing("a", "add", "n") as operation:
        operation.value = 2
    first, second = history.operations
    assert not first.has_ended
    assert "not seen to end" in repr(first)
    assert (second.began_at, second.ended_at, second.value) == (1, 2, 2)
    check_history(history.operations, CounterModel())
    history.forget(first)
    with pytest.raises(ForbiddenHistoryError, match="cannot be"):
        check_history(history.operations, CounterModel())
