"""What actors have to do: state, order, names, handles, ends."""

# ruff: noqa: D101, D102, S101
# mypy: ignore-errors
# These are tests: their names say what they check. mypy takes no notice of decorators of classes.

from __future__ import annotations

import gc
import os
import pickle
from typing import Any

import pytest

import weft
from weft.actor import ActorClassInheritanceException, ActorHandle, exit_actor
from weft.exceptions import ActorDiedError, ActorError, OptionError, UnschedulableError
from weft.testing.semantics.engines import LIMIT_S, EngineSemantics, Signal, needs


class PlainCounter:
    """A counter."""

    LIMIT = 100

    def __init__(self, start: int = 0, *, step: int = 1) -> None:
        self.value = start
        self.step = step

    @weft.method
    def up(self, by: int = 1) -> int:
        self.value += by * self.step
        return self.value

    @weft.method
    def read(self) -> int:
        return self.value

    @weft.method(num_returns=2)
    def both(self) -> tuple[int, int]:
        return self.value, self.step

    @weft.method
    def keep(self, thing: Any) -> Any:
        self.kept = thing
        return thing

    @weft.method
    def leave(self) -> None:
        exit_actor()

    @weft.method
    def me(self) -> Any:
        return weft.get_runtime_context().current_actor

    @staticmethod
    def twice(number: int) -> int:
        return 2 * number

    @classmethod
    def limit(cls) -> int:
        return cls.LIMIT

    def undecorated(self, number: int) -> int:
        return number + self.value


Counter = weft.remote(PlainCounter)


@weft.remote
class Recorder:
    """Remembers what it is told, also after those who told it are gone."""

    def __init__(self) -> None:
        self.words: list[str] = []

    @weft.method
    def add(self, word: str) -> None:
        self.words.append(word)

    @weft.method
    def read(self) -> list[str]:
        return self.words


class Hooked:
    def __init__(self, recorder: Any) -> None:
        self.recorder = recorder

    @weft.method
    def work(self) -> str:
        return "worked"

    @weft.method
    def leave(self) -> None:
        exit_actor()

    def __weft_terminate__(self) -> None:
        weft.get(self.recorder.add.remote("hook"))


HookedActor = weft.remote(Hooked)


class ActorSemantics(EngineSemantics):
    # ---------------------------------------------------------------- state and order

    def test_actor_keeps_its_state(self) -> None:
        counter = Counter.remote()
        assert [weft.get(counter.up.remote()) for _ in range(3)] == [1, 2, 3]

    def test_constructor_takes_arguments(self) -> None:
        assert weft.get(Counter.remote(5, step=2).up.remote()) == 7

    def test_references_are_resolved_for_constructors_and_methods(self) -> None:
        counter = Counter.remote(weft.put(5))
        assert weft.get(counter.up.remote(weft.put(2))) == 7

    def test_calls_run_in_the_order_they_were_made(self) -> None:
        recorder = Recorder.remote()
        for number in range(50):
            recorder.add.remote(str(number))
        assert weft.get(recorder.read.remote()) == [str(number) for number in range(50)]

    def test_call_with_a_late_argument_holds_up_those_behind_it(self) -> None:
        signal, recorder = Signal.remote(), Recorder.remote()
        recorder.add.remote(signal.wait.remote())
        second = recorder.add.remote("second")
        assert weft.wait([second], timeout=0) == ([], [second])
        weft.get(signal.send.remote())
        assert weft.get(recorder.read.remote(), timeout=LIMIT_S) == ["sent", "second"]

    def test_two_actors_of_a_class_share_nothing(self) -> None:
        first, second = Counter.remote(), Counter.remote()
        weft.get(first.up.remote())
        assert weft.get(second.read.remote()) == 0

    def test_actor_waits_for_the_arguments_of_its_constructor(self) -> None:
        signal = Signal.remote()
        recorder = weft.remote(PlainCounter).remote(signal.wait.remote())
        value = recorder.read.remote()
        assert weft.wait([value], timeout=0)[0] == []
        weft.get(signal.send.remote())
        assert weft.get(value, timeout=LIMIT_S) == "sent"

    def test_mutating_an_argument_does_not_reach_the_caller(self) -> None:
        counter = Counter.remote()
        words = ["a"]
        weft.get(counter.keep.remote(words)).append("b")
        assert words == ["a"]

    def test_result_shares_nothing_with_the_actor(self) -> None:
        recorder = Recorder.remote()
        weft.get(recorder.read.remote()).append("mine")
        assert weft.get(recorder.read.remote()) == []

    # ---------------------------------------------------------------- methods

    @pytest.mark.parametrize(
        ("args", "kwargs", "word"), [((1, 2, 3), {}, "positional"), ((), {"up": 1}, "up")]
    )
    def test_wrong_arguments_raise_at_the_call(
        self, args: tuple[Any, ...], kwargs: dict[str, Any], word: str
    ) -> None:
        counter = Counter.remote()
        with pytest.raises(TypeError, match=rf"up\(\).*{word}"):
            counter.up.remote(*args, **kwargs)

    def test_wrong_arguments_of_a_constructor_raise_at_the_call(self) -> None:
        with pytest.raises(TypeError, match=r"PlainCounter\(\).*positional"):
            Counter.remote(1, 2)

    def test_calling_a_remote_class_says_what_to_write(self) -> None:
        with pytest.raises(TypeError, match=r"PlainCounter\.remote\(\.\.\.\)"):
            Counter(1)

    def test_calling_a_method_says_what_to_write(self) -> None:
        counter = Counter.remote()
        with pytest.raises(TypeError, match=r"up\.remote\(\.\.\.\)"):
            counter.up()

    def test_unknown_method_names_those_that_there_are(self) -> None:
        counter: Any = Counter.remote()
        with pytest.raises(AttributeError, match=r"down.*it has.*up"):
            _ = counter.down

    def test_methods_need_no_decorator(self) -> None:
        counter: Any = Counter.remote(1)
        assert weft.get(counter.undecorated.remote(2)) == 3

    def test_static_and_class_methods_work(self) -> None:
        counter: Any = Counter.remote()
        assert weft.get(counter.twice.remote(2)) == 4
        assert weft.get(counter.limit.remote()) == 100

    def test_constants_are_read_on_the_class(self) -> None:
        assert Counter.LIMIT == 100
        assert Counter.twice(2) == 4

    def test_inherited_methods_work(self) -> None:
        class Child(PlainCounter):
            @weft.method
            def up(self, by: int = 1) -> int:
                return super().up(by) + 1000

        child = weft.remote(Child).remote(1)
        assert weft.get(child.up.remote()) == 1002
        assert weft.get(child.read.remote()) == 2

    def test_remote_class_cannot_be_inherited_from(self) -> None:
        with pytest.raises(ActorClassInheritanceException, match="plain class"):

            class Child(Counter):
                pass

    def test_several_returns_give_as_many_references(self) -> None:
        counter = Counter.remote(3, step=2)
        assert weft.get(counter.both.remote()) == [3, 2]
        assert weft.get(counter.up.options(num_returns=1).remote()) == 5

    def test_dunder_call_can_be_a_method(self) -> None:
        @weft.remote
        class Callable:
            def __call__(self, number: int) -> int:
                return number + 1

        made: Any = Callable.remote()
        assert weft.get(made.__call__.remote(1)) == 2

    def test_ready_and_call_are_there(self) -> None:
        counter: Any = Counter.remote(4)
        assert weft.get(counter.__weft_ready__.remote()) is True
        assert weft.get(counter.__ray_ready__.remote()) is True
        assert weft.get(counter.__weft_call__.remote(lambda self, more: self.value + more, 1)) == 5

    def test_actors_call_actors(self) -> None:
        counter = Counter.remote()

        @weft.remote
        class Caller:
            def __init__(self, other: Any) -> None:
                self.other = other

            def call(self) -> int:
                return weft.get(self.other.up.remote()) + 1

        caller: Any = Caller.remote(counter)
        assert weft.get(caller.call.remote()) == 2

    def test_actors_start_tasks_and_actors(self) -> None:
        @weft.remote
        class Maker:
            def make(self) -> int:
                return weft.get(Counter.remote(1).up.remote()) + weft.get(
                    weft.remote(abs).remote(-5)
                )

        maker: Any = Maker.remote()
        assert weft.get(maker.make.remote()) == 7

    def test_unknown_concurrency_group_is_refused(self) -> None:
        class Wrong:
            @weft.method(concurrency_group="io")
            def work(self) -> None: ...

        with pytest.raises(OptionError, match="io"):
            weft.remote(Wrong).remote()

    # ---------------------------------------------------------------- handles

    def test_handles_travel_to_tasks(self) -> None:
        @weft.remote
        def use(handle: Any) -> int:
            return weft.get(handle.up.remote())

        counter = Counter.remote()
        assert weft.get(use.remote(counter)) == 1
        assert weft.get(counter.read.remote()) == 1

    def test_handles_lie_in_objects(self) -> None:
        counter = Counter.remote()
        found = weft.get(weft.put({"counter": counter}))["counter"]
        assert weft.get(found.up.remote()) == 1

    def test_handles_of_an_actor_are_equal(self) -> None:
        counter, other = Counter.remote(), Counter.remote()
        travelled = weft.get(weft.put([counter]))[0]
        assert counter == travelled
        assert len({counter, travelled, other}) == 2
        assert isinstance(counter, ActorHandle)

    def test_plain_pickle_refuses_handles(self) -> None:
        with pytest.raises(TypeError):
            pickle.dumps(Counter.remote())

    def test_handle_refuses_attributes(self) -> None:
        counter: Any = Counter.remote()
        with pytest.raises(AttributeError, match="value"):
            counter.value = 3

    def test_handle_lists_its_methods(self) -> None:
        assert {"up", "read", "twice"} <= set(dir(Counter.remote()))

    def test_actor_can_pass_itself_on(self) -> None:
        counter = Counter.remote()
        me = weft.get(counter.me.remote())
        assert me == counter
        assert weft.get(me.up.remote()) == 1

    def test_temporary_handle_is_enough_for_a_call(self) -> None:
        ref = Counter.remote(4).up.remote()
        gc.collect()
        assert weft.get(ref, timeout=LIMIT_S) == 5

    # ---------------------------------------------------------------- names

    def test_named_actor_is_found(self) -> None:
        counter = Counter.options(name="found").remote(3)
        assert weft.get(weft.get_actor("found").read.remote()) == 3
        assert weft.get_actor("found") == counter

    def test_named_actor_is_found_in_a_task(self) -> None:
        counter = Counter.options(name="in a task").remote(3)

        @weft.remote
        def find() -> int:
            return weft.get(weft.get_actor("in a task").up.remote())

        assert weft.get(find.remote()) == 4
        assert weft.get(counter.read.remote()) == 4

    def test_unknown_name_is_an_error(self) -> None:
        with pytest.raises(ValueError, match="nobody"):
            weft.get_actor("nobody")

    def test_name_can_be_taken_once(self) -> None:
        counter = Counter.options(name="taken").remote(1)
        with pytest.raises(ValueError, match="taken"):
            Counter.options(name="taken").remote(2)
        assert weft.get(counter.read.remote()) == 1

    def test_get_if_exists_finds_or_makes(self) -> None:
        first = Counter.options(name="either", get_if_exists=True).remote(1)
        second = Counter.options(name="either", get_if_exists=True).remote(2)
        assert first == second
        assert weft.get(second.read.remote()) == 1

    def test_names_are_kept_apart_by_namespaces(self) -> None:
        here = Counter.options(name="apart").remote(1)
        there = Counter.options(name="apart", namespace="elsewhere").remote(2)
        assert weft.get_actor("apart") == here
        assert weft.get_actor("apart", namespace="elsewhere") == there

    def test_get_if_exists_needs_a_name(self) -> None:
        with pytest.raises(OptionError, match="name"):
            Counter.options(get_if_exists=True)

    def test_name_is_free_again_after_the_end(self) -> None:
        counter = Counter.options(name="again").remote(1)
        weft.kill(counter)
        with pytest.raises(ActorDiedError):
            weft.get(counter.read.remote(), timeout=LIMIT_S)
        other = Counter.options(name="again").remote(2)
        assert weft.get(weft.get_actor("again").read.remote()) == 2
        assert other != counter


class ActorLifeSemantics(EngineSemantics):
    def test_actor_ends_with_its_last_handle(self) -> None:
        counter = Counter.options(name="short").remote()
        assert weft.get(counter.up.remote()) == 1
        del counter
        gc.collect()
        _until_gone("short")

    def test_detached_actor_outlives_its_handles(self) -> None:
        weft.get(Counter.options(name="long", lifetime="detached").remote(1).up.remote())
        gc.collect()
        found = weft.get_actor("long")
        assert weft.get(found.read.remote()) == 2
        weft.kill(found)

    def test_actor_lives_while_a_value_holds_its_handle(self) -> None:
        holder = weft.put([Counter.options(name="held").remote(1)])
        gc.collect()
        assert weft.get(weft.get_actor("held").read.remote()) == 1
        del holder
        gc.collect()
        _until_gone("held")

    def test_actor_lives_while_another_actor_holds_its_handle(self) -> None:
        keeper = Counter.remote()
        weft.get(keeper.keep.remote(Counter.options(name="kept").remote(1)))
        gc.collect()
        assert weft.get(weft.get_actor("kept").read.remote()) == 1

    def test_error_of_a_constructor_fails_every_call(self) -> None:
        @weft.remote
        class Broken:
            def __init__(self) -> None:
                raise ValueError("at birth")

            def work(self) -> None: ...

        broken: Any = Broken.remote()
        for _ in range(2):
            with pytest.raises(ActorDiedError, match="at birth"):
                weft.get(broken.work.remote(), timeout=LIMIT_S)

    def test_error_of_a_constructors_argument_fails_every_call(self) -> None:
        bad = weft.remote(lambda: 1 / 0).remote()
        counter = Counter.remote(bad)
        with pytest.raises(ActorDiedError, match="division"):
            weft.get(counter.read.remote(), timeout=LIMIT_S)

    def test_actor_with_an_impossible_demand_fails_its_calls(self) -> None:
        counter = Counter.options(num_cpus=1000).remote()
        with pytest.raises((UnschedulableError, ActorError), match="1000"):
            weft.get(counter.read.remote(), timeout=LIMIT_S)

    # ---------------------------------------------------------------- kill

    def test_killed_actor_fails_its_calls(self) -> None:
        counter = Counter.remote()
        weft.get(counter.up.remote())
        weft.kill(counter)
        with pytest.raises(ActorDiedError):
            weft.get(counter.up.remote(), timeout=LIMIT_S)

    def test_kill_fails_the_calls_that_wait(self) -> None:
        signal, counter = Signal.remote(), Counter.remote()
        waiting = counter.up.remote(signal.wait.remote())
        weft.kill(counter)
        with pytest.raises(ActorDiedError):
            weft.get(waiting, timeout=LIMIT_S)

    def test_kill_takes_a_handle_alone(self) -> None:
        with pytest.raises(TypeError, match=r"weft\.cancel"):
            weft.kill(weft.put(1))

    def test_killed_actor_starts_again_if_it_may(self) -> None:
        counter = Counter.options(max_restarts=1).remote(5)
        assert weft.get(counter.up.remote()) == 6
        weft.kill(counter, no_restart=False)
        assert weft.get(_retried(counter), timeout=LIMIT_S) == 5

    def test_restarts_are_counted(self) -> None:
        counter = Counter.options(max_restarts=1).remote(5)
        weft.get(counter.up.remote())
        weft.kill(counter, no_restart=False)
        weft.get(_retried(counter), timeout=LIMIT_S)
        weft.kill(counter, no_restart=False)
        with pytest.raises(ActorDiedError):
            weft.get([_retried(counter) for _ in range(100)], timeout=LIMIT_S)

    def test_restarted_actor_knows(self) -> None:
        @weft.remote(max_restarts=1, max_task_retries=-1)
        class Knowing:
            def was_restarted(self) -> bool:
                return weft.get_runtime_context().was_current_actor_reconstructed

        knowing: Any = Knowing.remote()
        assert weft.get(knowing.was_restarted.remote()) is False
        weft.kill(knowing, no_restart=False)
        assert weft.get(knowing.was_restarted.remote(), timeout=LIMIT_S) is True

    @needs("processes")
    def test_actor_whose_process_dies_starts_again(self) -> None:
        @weft.remote(max_restarts=1, max_task_retries=-1)
        class Mortal:
            def __init__(self) -> None:
                self.calls = 0

            def work(self) -> int:
                self.calls += 1
                return self.calls

            @weft.method(max_task_retries=0)
            def die(self) -> None:
                os._exit(1)

        mortal: Any = Mortal.remote()
        assert weft.get(mortal.work.remote()) == 1
        with pytest.raises(ActorError):
            weft.get(mortal.die.remote(), timeout=LIMIT_S)
        assert weft.get(mortal.work.remote(), timeout=LIMIT_S) == 1

    @needs("processes")
    def test_actor_whose_process_dies_for_good_says_how(self) -> None:
        @weft.remote
        class Mortal:
            def die(self) -> None:
                os._exit(9)

        mortal: Any = Mortal.remote()
        with pytest.raises(ActorDiedError, match="9"):
            weft.get(mortal.die.remote(), timeout=LIMIT_S)

    # ---------------------------------------------------------------- leaving

    def test_exit_actor_ends_the_actor(self) -> None:
        counter = Counter.remote()
        with pytest.raises(ActorDiedError, match="exit_actor"):
            weft.get(counter.leave.remote(), timeout=LIMIT_S)
        with pytest.raises(ActorDiedError):
            weft.get(counter.read.remote(), timeout=LIMIT_S)

    def test_exit_actor_is_not_restarted(self) -> None:
        counter = Counter.options(max_restarts=5).remote()
        with pytest.raises(ActorDiedError):
            weft.get(counter.leave.remote(), timeout=LIMIT_S)
        with pytest.raises(ActorDiedError):
            weft.get(counter.read.remote(), timeout=LIMIT_S)

    def test_exit_actor_outside_an_actor_is_an_error(self) -> None:
        with pytest.raises(RuntimeError, match="outside"):
            exit_actor()

    def test_exit_hook_runs_when_the_actor_leaves(self) -> None:
        recorder = Recorder.remote()
        hooked = HookedActor.remote(recorder)
        with pytest.raises(ActorDiedError):
            weft.get(hooked.leave.remote(), timeout=LIMIT_S)
        _until_words(recorder, ["hook"])

    def test_exit_hook_runs_when_the_last_handle_is_gone(self) -> None:
        recorder = Recorder.remote()
        hooked = HookedActor.remote(recorder)
        assert weft.get(hooked.work.remote()) == "worked"
        del hooked
        gc.collect()
        _until_words(recorder, ["hook"])

    @pytest.mark.parametrize("name", ["__weft_terminate__", "__ray_terminate__"])
    def test_terminate_ends_the_actor_after_its_calls(self, name: str) -> None:
        recorder = Recorder.remote()
        hooked: Any = HookedActor.remote(recorder)
        before = hooked.work.remote()
        getattr(hooked, name).remote()
        assert weft.get(before, timeout=LIMIT_S) == "worked"
        _until_words(recorder, ["hook"])
        with pytest.raises(ActorDiedError):
            weft.get(hooked.work.remote(), timeout=LIMIT_S)

    # ---------------------------------------------------------------- retries and limits

    def test_method_is_retried_as_often_as_asked(self) -> None:
        @weft.remote
        class Flaky:
            def __init__(self) -> None:
                self.tries = 0

            @weft.method(max_task_retries=2, retry_exceptions=True)
            def work(self, good: int) -> int:
                self.tries += 1
                if self.tries < good:
                    raise ValueError("again")
                return self.tries

        assert weft.get(Flaky.remote().work.remote(3)) == 3
        with pytest.raises(ValueError, match="again"):
            weft.get(Flaky.remote().work.remote(4))

    def test_only_the_exceptions_listed_are_retried(self) -> None:
        @weft.remote
        class Flaky:
            def __init__(self) -> None:
                self.tries = 0

            @weft.method(max_task_retries=5, retry_exceptions=[KeyError])
            def work(self) -> None:
                self.tries += 1
                raise ValueError(str(self.tries))

        with pytest.raises(ValueError, match="1"):
            weft.get(Flaky.remote().work.remote())

    def test_pending_calls_can_be_limited(self) -> None:
        signal = Signal.remote()
        counter = Counter.options(max_pending_calls=1).remote()
        waiting = counter.up.remote(signal.wait.remote())
        with pytest.raises(weft.exceptions.PendingCallsLimitExceeded):
            counter.read.remote()
        weft.get(signal.send.remote())
        with pytest.raises(TypeError):
            weft.get(waiting, timeout=LIMIT_S)


def _retried(counter: Any) -> Any:
    """Call a method that may run again after a restart."""
    return counter.read.options(max_task_retries=-1).remote()


def _until_gone(name: str) -> None:
    """Wait until no actor has the name."""
    never = Signal.remote().wait.remote()
    for _ in range(2000):
        try:
            weft.get_actor(name)
        except ValueError:
            return
        gc.collect()
        weft.wait([never], timeout=0.005)
    raise AssertionError(f"{name} is still there")


def _until_words(recorder: Any, words: list[str]) -> None:
    """Wait until the recorder was told these."""
    never = Signal.remote().wait.remote()
    for _ in range(2000):
        if weft.get(recorder.read.remote()) == words:
            return
        weft.wait([never], timeout=0.005)
    raise AssertionError(f"{weft.get(recorder.read.remote())}, not {words}")
