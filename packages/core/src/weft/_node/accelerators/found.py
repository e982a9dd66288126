"""The accelerators of one node: those that are there, within what the user allows.

    the device's files     -> found
    the user's variable    -> of those, what it allows          CUDA_VISIBLE_DEVICES=2,3
    the session's options  -> as many as they say               num_gpus=1, resources={"TPU": 4}

What is always true
1. A worker sees no device until it is assigned some, and then its own only; what its runtime
   environment sets itself stays as it is.
2. A device has one id, of one kind. The first kind that is found is the one behind a name.
"""

from __future__ import annotations

from itertools import takewhile
from typing import TYPE_CHECKING

from weft._node.accelerators.chips import Habana, Neuron, Tpu
from weft._node.accelerators.gpus import Amd, Intel, Nvidia
from weft._node.accelerators.kinds import Devices

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from weft._node.accelerators.kinds import Accelerator, HostFiles

KINDS: tuple[Accelerator, ...] = (Nvidia(), Amd(), Intel(), Tpu(), Neuron(), Habana())
TYPE_LABEL = "weft.io/accelerator-type"


class Accelerators:
    """Does not change while the session goes on."""

    def __init__(
        self, asked: Mapping[str, float], host: HostFiles, kinds: Sequence[Accelerator] = KINDS
    ) -> None:
        """`asked`: how many of a name the user wants handed out, where they have said it."""
        self.devices: dict[str, list[str]] = {}
        """Ids by the name of the amount."""
        self.types: dict[str, str] = {}
        """The type of each name's devices, if it is known."""
        self._kind_of: dict[str, Accelerator] = {}
        for kind in kinds:
            if kind.resource not in self._kind_of:
                found = kind.found(host)
                if found.ids:
                    self._add(kind, found, asked.get(kind.resource), host)
        for kind in kinds:
            # Nothing shows that they are there, but the user says so.
            if kind.resource not in self._kind_of and kind.resource in asked:
                self._add(kind, Devices([]), asked[kind.resource], host)

    def _add(self, kind: Accelerator, found: Devices, asked: float | None, host: HostFiles) -> None:
        if asked is not None and asked != int(asked):
            return  # An amount like any other.
        self._kind_of[kind.resource] = kind
        allowed = _allowed(found.ids, kind.named(host))
        ids = allowed if asked is None else allowed[: int(asked)]
        if asked is not None and len(ids) < asked:
            ids = [str(index) for index in range(int(asked))]
        if ids:
            self.devices[kind.resource] = ids
            if found.type_name:
                self.types[kind.resource] = found.type_name

    @property
    def amounts(self) -> dict[str, float]:
        """What they add to the node's resources."""
        counts: dict[str, float] = {name: len(ids) for name, ids in self.devices.items()}
        return {**counts, **{f"accelerator_type:{name}": 1 for name in self.types.values()}}

    @property
    def labels(self) -> dict[str, str]:
        """What they add to the node's labels."""
        types = list(self.types.values())
        return {TYPE_LABEL: types[0]} if types else {}

    def hidden(self) -> dict[str, str]:
        """Return the variables of a process that sees none."""
        return self.shown({name: [] for name in self._kind_of})

    def shown(self, assigned: Mapping[str, list[str]]) -> dict[str, str]:
        """Return the variables with which a process sees these, of the amounts that are named."""
        variables: dict[str, str] = {}
        for name, ids in assigned.items():
            variables |= self._kind_of[name].variables(ids, of=len(self.devices.get(name, ())))
        return variables


def _allowed(found: list[str], named: list[str] | None) -> list[str]:
    """Return those of `named` before the first index that is not there, if any are."""
    if named is None or not found:
        return named or found
    return list(takewhile(lambda id_: not id_.isdecimal() or int(id_) < len(found), named))
