"""What lazy graphs have to do."""

# ruff: noqa: D101, D102, D103, S101
# mypy: ignore-errors
# These are tests: their names say what they check. mypy takes no notice of decorators of classes.

from __future__ import annotations

import asyncio
import threading
from typing import Any

import pytest

import weft
from weft._api.graphs import DAGNode, InputAttributeNode, InputNode, MultiOutputNode
from weft.exceptions import (
    ActorDiedError,
    GetTimeoutError,
    OptionError,
    PicklingError,
    SessionError,
)
from weft.testing.semantics.engines import LIMIT_S, EngineSemantics, Signal, needs


@weft.remote
def add(left: int, right: int) -> int:
    return left + right


@weft.remote
def double(number: int) -> int:
    return 2 * number


@weft.remote
def total(numbers: list[Any]) -> int:
    return sum(weft.get(numbers))


@weft.remote
def total_of(numbers: list[int]) -> int:
    return sum(numbers)


@weft.remote
class Tally:
    def __init__(self, value: int = 0) -> None:
        self.value = value

    @weft.method
    def add(self, by: int) -> int:
        self.value += by
        return self.value

    @weft.method(num_returns=2)
    def split(self, by: int) -> tuple[int, int]:
        return self.value, by


class GraphSemantics(EngineSemantics):
    def test_bound_function_runs_when_executed(self) -> None:
        assert weft.get(add.bind(1, right=2).execute()) == 3

    def test_nodes_take_the_results_of_others(self) -> None:
        assert weft.get(add.bind(double.bind(2), double.bind(3)).execute()) == 10

    def test_wrong_arguments_raise_when_bound(self) -> None:
        with pytest.raises(TypeError, match="right"):
            add.bind(1)

    def test_input_is_given_to_execute(self) -> None:
        with InputNode() as number:
            graph = add.bind(double.bind(number), number)
        assert weft.get(graph.execute(3)) == 9
        assert weft.get(graph.execute(4)) == 12

    def test_graph_with_an_input_needs_one(self) -> None:
        with InputNode() as number:
            graph = double.bind(number)
        with pytest.raises(TypeError, match="input"):
            graph.execute()

    def test_input_that_does_not_fit_sends_nothing(self) -> None:
        tally = Tally.remote()
        with InputNode() as given:
            graph = add.bind(tally.add.bind(1), given[1])
        with pytest.raises(IndexError):
            graph.execute((1,))
        assert weft.get(tally.add.remote(0)) == 0

    def test_several_inputs_are_told_apart(self) -> None:
        with InputNode() as given:
            graph = add.bind(given[0], given.more)
        assert weft.get(graph.execute(1, more=5)) == 6

    def test_parts_of_one_input_are_taken(self) -> None:
        with InputNode() as given:
            graph = add.bind(given["a"], given["b"])
        assert weft.get(graph.execute({"a": 1, "b": 2})) == 3

    def test_attributes_of_one_input_are_taken(self) -> None:
        with InputNode() as given:
            node = given.real
        assert isinstance(node, InputAttributeNode)
        assert node.key == "real"
        assert weft.get(double.bind(node).execute(4)) == 8

    def test_shared_node_runs_once(self) -> None:
        tally = Tally.remote()
        shared = tally.add.bind(1)
        assert weft.get(add.bind(shared, shared).execute()) == 2
        assert weft.get(tally.add.remote(0)) == 1

    def test_every_execute_runs_anew(self) -> None:
        tally = Tally.remote()
        graph = tally.add.bind(1)
        assert [weft.get(graph.execute()) for _ in range(3)] == [1, 2, 3]

    def test_nodes_lie_in_containers(self) -> None:
        assert weft.get(total.bind([double.bind(1), double.bind(2)]).execute()) == 6

    def test_several_outputs_give_a_list(self) -> None:
        with InputNode() as number:
            graph = MultiOutputNode([double.bind(number), add.bind(number, 1)])
        assert weft.get(graph.execute(5)) == [10, 6]

    def test_graph_may_be_deeper_than_the_stack(self) -> None:
        first = graph = double.bind(1)
        for _ in range(1500):
            graph = MultiOutputNode([graph])
        visited: list[DAGNode] = []
        graph.traverse_and_apply(visited.append)
        assert visited[-1] is first
        result = graph.apply_recursive(lambda node: node).execute()
        for _ in range(1500):
            (result,) = result
        assert weft.get(result) == 2

    def test_classes_and_methods_are_bound(self) -> None:
        tally = Tally.bind(10)
        graph = tally.add.bind(double.bind(1))
        assert weft.get(graph.execute()) == 12
        assert weft.get(graph.execute()) == 12

    def test_methods_of_one_bound_actor_share_it(self) -> None:
        tally = Tally.bind()
        graph = MultiOutputNode([tally.add.bind(1), tally.add.bind(10)])
        assert weft.get(graph.execute()) == [1, 11]

    def test_several_returns_of_a_method_are_nodes(self) -> None:
        first, second = Tally.remote(7).split.bind(3)
        assert first.is_class_method_output
        assert (first.output_idx, second.output_idx) == (0, 1)
        assert weft.get(MultiOutputNode([first, second]).execute()) == [7, 3]

    def test_options_are_kept(self) -> None:
        @weft.remote
        def name() -> str | None:
            return weft.get_runtime_context().get_task_name()

        assert weft.get(name.options(name="bound").bind().execute()) == "bound"

    def test_unknown_method_is_an_error_when_bound(self) -> None:
        with pytest.raises(AttributeError, match="nothing"):
            _ = Tally.bind().nothing

    def test_wrong_call_of_a_bound_actor_is_an_error_when_bound(self) -> None:
        with pytest.raises(TypeError, match=r"Tally\.add"):
            Tally.bind().add.bind()
        with pytest.raises(OptionError, match="num_return"):
            Tally.bind().add.options(num_return=2)

    def test_nodes_are_rewritten_recursively(self) -> None:
        graph = add.bind(double.bind(1), double.bind(2))

        def ten_times(node: DAGNode) -> Any:
            if node.get_args() == (1,):
                return double.bind(10)
            return node

        assert weft.get(graph.apply_recursive(ten_times).execute()) == 24
        assert weft.get(graph.execute()) == 6

    def test_nodes_are_visited_once(self) -> None:
        shared = double.bind(1)
        visited: list[str] = []
        add.bind(shared, shared).traverse_and_apply(
            lambda node: visited.append(node.get_stable_uuid())
        )
        assert len(visited) == len(set(visited)) == 2

    def test_last_references_can_be_had_and_forgotten(self) -> None:
        node = double.bind(2)
        ref = node.execute()
        assert node.get_object_refs_from_last_execute() == {node.get_stable_uuid(): ref}
        node.clear_cache()
        assert node.get_object_refs_from_last_execute() == {}

    def test_graphs_survive_pickling(self) -> None:
        with InputNode() as number:
            graph = double.bind(number)
        again = weft.get(weft.put(graph))
        assert weft.get(again.execute(4)) == 8
        assert again.get_stable_uuid() == graph.get_stable_uuid()

    def test_nodes_show_what_they_do(self) -> None:
        with InputNode() as given:
            assert (
                repr(add.bind(given[0], 2))
                == "FunctionNode(add: InputAttributeNode(the input[0]), 2)"
            )

    def test_shared_nodes_are_shown_in_short(self) -> None:
        graph = double.bind(1)
        for _ in range(30):
            graph = add.bind(graph, graph)
        assert repr(graph) == "FunctionNode(add: FunctionNode(add), FunctionNode(add))"

    def test_transport_of_tensors_is_no_choice(self) -> None:
        with pytest.raises(NotImplementedError, match="tensors"):
            double.bind(1).with_tensor_transport("nccl")


class CompiledGraphSemantics(EngineSemantics):
    def test_compiled_graph_gives_what_the_graph_gives(self) -> None:
        left, right = Tally.remote(10), Tally.remote(20)
        with InputNode() as number:
            graph = add.bind(left.add.bind(number), right.add.bind(double.bind(number)))
        compiled = graph.experimental_compile()
        assert weft.get(compiled.execute(1)) == 33
        assert weft.get(graph.execute(1)) == 36
        compiled.teardown()

    def test_runs_overlap_and_reach_an_actor_in_their_order(self) -> None:
        tally = Tally.remote()
        with InputNode() as number:
            compiled = tally.add.bind(double.bind(number)).experimental_compile()
        assert weft.get([compiled.execute(number) for number in range(5)]) == [0, 2, 6, 12, 20]

    def test_several_outputs_of_a_compiled_graph_are_a_list(self) -> None:
        tally = Tally.remote(1)
        with InputNode() as given:
            first, second = tally.split.bind(given.by)
            compiled = MultiOutputNode([second, first]).experimental_compile()
        assert weft.get(compiled.execute(by=3)) == [3, 1]

    def test_result_of_a_compiled_graph_is_had_as_often_as_wanted(self) -> None:
        with InputNode() as number:
            compiled = double.bind(number).experimental_compile()
        ref = compiled.execute(2)
        assert [weft.get(ref), ref.get(), weft.get(double.remote(ref))] == [4, 4, 8]

    @needs("concurrency")
    def test_result_of_a_compiled_graph_is_waited_for_in_time(self) -> None:
        signal = Signal.remote()
        ref = signal.wait.bind().experimental_compile().execute()
        with pytest.raises(GetTimeoutError):
            ref.get(timeout=0.01)
        signal.send.remote()
        assert ref.get(timeout=LIMIT_S) == "sent"

    def test_compiled_graph_is_awaited(self) -> None:
        with InputNode() as number:
            graph = MultiOutputNode([double.bind(number), double.bind(1)])
        compiled = graph.experimental_compile(enable_asyncio=True)

        async def program() -> list[int]:
            return list(await asyncio.gather(*await compiled.execute_async(5)))

        assert asyncio.run(program()) == [10, 2]

    def test_error_fails_its_own_run_of_a_compiled_graph(self) -> None:
        tally = Tally.remote()
        with InputNode() as number:
            compiled = double.bind(tally.add.bind(number)).experimental_compile()
        wrong = compiled.execute("one")
        with pytest.raises(TypeError):
            weft.get(wrong)
        assert weft.get(compiled.execute(1)) == 2

    def test_compiled_graph_with_an_input_needs_one(self) -> None:
        tally = Tally.remote()
        with InputNode() as number:
            compiled = add.bind(tally.add.bind(1), number).experimental_compile()
        with pytest.raises(TypeError, match="input"):
            compiled.execute()
        assert weft.get(tally.add.remote(0)) == 0

    def test_large_constant_of_a_compiled_graph_is_kept_as_it_was(self) -> None:
        numbers = list(range(20_000))
        compiled = total_of.bind(numbers).experimental_compile()
        small = total_of.bind([1, 2]).experimental_compile()
        numbers.clear()
        assert [weft.get(compiled.execute()) for _ in range(2)] == [199_990_000] * 2
        assert weft.get(small.execute()) == 3

    def test_what_cannot_travel_is_found_when_a_graph_is_compiled(self) -> None:
        with pytest.raises(PicklingError):
            total_of.bind(threading.Lock()).experimental_compile()

    def test_dead_actor_is_found_when_a_graph_is_compiled(self) -> None:
        tally = Tally.remote()
        weft.kill(tally)
        with pytest.raises(ActorDiedError):
            tally.add.bind(1).experimental_compile()

    def test_graph_that_makes_actors_is_not_compiled(self) -> None:
        with pytest.raises(ValueError, match=r"Tally.*\.remote"):
            Tally.bind().add.bind(1).experimental_compile()

    def test_graph_with_two_inputs_is_not_compiled(self) -> None:
        with pytest.raises(ValueError, match="two inputs"):
            add.bind(InputNode(), InputNode()).experimental_compile()

    def test_torn_down_graph_runs_no_more(self) -> None:
        tally = Tally.remote()
        with InputNode() as number:
            compiled = tally.add.bind(number).experimental_compile()
        ref = compiled.execute(1)
        assert not compiled.is_teardown
        compiled.teardown()
        compiled.teardown()
        assert compiled.is_teardown
        with pytest.raises(SessionError, match="torn down"):
            compiled.execute(2)
        assert weft.get(ref) == 1
        assert weft.get(tally.add.remote(1)) == 2

    def test_actors_end_with_the_compiled_graph_if_asked(self) -> None:
        tally = Tally.remote()
        compiled = tally.add.bind(1).experimental_compile()
        compiled.teardown(kill_actors=True)
        with pytest.raises(ActorDiedError):
            weft.get(tally.add.remote(1))

    def test_options_of_buffers_change_nothing_and_others_are_refused(self) -> None:
        graph = double.bind(1)
        compiled = graph.experimental_compile(
            _submit_timeout=1,
            _buffer_size_bytes=10,
            _max_inflight_executions=1,
            _max_buffered_results=1,
            _overlap_gpu_communication=None,
            _default_communicator="create",
        )
        assert weft.get([compiled.execute() for _ in range(3)]) == [2, 2, 2]
        with pytest.raises(NotImplementedError, match="_overlap_gpu_communication=True"):
            graph.experimental_compile(_overlap_gpu_communication=True)
        with pytest.raises(NotImplementedError, match="buffer_size=1"):
            graph.experimental_compile(buffer_size=1)
        with pytest.raises(NotImplementedError, match="channels"):
            compiled.get_channel_details(None, "")

    def test_compiled_graph_stays_where_it_is(self) -> None:
        compiled = double.bind(1).experimental_compile()
        assert compiled.get_id() != double.bind(1).experimental_compile().get_id()
        with pytest.raises(PicklingError, match="compile"):
            weft.put(compiled)
