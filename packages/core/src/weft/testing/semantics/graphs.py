"""What lazy graphs have to do."""

# ruff: noqa: D101, D102, D103, S101
# mypy: ignore-errors
# These are tests: their names say what they check. mypy takes no notice of decorators of classes.

from __future__ import annotations

from typing import Any

import pytest

import weft
from weft._api.graphs import DAGNode, InputAttributeNode, InputNode, MultiOutputNode
from weft.testing.semantics.engines import EngineSemantics


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

    def test_compiled_graphs_are_refused(self) -> None:
        with pytest.raises(NotImplementedError, match="execute"):
            double.bind(1).experimental_compile()

    def test_nodes_show_what_they_do(self) -> None:
        with InputNode() as given:
            assert (
                repr(add.bind(given[0], 2))
                == "FunctionNode(add: InputAttributeNode(the input[0]), 2)"
            )
