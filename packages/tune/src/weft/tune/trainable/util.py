"""A trainable with more to it: large objects that it is given, resources that it needs."""

from __future__ import annotations

import functools
import inspect
from typing import TYPE_CHECKING, Any, TypeGuard

import weft
from weft.lowlevel import override
from weft.tune.execution.placement_groups import PlacementGroupFactory, resource_dict_to_pg_factory
from weft.tune.trainable.trainable import Trainable

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from weft import ObjectRef

    Amounts = Mapping[str, float] | PlacementGroupFactory
    Request = Amounts | Callable[[dict[str, Any]], Amounts]


class _Parameters:
    """Objects that are in the store once; each process opens them once."""

    def __init__(self, given: Mapping[str, Any]) -> None:
        self._refs: dict[str, ObjectRef[Any]] = {
            name: weft.put(value) for name, value in given.items()
        }

    @functools.cached_property
    def values(self) -> dict[str, Any]:
        """The objects themselves, by name."""
        return dict(zip(self._refs, weft.get(list(self._refs.values())), strict=True))

    @override
    def __getstate__(self) -> dict[str, Any]:
        return {"_refs": self._refs}


def with_parameters(trainable: Any, **kwargs: Any) -> Any:
    """Give a trainable large objects: they are stored once, and every trial gets them.

    Starts a session of Weft if there is none.

    Args:
        trainable: A function, which gets them by keyword, or a Trainable class, whose `setup` does.
        kwargs: The objects.

    Raises:
        PicklingError: An object cannot be sent; it is named.
    """
    parameters = _Parameters(kwargs)
    if inspect.isclass(trainable):
        _check_class(trainable)

        class WithParameters(trainable):  # type: ignore[misc]  # the base is the user's
            def setup(self, config: dict[str, Any]) -> None:
                super().setup(config, **parameters.values)

        WithParameters.__name__ = trainable.__name__
        WithParameters.__qualname__ = trainable.__qualname__
        return WithParameters

    @functools.wraps(trainable)
    def with_them(config: dict[str, Any]) -> Any:
        return trainable(config, **parameters.values)

    return _like(with_them, trainable)


def with_resources(trainable: Any, resources: Request) -> Any:
    """Say what each trial reserves.

    Args:
        trainable: A function or a Trainable class.
        resources: `{"cpu": 2, "gpu": 0.5}`, a PlacementGroupFactory, or a function of the
            configuration that returns one of these.

    Raises:
        ValueError: An amount is wrong.
    """
    if not callable(resources) or isinstance(resources, PlacementGroupFactory):
        resource_dict_to_pg_factory(resources)
    if inspect.isclass(trainable):
        _check_class(trainable)

        class WithResources(trainable):  # type: ignore[misc]  # the base is the user's
            @classmethod
            def default_resource_request(cls, config: dict[str, Any]) -> PlacementGroupFactory:
                return _requested(resources, config)

        WithResources.__name__ = trainable.__name__
        WithResources.__qualname__ = trainable.__qualname__
        return WithResources

    @functools.wraps(trainable)
    def with_them(*args: Any, **kwargs: Any) -> Any:
        return trainable(*args, **kwargs)

    made = _like(with_them, trainable)
    made.weft_tune_resources = resources
    return made


def _check_class(trainable: type) -> None:
    if not issubclass(trainable, Trainable):
        raise TypeError(
            f"{trainable.__qualname__} is no trainable: derive it from weft.tune.Trainable"
        )


def _like(made: Any, trainable: Any) -> Any:
    """Name a function as the trainable, and do not say that it is the same one."""
    made.__name__ = name_of(trainable)
    made.__dict__.pop("__wrapped__", None)
    return made


def name_of(trainable: Any) -> str:
    """Return what trials of a trainable are called after."""
    if isinstance(trainable, functools.partial):
        return name_of(trainable.func)
    name: str = getattr(trainable, "__name__", type(trainable).__name__)
    return "lambda" if name == "<lambda>" else name


def is_class(trainable: object) -> TypeGuard[type[Trainable]]:
    """Tell whether a trainable is a class; else it is a function."""
    return inspect.isclass(trainable)


def _requested(resources: Request, config: dict[str, Any]) -> PlacementGroupFactory:
    if isinstance(resources, PlacementGroupFactory) or not callable(resources):
        return resource_dict_to_pg_factory(resources)
    return resource_dict_to_pg_factory(resources(config))


def request_varies(trainable: Any) -> bool:
    """Tell whether trials of different configurations may reserve different amounts."""
    if is_class(trainable):
        asked: Any = trainable.default_resource_request
        return asked.__func__ is not Trainable.default_resource_request.__func__  # type: ignore[attr-defined]
    resources = getattr(trainable, "weft_tune_resources", None)
    return callable(resources) and not isinstance(resources, PlacementGroupFactory)


def request_of(trainable: Any, config: dict[str, Any]) -> PlacementGroupFactory:
    """Return what a trial with this configuration reserves."""
    if is_class(trainable):
        found = trainable.default_resource_request(config)
        return resource_dict_to_pg_factory(found)
    return _requested(getattr(trainable, "weft_tune_resources", {"CPU": 1.0}), config)
