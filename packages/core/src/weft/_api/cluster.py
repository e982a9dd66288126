"""The cluster as its users see it: nodes, resources, what ran when, and what somebody waits for."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, overload

import msgspec

from weft._api.handles import ActorHandle
from weft._api.session import running
from weft._lazy import lazy
from weft._refs import ObjectRef
from weft.exceptions import ArgumentError

if TYPE_CHECKING:
    from os import PathLike

    from weft._api import groups, timelines
else:
    groups = lazy("weft._api.groups")
    timelines = lazy("weft._api.timelines")


def nodes() -> list[dict[str, Any]]:
    """Return one record a node: NodeID, Alive, Resources, Labels ... Blocks for one message.

    In a cluster they are as the node of the caller knows them: what has changed elsewhere is known
    a tenth of a second later. The dead are listed too, with a DeathReasonMessage.

    Raises:
        SessionError: There is no session.
    """
    return running().nodes()


def cluster_resources() -> dict[str, float]:
    """Return the amounts of all resources of all nodes. Blocks for one message.

    Raises:
        SessionError: There is no session.
    """
    return running().resources(available=False)


def available_resources() -> dict[str, float]:
    """Return the amounts that nobody uses now. Blocks for one message.

    Of other nodes, as they have told last.

    Raises:
        SessionError: There is no session.
    """
    return running().resources(available=True)


@overload
def timeline(filename: None = None) -> list[dict[str, Any]]: ...
@overload
def timeline(filename: str | PathLike[str]) -> None: ...
def timeline(filename: str | PathLike[str] | None = None) -> list[dict[str, Any]] | None:
    """Return, or write to a file, what ran when: open it in chrome://tracing or ui.perfetto.dev.

    Args:
        filename: Where to write it as JSON; None: return it.

    Returns:
        Chrome trace events, if there is no `filename`. The newest ones: the number kept is bounded.
        Tasks of a cluster are told apart by the node where they ran. Those that processes of a node
        had submitted which does not answer are missing: `weft timeline` names it.

    Raises:
        SessionError: There is no session.
    """
    events = timelines.trace_events(running().inspect_nodes(["tasks"]))
    if filename is None:
        return events
    # pathlib would be loaded for this alone.
    with open(filename, "wb") as file:  # noqa: PTH123
        file.write(msgspec.json.encode(events))
    return None


def why(subject: Any) -> str:
    """Tell in a few lines what a reference, an actor or a placement group waits for.

    That is: which resource falls short by how much, which arguments are to come, who died of what.

    Args:
        subject: A reference, or a handle of an actor or a placement group.

    Raises:
        ArgumentError: It is something else (a TypeError).
        SessionError: There is no session.
    """
    if isinstance(subject, ActorHandle):
        return running().why(subject._weft_meta.actor_id)
    if isinstance(subject, ObjectRef):
        return running().why(subject)
    if isinstance(subject, groups.PlacementGroup):
        return running().why(subject.id)
    raise ArgumentError(
        "weft.why takes a reference, or a handle of an actor or a placement group, not "
        f"{type(subject).__name__}"
    )
