"""Files that runtime environments name, on their way from a program to the machine of its deputy.

    the program -Brings-> the deputy: what its machine has not, it asks for -Needs-> the program
                <--------- done, or why not                             <-Gives-- parts of it

From there other nodes fetch them, as they do from one another (`_env/sharing.py`).
"""

from __future__ import annotations

from itertools import count
from typing import TYPE_CHECKING

from weft._env.cache import EnvCache, default_root
from weft._env.sharing import ContentPart, FetchError, PartWanted, fetch, give, named_by
from weft._runtime.loop import Waiter
from weft._wire.codec import pack, unpack
from weft._wire.remote import Gives, Needs
from weft.exceptions import EnvSetupError

if TYPE_CHECKING:
    from collections.abc import Callable

    from weft._runtime.loop import Loop


class ProgramGivers:
    """The one program of a deputy, as the giver of what it names. Without the guard."""

    def __init__(self, loop: Loop, say: Callable[[Needs], None]) -> None:
        self._loop = loop
        self._say = say
        self._numbers = count(1)
        self._asked: dict[int, tuple[Waiter, list[Gives]]] = {}

    def bring(self, env: str) -> None:
        """Have all that an environment names on this machine. Blocks. EnvSetupError."""
        cache = EnvCache(default_root())
        try:
            for wanted in named_by(env):
                fetch(cache, wanted, self)
        except FetchError as error:
            raise EnvSetupError(str(error)) from None

    def holders(self, wanted: PartWanted) -> list[str]:
        """Return the one that there is."""
        return ["the program"]

    def give(self, node: str, wanted: list[PartWanted]) -> list[ContentPart]:
        """Return the first of what is wanted. Blocks. FetchError: it cannot."""
        waiter = Waiter()
        heard: list[Gives] = []
        with self._loop.guard:
            number = next(self._numbers)
            self._asked[number] = waiter, heard
        self._say(Needs(number, pack(wanted)))
        self._loop.wait(waiter)
        if not heard:
            raise FetchError("it has left")
        if heard[0].error:
            raise FetchError(heard[0].error)
        return unpack(heard[0].body, list[ContentPart])

    def given(self, answer: Gives) -> None:
        """Take an answer."""
        with self._loop.guard:
            waiter, heard = self._asked.pop(answer.number)
            heard.append(answer)
            waiter.ready()
        self._loop.nudge()  # Who waits may be the one who reads, and this another thread.


def answer_of(needs: Needs) -> Gives:
    """Return what a program answers: parts of files that it has read for an environment."""
    try:
        parts = give(EnvCache(default_root()), unpack(needs.body, list[PartWanted]))
    except OSError as error:
        return Gives(needs.number, b"", f"{error.strerror}: {error.filename}")
    return Gives(needs.number, pack(parts))
