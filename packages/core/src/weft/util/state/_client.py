"""The functions of weft.util.state behind one object, for who chooses the resource at run time."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from weft import __version__
from weft.util.state._listing import Session
from weft.util.state._lists import (
    get_actor,
    get_job,
    get_node,
    get_objects,
    get_placement_group,
    get_task,
    get_worker,
    summarize_actors,
    summarize_objects,
    summarize_tasks,
)
from weft.util.state.common import (
    GetApiOptions,
    ListApiOptions,
    StateResource,
    StateSummary,
    SummaryApiOptions,
    SummaryResource,
)
from weft.util.state.exception import StateApiException

if TYPE_CHECKING:
    from collections.abc import Callable

_GETS: dict[StateResource, Callable[..., Any]] = {
    StateResource.ACTORS: get_actor,
    StateResource.JOBS: get_job,
    StateResource.NODES: get_node,
    StateResource.OBJECTS: get_objects,
    StateResource.PLACEMENT_GROUPS: get_placement_group,
    StateResource.TASKS: get_task,
    StateResource.WORKERS: get_worker,
}
_SUMMARIES: dict[SummaryResource, Callable[..., Any]] = {
    SummaryResource.ACTORS: summarize_actors,
    SummaryResource.OBJECTS: summarize_objects,
    SummaryResource.TASKS: summarize_tasks,
}


class StateApiClient:
    """Asks one session. It holds no connection; its methods block and raise as list_tasks does."""

    def __init__(self, address: str | None = None) -> None:
        """`address`: of the session; see this package. Nothing is looked for yet."""
        self._address = address

    def list(
        self,
        resource: StateResource,
        options: ListApiOptions | None = None,
        raise_on_missing_output: bool = True,
    ) -> list[Any]:
        """Return the records of a resource, as its list function does."""
        options = options or ListApiOptions()
        session = Session(self._address, options.timeout, needs_all=raise_on_missing_output)
        return session.find(resource, options.filters, options.limit).records

    def get(self, resource: StateResource, id: str, options: GetApiOptions | None = None) -> Any:
        """Return what the get function of a resource does: None if the id is not known.

        Raises:
            StateApiException: The resource has no ids.
        """
        get = _GETS.get(resource)
        if get is None:
            raise StateApiException(f"{resource.value} have no ids: list them")
        return get(id, address=self._address, timeout=(options or GetApiOptions()).timeout)

    def summary(
        self,
        resource: SummaryResource,
        options: SummaryApiOptions | None = None,
        raise_on_missing_output: bool = True,
    ) -> StateSummary:
        """Return what the summarize function of a resource does, under "cluster"."""
        options = options or SummaryApiOptions()
        found = _SUMMARIES[resource](
            address=self._address,
            timeout=options.timeout,
            filters=options.filters,
            raise_on_missing_output=raise_on_missing_output,
        )
        return StateSummary(node_id_to_summary={"cluster": found})

    def get_address(self) -> str:
        """Return the directory of the session; of the inline engine there is none: empty."""
        facts = Session(self._address, GetApiOptions().timeout).ask("session")
        return str(facts["session_dir"])

    def get_version(self) -> str:
        """Return the version of Weft that is installed here."""
        return __version__
