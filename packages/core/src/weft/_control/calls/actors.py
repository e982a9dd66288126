"""The service Actors."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Any

from weft._control.calls.desk import an_id, an_id_or_none, invalid, missing, rung_beside
from weft._machines.enrolments import (
    EndOwner,
    EnrolActor,
    FailActor,
    FinishActor,
    LeaveActor,
    LoseActor,
    PlaceActor,
    RefuseActor,
    StartActor,
)
from weft._transport.control import messages
from weft._wire.messages import ERROR_BYTES

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    from weft._control.bells import Listener
    from weft._control.calls.desk import Desk
    from weft._machines.directory import ActorDirectory, ActorStanding
    from weft._machines.enrolments import Command

PAGE = 1000
TEXT = 64 * 1024
"""Of a cause, in characters: more is not taken."""


class ActorCalls:
    """Answers what is asked of actors."""

    def __init__(self, desk: Desk, actors: ActorDirectory) -> None:
        self._desk = desk
        self._actors = actors

    async def create(
        self, request: messages.CreateActorRequest, _: Any
    ) -> messages.CreateActorAnswer:
        """Create an actor, or find the one of its name."""
        command = EnrolActor(
            an_id(request.actor_id, "actor"),
            an_id(request.owner_id, "process"),
            an_id_or_none(request.node_id, "node"),
            an_id_or_none(request.job_id, "job"),
            request.creation,
            request.name,
            request.namespace,
            request.is_detached,
            request.get_if_exists,
            request.max_restarts,
            request.handle,
            request.class_name,
            dict(request.amounts),
            an_id_or_none(request.group_id, "placement group"),
        )
        found = bytes(await self._desk.do(command, request.header))
        if found == command.actor:
            return messages.CreateActorAnswer(actor_id=found)
        news = self._actors.find(found)
        handle = news.facts.handle if news is not None else b""
        return messages.CreateActorAnswer(actor_id=found, handle=handle)

    async def resolve(self, request: messages.ResolveActorRequest, _: Any) -> messages.Actor:
        """Return where an actor is in its life."""
        self._desk.read()
        if request.WhichOneof("which") == "name":
            name = request.name
            found = self._actors.named(name.name, name.namespace)
            what = f"named {name.name!r} lives in namespace {name.namespace!r}"
        else:
            found = an_id(request.actor_id, "actor")
            what = f"{found.hex()} is known here"
        news = self._actors.find(found) if found else None
        if news is None:
            raise missing(f"no actor {what}")
        actor = _actor(news)
        actor.handle, actor.asked_id = news.facts.handle, news.asked
        actor.why = self._actors.explain(news.facts.actor, self._desk.service.now)
        return actor

    async def names(self, request: messages.ActorNamesRequest, _: Any) -> messages.ActorNamesAnswer:
        """Return the names of living actors."""
        self._desk.read()
        wanted = request.namespace if request.HasField("namespace") else None
        return messages.ActorNamesAnswer(
            names=[
                messages.ActorName(namespace=namespace, name=name)
                for namespace, name in self._actors.names()
                if wanted is None or namespace == wanted
            ]
        )

    async def list(self, request: messages.ListActorsRequest, _: Any) -> messages.ListActorsAnswer:
        """Return a page of the actors that are remembered."""
        self._desk.read()
        after = request.after if request.HasField("after") else None
        page, is_last = self._actors.page(after, min(request.most or PAGE, PAGE))
        return messages.ListActorsAnswer(
            actors=[_actor(news, with_error=False) for news in page], is_last=is_last
        )

    async def watch(
        self, requests: AsyncIterator[messages.WatchActorsRequest], _: Any
    ) -> AsyncIterator[messages.Actor]:
        """Yield each actor that is named as it is, then as it changes."""
        with self._desk.bells.listen() as listener:
            reader = asyncio.create_task(_follow(requests, listener))
            try:
                while True:
                    for key in await rung_beside(reader, listener):
                        self._desk.read()
                        news = self._actors.find(key[1])
                        if news is not None:
                            yield _actor(news)
                            if news.life.state == "dead":
                                listener.leave([key])
            finally:
                reader.cancel()

    async def end(self, request: messages.EndActorRequest, _: Any) -> messages.Done:
        """End an actor."""
        actor = an_id(request.actor_id, "actor")
        command = FinishActor(actor, request.graceful, request.no_restart, request.reason[:TEXT])
        await self._desk.do(command, request.header)
        return messages.Done()

    async def report(self, request: messages.ReportActorRequest, _: Any) -> messages.Done:
        """Hear from a node about an actor's worker."""
        await self._desk.do(_report(request), request.header)
        return messages.Done()

    async def end_owner(self, request: messages.EndOwnerRequest, _: Any) -> messages.Done:
        """Hear that a process is gone."""
        await self._desk.do(EndOwner(an_id(request.owner_id, "process")), request.header)
        return messages.Done()


async def _follow(requests: AsyncIterator[messages.WatchActorsRequest], listener: Listener) -> None:
    async for request in requests:
        try:
            listener.follow([("actor", an_id(actor, "actor")) for actor in request.actor_ids])
        except ValueError as error:
            raise invalid(str(error)) from None
        listener.leave([("actor", actor) for actor in request.no_more])


def _report(request: messages.ReportActorRequest) -> Command:
    actor = an_id(request.actor_id, "actor")
    what = request.WhichOneof("what")
    if what == "refused":
        refused = request.refused
        asked = an_id(refused.asked, "node")
        return RefuseActor(actor, asked, refused.reason[:TEXT], refused.kind)
    worker = an_id(request.worker_id, "worker")
    match what:
        case "placed":
            placed = request.placed
            asked, node = an_id(placed.asked, "node"), an_id(placed.node_id, "node")
            return PlaceActor(actor, asked, node, worker, placed.address)
        case "started":
            return StartActor(actor, worker)
        case "failed":
            if len(request.failed) > ERROR_BYTES:
                size_bytes = len(request.failed)
                raise invalid(f"an error of {size_bytes} bytes: at most {ERROR_BYTES} are kept")
            return FailActor(actor, worker, request.failed)
        case "lost":
            return LoseActor(actor, worker, request.lost[:TEXT])
        case "left":
            return LeaveActor(actor, worker, request.left[:TEXT])
        case _:
            raise invalid("the report does not say what has happened")


def _actor(news: ActorStanding, *, with_error: bool = True) -> messages.Actor:
    facts, life = news.facts, news.life
    return messages.Actor(
        actor_id=facts.actor,
        state=messages.ActorState.Value(life.state.upper()),
        address=life.address,
        worker_id=life.worker,
        node_id=news.node,
        restarts=life.restarts,
        cause=life.cause,
        error=life.error if with_error else b"",
        refused=life.refused,
        name=facts.name,
        namespace=facts.namespace,
        owner_id=facts.owner,
        job_id=facts.job,
        is_detached=facts.is_detached,
        class_name=facts.class_name,
        amounts=facts.amounts,
    )
