"""A program whose tasks fail in many ways; each leaves a capsule named after its stage.

    python staged.py [STAGE ...]        in a directory of its own, with WEFT_CAPSULES set

The file is run, not imported: its functions are `__main__`'s, and travel by value.
"""

from __future__ import annotations

import asyncio
import ctypes
import os
import random
import signal
import sys
import threading
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import parts

import weft

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable, Iterator

STAGES: dict[str, Callable[[str], object]] = {}
LARGE = np.arange(1_000_000.0)
LIMIT = 7


def stage(run: Callable[[str], object]) -> Callable[[str], object]:
    STAGES[run.__name__] = run
    return run


def task(name: str, function: Callable[..., Any], *args: Any, **kwargs: Any) -> object:
    """Run a function as a task under a stage's name, once; return its value."""
    options = {"max_retries": 0, **kwargs.pop("options", {})}
    return weft.get(weft.remote(function).options(name=name, **options).remote(*args, **kwargs))


def stream(name: str, generator: Callable[..., Any], *args: Any) -> list[object]:
    remote: Any = weft.remote(generator).options(name=name)
    return [weft.get(ref) for ref in remote.remote(*args)]


# ------------------------------------------------------------------ exceptions


class BadRowError(Exception):
    def __init__(self, row: int, table: str) -> None:
        super().__init__(f"row {row} of {table} is bad")
        self.row = row


class HoldsLockError(Exception):
    def __init__(self, reason: str) -> None:
        super().__init__(reason)
        self.lock = threading.Lock()


@stage
def attributes(name: str) -> object:
    def parse(row: int) -> None:
        raise BadRowError(row, table="orders")

    return task(name, parse, 3)


@stage
def unpicklable_exception(name: str) -> object:
    def lock() -> None:
        raise HoldsLockError("it cannot travel")

    return task(name, lock)


@stage
def chain(name: str) -> object:
    def convert(text: str) -> int:
        try:
            return int(text)
        except ValueError as error:
            raise LookupError(f"no number in {text!r}") from error

    return task(name, convert, "seven")


@stage
def system_exit(name: str) -> object:
    return task(name, lambda: sys.exit("enough"))


@stage
def recursion(name: str) -> object:
    def even(number: int) -> bool:
        return odd(number + 1)

    def odd(number: int) -> bool:
        return even(number + 1)

    return task(name, even, 0)


# ------------------------------------------------------------------ code


def above_limit(number: int) -> int:
    if number > LIMIT:
        raise ValueError(f"{number} is above {LIMIT}")
    return number


@stage
def main_function(name: str) -> object:
    return task(name, above_limit, 8)


@stage
def closure(name: str) -> object:
    rows = {"a": 1}

    def look_up(key: str) -> int:
        return rows[key]

    return task(name, look_up, "b")


@stage
def lambda_function(name: str) -> object:
    return task(name, lambda x, y: x / y, 1, 0)


@stage
def module_assertion(name: str) -> object:
    return task(name, parts.check_sorted, [1, 3, 2])


@stage
def nested(name: str) -> object:
    @weft.remote(name="inner")
    def inner(number: int) -> int:
        return above_limit(number)

    def outer(numbers: list[int]) -> list[int]:
        return weft.get([inner.remote(number) for number in numbers])

    return task(name, outer, [6, 7, 8])


@stage
def wrong_number_of_returns(name: str) -> object:
    return task(name, lambda: (1, 2, 3), options={"num_returns": 2})


@stage
def unpicklable_result(name: str) -> object:
    return task(name, lambda: [threading.Lock()])


@stage
def retried(name: str) -> object:
    options = {"max_retries": 1, "retry_exceptions": True}
    return task(name, above_limit, 9, options=options)


# ------------------------------------------------------------------ arguments


@stage
def keywords(name: str) -> object:
    def scale(value: int, *, by: int = 1, **others: int) -> float:
        return value / (by - others["less"])

    return task(name, scale, 1, by=2, less=2)


@stage
def numpy_argument(name: str) -> object:
    def solve(matrix: Any, right: Any) -> Any:
        return np.linalg.solve(matrix, right)

    return task(name, solve, np.zeros((200, 200)), right=np.ones(200))


@stage
def too_large(name: str) -> object:
    def invert(values: Any, power: int) -> Any:
        if values[-1] > 10:
            raise OverflowError(f"{values[-1]} to the power of {power}")

    return task(name, invert, LARGE, 3)


@stage
def too_large_reference(name: str) -> object:
    def total(values: Any, *, limit: float) -> float:
        if values.sum() > limit:
            raise OverflowError(values.sum())
        return 0.0

    return task(name, total, weft.put(LARGE), limit=10.0)


@stage
def references(name: str) -> object:
    def add(first: int, others: list[Any]) -> int:
        return first + sum(weft.get(others)) + int("x" * first)

    small = weft.put(2)
    return task(name, add, small, [small, weft.put(3), weft.remote(parts.double).remote(4)])


def together_large(letters: str) -> list[Any]:
    """Values that are small one by one, and travel in bundles."""
    return [weft.put(letter * 60_000) for letter in letters]


@stage
def many_references(name: str) -> object:
    def read(*rows: str) -> int:
        return int("".join(row[-1] for row in rows))

    return task(name, read, *together_large("123x56"))


@stage
def captured_reference(name: str) -> object:
    table = weft.put({"a": 1})

    def look_up(key: str) -> int:
        return weft.get(table)[key]  # type: ignore[no-any-return]

    return task(name, look_up, "b")


@stage
def argument_that_fails(name: str) -> object:
    return task(name, print, parts.Fragile(5))


# ------------------------------------------------------------------ surroundings


@stage
def random_numbers(name: str) -> object:
    def draw() -> None:
        raise ValueError(f"drew {random.random()}, {random.gauss(0, 1)}")

    return task(name, draw)


@stage
def numpy_random_numbers(name: str) -> object:
    def draw() -> None:
        np.random.normal(size=3)
        raise ValueError(f"drew {np.random.normal(size=3)}")

    return task(name, draw)


@stage
def task_variable(name: str) -> object:
    def read() -> None:
        raise KeyError(os.environ["STAGED_COLOUR"])

    return task(name, read, options={"runtime_env": {"env_vars": {"STAGED_COLOUR": "red"}}})


@stage
def driver_variable(name: str) -> object:
    def read() -> int:
        return int(os.environ["STAGED_SIZE"])

    return task(name, read)


@stage
def directory(name: str) -> object:
    return task(name, lambda: int(Path("staged.txt").read_text()))


# ------------------------------------------------------------------ streams


@stage
def generator(name: str) -> object:
    def rows(count: int) -> Iterator[float]:
        for number in range(count):
            yield 1 / (3 - number)

    return stream(name, rows, 10)


@stage
def dynamic_generator(name: str) -> object:
    def rows() -> Iterator[int]:
        yield 1
        raise BadRowError(1, "rows")

    return task(name, rows, options={"num_returns": "dynamic"})


# ------------------------------------------------------------------ actors


@weft.remote
class Account:
    def __init__(self, owner: str, *, balance: int) -> None:
        if balance < 0:
            raise ValueError(f"{owner} begins with {balance}")
        self.balance = balance

    def withdraw(self, amount: int) -> int:
        if amount > self.balance:
            raise ArithmeticError(f"{amount} of {self.balance}")
        self.balance -= amount
        return self.balance

    def rows(self) -> Iterator[int]:
        yield self.balance
        raise BadRowError(self.balance, "account")

    def crash(self) -> None:
        ctypes.string_at(0)


@weft.remote
class Server:
    async def answer(self, question: str) -> str:
        await asyncio.sleep(0)
        return {"six times nine": "42"}[question]

    async def rows(self) -> AsyncIterator[int]:
        yield 1
        await asyncio.sleep(0)
        raise BadRowError(2, "server")

    async def hang(self) -> None:
        await asyncio.sleep(3600)


def called(method: Any, name: str, *args: Any, **options: Any) -> object:
    return weft.get(method.options(name=name, **options).remote(*args))


@stage
def method(name: str) -> object:
    return called(Account.remote("Ada", balance=5).withdraw, name, 6)


@stage
def threaded_method(name: str) -> object:
    account = Account.options(max_concurrency=2).remote("Ada", balance=5)
    return called(account.withdraw, name, 6)


@stage
def many_references_method(name: str) -> object:
    @weft.remote
    class Table:
        def __init__(self, *rows: str) -> None:
            self.rows = rows

        def read(self, *rows: str) -> int:
            return int("".join(row[-1] for row in self.rows + rows))

    return called(Table.remote(*together_large("12y45")).read, name, *together_large("6789"))


@stage
def constructor(name: str) -> object:
    return weft.get(Account.remote("Ada", balance=-1).withdraw.remote(1))


@stage
def generator_method(name: str) -> object:
    account: Any = Account.remote("Ada", balance=5)
    return [weft.get(ref) for ref in account.rows.options(name=name).remote()]


@stage
def async_method(name: str) -> object:
    return called(Server.remote().answer, name, "the last question")


@stage
def async_generator_method(name: str) -> object:
    server: Any = Server.remote()
    return [weft.get(ref) for ref in server.rows.options(name=name).remote()]


@stage
def async_time_limit(name: str) -> object:
    return called(Server.remote().hang, name, timeout=0.3)


@stage
def method_crash(name: str) -> object:
    return called(Account.remote("Ada", balance=5).crash, name)


# ------------------------------------------------------------------ deaths


@stage
def exit_code(name: str) -> object:
    return task(name, os._exit, 7)


@stage
def segfault(name: str) -> object:
    def read_null(array: Any) -> None:
        ctypes.string_at(int(array[0]))

    return task(name, read_null, np.zeros(30_000))


@stage
def crash_too_large(name: str) -> object:
    def read_null(values: Any, offset: int) -> None:
        ctypes.string_at(int(values[0]) + offset)

    return task(name, read_null, LARGE, offset=0)


@stage
def killed(name: str) -> object:
    return task(name, lambda: os.kill(os.getpid(), signal.SIGKILL))


@stage
def time_limit(name: str) -> object:
    def sleep() -> None:
        time.sleep(3600)

    return task(name, sleep, options={"timeout": 0.3})


@stage
def blocked_time_limit(name: str) -> object:
    def block() -> None:
        # PyDLL keeps the interpreter's lock: no other code of that process runs until it returns.
        ctypes.PyDLL(None).sleep(3600)

    return task(name, block, options={"timeout": 0.3})


def main(names: list[str]) -> None:
    os.environ["STAGED_SIZE"] = "large"
    Path("staged.txt").write_text("no number")
    with weft.init(num_cpus=2, log_to_driver=False):
        for name in names or STAGES:
            try:
                print(f"{name} did not fail: {STAGES[name](name)}")
            except BaseException as error:  # noqa: BLE001 - SystemExit is a stage too
                print(f"{name}: {type(error).__name__}")
    np.save("large.npy", LARGE)


if __name__ == "__main__":
    main(sys.argv[1:])
