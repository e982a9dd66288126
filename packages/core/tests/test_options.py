"""Options: what is taken, what is refused and with which words, and how they are merged."""

from pathlib import Path
from typing import Any

import pytest

from weft._options import (
    InitOptions,
    LabelConditions,
    TaskOptions,
    actor_options,
    check_keywords,
    init_options,
    method_options,
    task_options,
)
from weft._specs import shape_of
from weft.exceptions import OptionError
from weft.util.scheduling_strategies import (
    DoesNotExist,
    Exists,
    In,
    NodeLabelSchedulingStrategy,
    NotIn,
)


def task(**given: Any) -> TaskOptions:
    return task_options(given, subject="f")


class TestTasks:
    def test_nothing_given_gives_the_defaults(self) -> None:
        assert task() == TaskOptions()
        assert (task().num_cpus, task().max_retries, task().num_returns) == (1, 3, 1)

    def test_later_options_replace_earlier_ones_and_keep_the_rest(self) -> None:
        first = task(num_cpus=2, name="a", resources={"x": 1})
        second = task_options({"num_cpus": 0.5, "resources": {"y": 2}}, first, subject="f")
        assert (second.num_cpus, second.name, second.resources) == (0.5, "a", {"y": 2})
        assert first.num_cpus == 2

    def test_none_means_not_given(self) -> None:
        assert task(num_cpus=None, memory=None, runtime_env=None, name=None) == TaskOptions()

    @pytest.mark.parametrize(
        ("option", "value"),
        [
            ("num_cpus", -1),
            ("num_cpus", "two"),
            ("num_cpus", True),
            ("num_cpus", float("nan")),
            ("num_cpus", 0.00001),
            ("num_gpus", 1.5),
            ("memory", 0),
            ("memory", "1G"),
            ("resources", [1]),
            ("resources", {"CPU": 1}),
            ("resources", {"x": "y"}),
            ("resources", {"x": -1}),
            ("num_returns", -1),
            ("num_returns", "lots"),
            ("num_returns", True),
            ("max_retries", -2),
            ("max_retries", 1.0),
            ("retry_exceptions", "ValueError"),
            ("retry_exceptions", [3]),
            ("max_calls", -1),
            ("scheduling_strategy", "NEAR"),
            ("label_selector", {"a": 1}),
            ("label_selector", {"a": "in(b"}),
            ("label_selector", {"a": "exists(b)"}),
            ("label_selector", {"a": "!!b"}),
            ("label_selector", {"": "b"}),
            ("fallback_strategy", {"label_selector": {}}),
            ("fallback_strategy", [{"labels": {}}]),
            ("fallback_strategy", [{"label_selector": {"a": 1}}]),
            ("runtime_env", "pip"),
            ("runtime_env", {"env_vars": {"A": 1}}),
            ("runtime_env", {"pip": [object()]}),
            ("name", 3),
            ("timeout", 0),
            ("timeout", True),
            ("backpressure", -1),
            ("placement_group", object()),
            ("accelerator_type", ""),
        ],
    )
    def test_wrong_value_is_refused_in_one_line_with_its_name(
        self, option: str, value: object
    ) -> None:
        with pytest.raises(OptionError, match=f"^{option}=.* of f ") as caught:
            task(**{option: value})
        assert "\n" not in str(caught.value)

    def test_error_is_a_value_error_too(self) -> None:
        with pytest.raises(ValueError, match="num_cpus"):
            task(num_cpus=-1)

    def test_unknown_option_names_the_nearest(self) -> None:
        with pytest.raises(OptionError, match=r"did you mean num_cpus\?"):
            task(num_cpu=1)

    def test_unknown_option_that_is_like_no_other_lists_all(self) -> None:
        with pytest.raises(OptionError, match=r"there are .*max_retries"):
            task(zzz=1)

    def test_option_of_an_actor_is_told_as_such(self) -> None:
        with pytest.raises(OptionError, match="max_restarts of f is an option of an actor"):
            task(max_restarts=1)

    def test_rays_options_without_another_meaning_are_taken(self) -> None:
        taken = task(
            enable_task_events=False,
            placement_group="default",
            placement_group_bundle_index=-1,
            placement_group_capture_child_tasks=True,
        )
        assert taken == TaskOptions()

    def test_rays_spelling_of_back_pressure_is_taken(self) -> None:
        assert task(_generator_backpressure_num_objects=3).backpressure == 3

    def test_what_looks_like_a_placement_group_is_refused(self) -> None:
        class Grouped:
            placement_group = "mine"
            placement_group_bundle_index = -1
            placement_group_capture_child_tasks = None

        with pytest.raises(OptionError, match="has to name a PlacementGroup"):
            task(scheduling_strategy=Grouped())

    def test_environment_is_kept_as_canonical_json(self) -> None:
        one = task(runtime_env={"working_dir": Path("a"), "env_vars": {"B": "1", "A": "2"}})
        two = task(runtime_env={"env_vars": {"A": "2", "B": "1"}, "working_dir": "a", "pip": None})
        assert one.runtime_env == two.runtime_env
        assert one.runtime_env == '{"env_vars":{"A":"2","B":"1"},"working_dir":"a"}'

    def test_modules_in_an_environment_become_paths(self) -> None:
        made = task(runtime_env={"py_modules": [pytest]}).runtime_env
        assert str(Path(pytest.__file__).parent) in made

    def test_affinity_becomes_text(self) -> None:
        class Near:
            node_id = "ab" * 16
            soft = True

        assert task(scheduling_strategy=Near()).scheduling_strategy == f"node:{'ab' * 16}:soft"

    def test_conditions_on_labels_become_selectors(self) -> None:
        strategy = NodeLabelSchedulingStrategy(
            {"disk": In("ssd", "nvme"), "gpu": DoesNotExist()},
            soft={"zone": NotIn("b"), "rack": Exists()},
        )
        assert task(scheduling_strategy=strategy).scheduling_strategy == LabelConditions(
            hard={"disk": "in(ssd,nvme)", "gpu": "!exists()"},
            soft={"zone": "!in(b)", "rack": "exists()"},
        )

    def test_condition_that_no_selector_could_hold_is_refused(self) -> None:
        class Odd:
            def condition(self) -> str:
                return "like(ssd)"

        with pytest.raises(OptionError, match="like"):
            task(scheduling_strategy=NodeLabelSchedulingStrategy({"disk": Odd()}))

    def test_affinity_to_what_is_no_node_is_refused(self) -> None:
        class Near:
            node_id = "head"
            soft = False

        with pytest.raises(OptionError, match="'head'"):
            task(scheduling_strategy=Near())


class TestActorsAndMethods:
    def test_actor_holds_no_cpu_unless_asked(self) -> None:
        assert actor_options({}, subject="C").num_cpus == 0

    def test_get_if_exists_needs_a_name(self) -> None:
        with pytest.raises(OptionError, match="needs a name"):
            actor_options({"get_if_exists": True}, subject="C")
        assert actor_options({"get_if_exists": True, "name": "a"}, subject="C").get_if_exists

    @pytest.mark.parametrize(
        ("option", "value"),
        [
            ("lifetime", "forever"),
            ("max_restarts", -2),
            ("max_concurrency", 0),
            ("concurrency_groups", {"io": 0}),
            ("concurrency_groups", ["io"]),
            ("name", ""),
            ("namespace", 1),
            ("enable_tensor_transport", True),
        ],
    )
    def test_wrong_value_is_refused(self, option: str, value: object) -> None:
        with pytest.raises(OptionError, match=f"^{option}=.* of C "):
            actor_options({option: value}, subject="C")

    def test_number_of_returns_belongs_to_methods(self) -> None:
        with pytest.raises(OptionError, match=r"num_returns of C .* a method"):
            actor_options({"num_returns": 2}, subject="C")

    def test_undetached_is_the_default_lifetime(self) -> None:
        assert actor_options({"lifetime": "non_detached"}, subject="C").lifetime is None
        assert actor_options({"lifetime": "detached"}, subject="C").lifetime == "detached"

    def test_methods_have_options_of_their_own(self) -> None:
        made = method_options(
            {"num_returns": 2, "concurrency_group": "io", "retry_exceptions": [KeyError]},
            subject="@method",
        )
        assert (made.num_returns, made.concurrency_group) == (2, "io")
        assert made.retry_exceptions == (KeyError,)
        with pytest.raises(OptionError, match="num_cpus of @method is an option of a task"):
            method_options({"num_cpus": 1}, subject="@method")

    def test_decorators_options_are_checked_before_what_they_decorate_is_known(self) -> None:
        check_keywords({"num_cpus": 1, "max_restarts": 1})
        with pytest.raises(OptionError, match="max_restarts"):
            check_keywords({"max_restart": 1})


class TestShapes:
    def test_default_task_needs_one_cpu(self) -> None:
        assert shape_of(task()).amounts == (("CPU", 10_000),)

    def test_all_amounts_are_in_the_shape(self) -> None:
        options = task(
            num_cpus=0.5, num_gpus=1, memory=100, resources={"x": 2}, accelerator_type="T4"
        )
        assert dict(shape_of(options).amounts) == {
            "CPU": 5000,
            "GPU": 10_000,
            "memory": 1_000_000,
            "x": 20_000,
            "accelerator_type:T4": 10,
        }

    def test_equal_options_give_equal_shapes(self) -> None:
        one = shape_of(task(resources={"a": 1, "b": 2}, label_selector={"x": "!y"}, name="a"))
        two = shape_of(task(label_selector={"x": "!y"}, resources={"b": 2, "a": 1}, name="b"))
        assert one == two
        assert hash(one) == hash(two)

    def test_hard_conditions_join_the_selector_and_each_fallback(self) -> None:
        shape = shape_of(
            task(
                scheduling_strategy=NodeLabelSchedulingStrategy(
                    {"disk": In("ssd")}, soft={"zone": NotIn("b")}
                ),
                label_selector={"region": "eu", "disk": "!tape"},
                fallback_strategy=[{"label_selector": {"region": "us"}}, {"label_selector": {}}],
            )
        )
        assert shape.strategy == "DEFAULT"
        assert shape.labels == (("disk", "!tape"), ("disk", "in(ssd)"), ("region", "eu"))
        assert shape.fallbacks == (
            (("disk", "in(ssd)"), ("region", "us")),
            (("disk", "in(ssd)"),),
        )
        assert shape.preferred == (("zone", "!in(b)"),)

    def test_actor_without_demands_has_an_empty_shape(self) -> None:
        assert shape_of(actor_options({}, subject="C")).amounts == ()


class TestSessions:
    def test_nothing_given_gives_the_defaults(self) -> None:
        assert init_options({"num_cpus": None}) == InitOptions()

    @pytest.mark.parametrize(
        ("option", "value"),
        [
            ("num_cpus", -1),
            ("num_cpus", 1.5),
            ("engine", "cloud"),
            ("preload", "numpy"),
            ("namespace", ""),
            ("object_store_memory", -5),
            ("log_to_driver", "yes"),
            ("resources", {"GPU": 1}),
            ("labels", ["disk"]),
            ("labels", {"rack": 7}),
        ],
    )
    def test_wrong_value_is_refused(self, option: str, value: object) -> None:
        with pytest.raises(OptionError, match=f"^{option}=.* of init "):
            init_options({option: value})

    def test_preloaded_modules_become_a_tuple(self) -> None:
        assert init_options({"preload": ["json"]}).preload == ("json",)
