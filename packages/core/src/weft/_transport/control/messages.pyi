# Made by tools/protos.py of packages/core/proto/weft/control.proto: do not edit.
# ruff: noqa
# fmt: off
# mypy: ignore-errors
from google.protobuf.internal import containers as _containers
from google.protobuf.internal import enum_type_wrapper as _enum_type_wrapper
from google.protobuf import descriptor as _descriptor
from google.protobuf import message as _message
from collections.abc import Iterable as _Iterable, Mapping as _Mapping
from typing import ClassVar as _ClassVar, Optional as _Optional, Union as _Union

DESCRIPTOR: _descriptor.FileDescriptor

class ActorState(int, metaclass=_enum_type_wrapper.EnumTypeWrapper):
    __slots__ = ()
    ACTOR_STATE_UNSPECIFIED: _ClassVar[ActorState]
    PENDING: _ClassVar[ActorState]
    ALIVE: _ClassVar[ActorState]
    RESTARTING: _ClassVar[ActorState]
    DEAD: _ClassVar[ActorState]

class NodeState(int, metaclass=_enum_type_wrapper.EnumTypeWrapper):
    __slots__ = ()
    NODE_STATE_UNSPECIFIED: _ClassVar[NodeState]
    MEMBER: _ClassVar[NodeState]
    DRAINING: _ClassVar[NodeState]
    GONE: _ClassVar[NodeState]

class GroupState(int, metaclass=_enum_type_wrapper.EnumTypeWrapper):
    __slots__ = ()
    GROUP_STATE_UNSPECIFIED: _ClassVar[GroupState]
    GROUP_PENDING: _ClassVar[GroupState]
    GROUP_PREPARING: _ClassVar[GroupState]
    GROUP_READY: _ClassVar[GroupState]
    GROUP_RESCHEDULING: _ClassVar[GroupState]
    GROUP_REMOVED: _ClassVar[GroupState]
ACTOR_STATE_UNSPECIFIED: ActorState
PENDING: ActorState
ALIVE: ActorState
RESTARTING: ActorState
DEAD: ActorState
NODE_STATE_UNSPECIFIED: NodeState
MEMBER: NodeState
DRAINING: NodeState
GONE: NodeState
GROUP_STATE_UNSPECIFIED: GroupState
GROUP_PENDING: GroupState
GROUP_PREPARING: GroupState
GROUP_READY: GroupState
GROUP_RESCHEDULING: GroupState
GROUP_REMOVED: GroupState

class RequestId(_message.Message):
    __slots__ = ("client", "number", "done_below")
    CLIENT_FIELD_NUMBER: _ClassVar[int]
    NUMBER_FIELD_NUMBER: _ClassVar[int]
    DONE_BELOW_FIELD_NUMBER: _ClassVar[int]
    client: bytes
    number: int
    done_below: int
    def __init__(self, client: _Optional[bytes] = ..., number: _Optional[int] = ..., done_below: _Optional[int] = ...) -> None: ...

class Sender(_message.Message):
    __slots__ = ("node_id", "incarnation")
    NODE_ID_FIELD_NUMBER: _ClassVar[int]
    INCARNATION_FIELD_NUMBER: _ClassVar[int]
    node_id: bytes
    incarnation: int
    def __init__(self, node_id: _Optional[bytes] = ..., incarnation: _Optional[int] = ...) -> None: ...

class Header(_message.Message):
    __slots__ = ("id", "sender")
    ID_FIELD_NUMBER: _ClassVar[int]
    SENDER_FIELD_NUMBER: _ClassVar[int]
    id: RequestId
    sender: Sender
    def __init__(self, id: _Optional[_Union[RequestId, _Mapping]] = ..., sender: _Optional[_Union[Sender, _Mapping]] = ...) -> None: ...

class Done(_message.Message):
    __slots__ = ()
    def __init__(self) -> None: ...

class GetRequest(_message.Message):
    __slots__ = ("namespace", "keys")
    NAMESPACE_FIELD_NUMBER: _ClassVar[int]
    KEYS_FIELD_NUMBER: _ClassVar[int]
    namespace: bytes
    keys: _containers.RepeatedScalarFieldContainer[bytes]
    def __init__(self, namespace: _Optional[bytes] = ..., keys: _Optional[_Iterable[bytes]] = ...) -> None: ...

class GetAnswer(_message.Message):
    __slots__ = ("found",)
    FOUND_FIELD_NUMBER: _ClassVar[int]
    found: _containers.RepeatedCompositeFieldContainer[KeyAndValue]
    def __init__(self, found: _Optional[_Iterable[_Union[KeyAndValue, _Mapping]]] = ...) -> None: ...

class KeyAndValue(_message.Message):
    __slots__ = ("key", "value")
    KEY_FIELD_NUMBER: _ClassVar[int]
    VALUE_FIELD_NUMBER: _ClassVar[int]
    key: bytes
    value: bytes
    def __init__(self, key: _Optional[bytes] = ..., value: _Optional[bytes] = ...) -> None: ...

class PutRequest(_message.Message):
    __slots__ = ("header", "namespace", "key", "value", "overwrite")
    HEADER_FIELD_NUMBER: _ClassVar[int]
    NAMESPACE_FIELD_NUMBER: _ClassVar[int]
    KEY_FIELD_NUMBER: _ClassVar[int]
    VALUE_FIELD_NUMBER: _ClassVar[int]
    OVERWRITE_FIELD_NUMBER: _ClassVar[int]
    header: Header
    namespace: bytes
    key: bytes
    value: bytes
    overwrite: bool
    def __init__(self, header: _Optional[_Union[Header, _Mapping]] = ..., namespace: _Optional[bytes] = ..., key: _Optional[bytes] = ..., value: _Optional[bytes] = ..., overwrite: _Optional[bool] = ...) -> None: ...

class PutAnswer(_message.Message):
    __slots__ = ("existed",)
    EXISTED_FIELD_NUMBER: _ClassVar[int]
    existed: bool
    def __init__(self, existed: _Optional[bool] = ...) -> None: ...

class DeleteRequest(_message.Message):
    __slots__ = ("header", "namespace", "key", "by_prefix")
    HEADER_FIELD_NUMBER: _ClassVar[int]
    NAMESPACE_FIELD_NUMBER: _ClassVar[int]
    KEY_FIELD_NUMBER: _ClassVar[int]
    BY_PREFIX_FIELD_NUMBER: _ClassVar[int]
    header: Header
    namespace: bytes
    key: bytes
    by_prefix: bool
    def __init__(self, header: _Optional[_Union[Header, _Mapping]] = ..., namespace: _Optional[bytes] = ..., key: _Optional[bytes] = ..., by_prefix: _Optional[bool] = ...) -> None: ...

class DeleteAnswer(_message.Message):
    __slots__ = ("deleted",)
    DELETED_FIELD_NUMBER: _ClassVar[int]
    deleted: int
    def __init__(self, deleted: _Optional[int] = ...) -> None: ...

class KeysRequest(_message.Message):
    __slots__ = ("namespace", "prefix", "after", "most")
    NAMESPACE_FIELD_NUMBER: _ClassVar[int]
    PREFIX_FIELD_NUMBER: _ClassVar[int]
    AFTER_FIELD_NUMBER: _ClassVar[int]
    MOST_FIELD_NUMBER: _ClassVar[int]
    namespace: bytes
    prefix: bytes
    after: bytes
    most: int
    def __init__(self, namespace: _Optional[bytes] = ..., prefix: _Optional[bytes] = ..., after: _Optional[bytes] = ..., most: _Optional[int] = ...) -> None: ...

class KeysAnswer(_message.Message):
    __slots__ = ("keys", "is_last")
    KEYS_FIELD_NUMBER: _ClassVar[int]
    IS_LAST_FIELD_NUMBER: _ClassVar[int]
    keys: _containers.RepeatedScalarFieldContainer[bytes]
    is_last: bool
    def __init__(self, keys: _Optional[_Iterable[bytes]] = ..., is_last: _Optional[bool] = ...) -> None: ...

class ExistsRequest(_message.Message):
    __slots__ = ("namespace", "key")
    NAMESPACE_FIELD_NUMBER: _ClassVar[int]
    KEY_FIELD_NUMBER: _ClassVar[int]
    namespace: bytes
    key: bytes
    def __init__(self, namespace: _Optional[bytes] = ..., key: _Optional[bytes] = ...) -> None: ...

class ExistsAnswer(_message.Message):
    __slots__ = ("exists",)
    EXISTS_FIELD_NUMBER: _ClassVar[int]
    exists: bool
    def __init__(self, exists: _Optional[bool] = ...) -> None: ...

class Cursor(_message.Message):
    __slots__ = ("epoch", "position")
    EPOCH_FIELD_NUMBER: _ClassVar[int]
    POSITION_FIELD_NUMBER: _ClassVar[int]
    epoch: int
    position: int
    def __init__(self, epoch: _Optional[int] = ..., position: _Optional[int] = ...) -> None: ...

class PublishRequest(_message.Message):
    __slots__ = ("topic", "message")
    TOPIC_FIELD_NUMBER: _ClassVar[int]
    MESSAGE_FIELD_NUMBER: _ClassVar[int]
    topic: bytes
    message: bytes
    def __init__(self, topic: _Optional[bytes] = ..., message: _Optional[bytes] = ...) -> None: ...

class PublishAnswer(_message.Message):
    __slots__ = ("cursor",)
    CURSOR_FIELD_NUMBER: _ClassVar[int]
    cursor: Cursor
    def __init__(self, cursor: _Optional[_Union[Cursor, _Mapping]] = ...) -> None: ...

class SubscribeRequest(_message.Message):
    __slots__ = ("topic", "cursor")
    TOPIC_FIELD_NUMBER: _ClassVar[int]
    CURSOR_FIELD_NUMBER: _ClassVar[int]
    topic: bytes
    cursor: Cursor
    def __init__(self, topic: _Optional[bytes] = ..., cursor: _Optional[_Union[Cursor, _Mapping]] = ...) -> None: ...

class Published(_message.Message):
    __slots__ = ("messages", "cursor", "missed")
    MESSAGES_FIELD_NUMBER: _ClassVar[int]
    CURSOR_FIELD_NUMBER: _ClassVar[int]
    MISSED_FIELD_NUMBER: _ClassVar[int]
    messages: _containers.RepeatedScalarFieldContainer[bytes]
    cursor: Cursor
    missed: int
    def __init__(self, messages: _Optional[_Iterable[bytes]] = ..., cursor: _Optional[_Union[Cursor, _Mapping]] = ..., missed: _Optional[int] = ...) -> None: ...

class Limits(_message.Message):
    __slots__ = ("quota", "weight", "priority")
    class QuotaEntry(_message.Message):
        __slots__ = ("key", "value")
        KEY_FIELD_NUMBER: _ClassVar[int]
        VALUE_FIELD_NUMBER: _ClassVar[int]
        key: str
        value: int
        def __init__(self, key: _Optional[str] = ..., value: _Optional[int] = ...) -> None: ...
    QUOTA_FIELD_NUMBER: _ClassVar[int]
    WEIGHT_FIELD_NUMBER: _ClassVar[int]
    PRIORITY_FIELD_NUMBER: _ClassVar[int]
    quota: _containers.ScalarMap[str, int]
    weight: int
    priority: int
    def __init__(self, quota: _Optional[_Mapping[str, int]] = ..., weight: _Optional[int] = ..., priority: _Optional[int] = ...) -> None: ...

class BeginJobRequest(_message.Message):
    __slots__ = ("header", "job_id", "driver_id", "node_id", "address", "namespace", "entrypoint", "metadata", "limits")
    class MetadataEntry(_message.Message):
        __slots__ = ("key", "value")
        KEY_FIELD_NUMBER: _ClassVar[int]
        VALUE_FIELD_NUMBER: _ClassVar[int]
        key: str
        value: str
        def __init__(self, key: _Optional[str] = ..., value: _Optional[str] = ...) -> None: ...
    HEADER_FIELD_NUMBER: _ClassVar[int]
    JOB_ID_FIELD_NUMBER: _ClassVar[int]
    DRIVER_ID_FIELD_NUMBER: _ClassVar[int]
    NODE_ID_FIELD_NUMBER: _ClassVar[int]
    ADDRESS_FIELD_NUMBER: _ClassVar[int]
    NAMESPACE_FIELD_NUMBER: _ClassVar[int]
    ENTRYPOINT_FIELD_NUMBER: _ClassVar[int]
    METADATA_FIELD_NUMBER: _ClassVar[int]
    LIMITS_FIELD_NUMBER: _ClassVar[int]
    header: Header
    job_id: bytes
    driver_id: bytes
    node_id: bytes
    address: str
    namespace: str
    entrypoint: str
    metadata: _containers.ScalarMap[str, str]
    limits: Limits
    def __init__(self, header: _Optional[_Union[Header, _Mapping]] = ..., job_id: _Optional[bytes] = ..., driver_id: _Optional[bytes] = ..., node_id: _Optional[bytes] = ..., address: _Optional[str] = ..., namespace: _Optional[str] = ..., entrypoint: _Optional[str] = ..., metadata: _Optional[_Mapping[str, str]] = ..., limits: _Optional[_Union[Limits, _Mapping]] = ...) -> None: ...

class EndJobRequest(_message.Message):
    __slots__ = ("header", "job_id", "reason")
    HEADER_FIELD_NUMBER: _ClassVar[int]
    JOB_ID_FIELD_NUMBER: _ClassVar[int]
    REASON_FIELD_NUMBER: _ClassVar[int]
    header: Header
    job_id: bytes
    reason: str
    def __init__(self, header: _Optional[_Union[Header, _Mapping]] = ..., job_id: _Optional[bytes] = ..., reason: _Optional[str] = ...) -> None: ...

class LimitJobRequest(_message.Message):
    __slots__ = ("header", "job_id", "limits")
    HEADER_FIELD_NUMBER: _ClassVar[int]
    JOB_ID_FIELD_NUMBER: _ClassVar[int]
    LIMITS_FIELD_NUMBER: _ClassVar[int]
    header: Header
    job_id: bytes
    limits: Limits
    def __init__(self, header: _Optional[_Union[Header, _Mapping]] = ..., job_id: _Optional[bytes] = ..., limits: _Optional[_Union[Limits, _Mapping]] = ...) -> None: ...

class ListJobsRequest(_message.Message):
    __slots__ = ()
    def __init__(self) -> None: ...

class ListJobsAnswer(_message.Message):
    __slots__ = ("jobs",)
    JOBS_FIELD_NUMBER: _ClassVar[int]
    jobs: _containers.RepeatedCompositeFieldContainer[Job]
    def __init__(self, jobs: _Optional[_Iterable[_Union[Job, _Mapping]]] = ...) -> None: ...

class WatchJobsRequest(_message.Message):
    __slots__ = ("after",)
    AFTER_FIELD_NUMBER: _ClassVar[int]
    after: int
    def __init__(self, after: _Optional[int] = ...) -> None: ...

class Job(_message.Message):
    __slots__ = ("job_id", "driver_id", "node_id", "address", "namespace", "entrypoint", "metadata", "limits", "began_at", "ended_at", "reason", "change")
    class MetadataEntry(_message.Message):
        __slots__ = ("key", "value")
        KEY_FIELD_NUMBER: _ClassVar[int]
        VALUE_FIELD_NUMBER: _ClassVar[int]
        key: str
        value: str
        def __init__(self, key: _Optional[str] = ..., value: _Optional[str] = ...) -> None: ...
    JOB_ID_FIELD_NUMBER: _ClassVar[int]
    DRIVER_ID_FIELD_NUMBER: _ClassVar[int]
    NODE_ID_FIELD_NUMBER: _ClassVar[int]
    ADDRESS_FIELD_NUMBER: _ClassVar[int]
    NAMESPACE_FIELD_NUMBER: _ClassVar[int]
    ENTRYPOINT_FIELD_NUMBER: _ClassVar[int]
    METADATA_FIELD_NUMBER: _ClassVar[int]
    LIMITS_FIELD_NUMBER: _ClassVar[int]
    BEGAN_AT_FIELD_NUMBER: _ClassVar[int]
    ENDED_AT_FIELD_NUMBER: _ClassVar[int]
    REASON_FIELD_NUMBER: _ClassVar[int]
    CHANGE_FIELD_NUMBER: _ClassVar[int]
    job_id: bytes
    driver_id: bytes
    node_id: bytes
    address: str
    namespace: str
    entrypoint: str
    metadata: _containers.ScalarMap[str, str]
    limits: Limits
    began_at: float
    ended_at: float
    reason: str
    change: int
    def __init__(self, job_id: _Optional[bytes] = ..., driver_id: _Optional[bytes] = ..., node_id: _Optional[bytes] = ..., address: _Optional[str] = ..., namespace: _Optional[str] = ..., entrypoint: _Optional[str] = ..., metadata: _Optional[_Mapping[str, str]] = ..., limits: _Optional[_Union[Limits, _Mapping]] = ..., began_at: _Optional[float] = ..., ended_at: _Optional[float] = ..., reason: _Optional[str] = ..., change: _Optional[int] = ...) -> None: ...

class CreateActorRequest(_message.Message):
    __slots__ = ("header", "actor_id", "owner_id", "node_id", "job_id", "creation", "name", "namespace", "is_detached", "get_if_exists", "max_restarts", "handle", "class_name", "amounts", "group_id")
    class AmountsEntry(_message.Message):
        __slots__ = ("key", "value")
        KEY_FIELD_NUMBER: _ClassVar[int]
        VALUE_FIELD_NUMBER: _ClassVar[int]
        key: str
        value: int
        def __init__(self, key: _Optional[str] = ..., value: _Optional[int] = ...) -> None: ...
    HEADER_FIELD_NUMBER: _ClassVar[int]
    ACTOR_ID_FIELD_NUMBER: _ClassVar[int]
    OWNER_ID_FIELD_NUMBER: _ClassVar[int]
    NODE_ID_FIELD_NUMBER: _ClassVar[int]
    JOB_ID_FIELD_NUMBER: _ClassVar[int]
    CREATION_FIELD_NUMBER: _ClassVar[int]
    NAME_FIELD_NUMBER: _ClassVar[int]
    NAMESPACE_FIELD_NUMBER: _ClassVar[int]
    IS_DETACHED_FIELD_NUMBER: _ClassVar[int]
    GET_IF_EXISTS_FIELD_NUMBER: _ClassVar[int]
    MAX_RESTARTS_FIELD_NUMBER: _ClassVar[int]
    HANDLE_FIELD_NUMBER: _ClassVar[int]
    CLASS_NAME_FIELD_NUMBER: _ClassVar[int]
    AMOUNTS_FIELD_NUMBER: _ClassVar[int]
    GROUP_ID_FIELD_NUMBER: _ClassVar[int]
    header: Header
    actor_id: bytes
    owner_id: bytes
    node_id: bytes
    job_id: bytes
    creation: bytes
    name: str
    namespace: str
    is_detached: bool
    get_if_exists: bool
    max_restarts: int
    handle: bytes
    class_name: str
    amounts: _containers.ScalarMap[str, int]
    group_id: bytes
    def __init__(self, header: _Optional[_Union[Header, _Mapping]] = ..., actor_id: _Optional[bytes] = ..., owner_id: _Optional[bytes] = ..., node_id: _Optional[bytes] = ..., job_id: _Optional[bytes] = ..., creation: _Optional[bytes] = ..., name: _Optional[str] = ..., namespace: _Optional[str] = ..., is_detached: _Optional[bool] = ..., get_if_exists: _Optional[bool] = ..., max_restarts: _Optional[int] = ..., handle: _Optional[bytes] = ..., class_name: _Optional[str] = ..., amounts: _Optional[_Mapping[str, int]] = ..., group_id: _Optional[bytes] = ...) -> None: ...

class CreateActorAnswer(_message.Message):
    __slots__ = ("actor_id", "handle")
    ACTOR_ID_FIELD_NUMBER: _ClassVar[int]
    HANDLE_FIELD_NUMBER: _ClassVar[int]
    actor_id: bytes
    handle: bytes
    def __init__(self, actor_id: _Optional[bytes] = ..., handle: _Optional[bytes] = ...) -> None: ...

class ResolveActorRequest(_message.Message):
    __slots__ = ("actor_id", "name")
    ACTOR_ID_FIELD_NUMBER: _ClassVar[int]
    NAME_FIELD_NUMBER: _ClassVar[int]
    actor_id: bytes
    name: ActorName
    def __init__(self, actor_id: _Optional[bytes] = ..., name: _Optional[_Union[ActorName, _Mapping]] = ...) -> None: ...

class ActorName(_message.Message):
    __slots__ = ("namespace", "name")
    NAMESPACE_FIELD_NUMBER: _ClassVar[int]
    NAME_FIELD_NUMBER: _ClassVar[int]
    namespace: str
    name: str
    def __init__(self, namespace: _Optional[str] = ..., name: _Optional[str] = ...) -> None: ...

class Actor(_message.Message):
    __slots__ = ("actor_id", "state", "address", "worker_id", "node_id", "restarts", "cause", "error", "refused", "name", "namespace", "owner_id", "job_id", "is_detached", "class_name", "amounts", "handle", "why", "asked_id")
    class AmountsEntry(_message.Message):
        __slots__ = ("key", "value")
        KEY_FIELD_NUMBER: _ClassVar[int]
        VALUE_FIELD_NUMBER: _ClassVar[int]
        key: str
        value: int
        def __init__(self, key: _Optional[str] = ..., value: _Optional[int] = ...) -> None: ...
    ACTOR_ID_FIELD_NUMBER: _ClassVar[int]
    STATE_FIELD_NUMBER: _ClassVar[int]
    ADDRESS_FIELD_NUMBER: _ClassVar[int]
    WORKER_ID_FIELD_NUMBER: _ClassVar[int]
    NODE_ID_FIELD_NUMBER: _ClassVar[int]
    RESTARTS_FIELD_NUMBER: _ClassVar[int]
    CAUSE_FIELD_NUMBER: _ClassVar[int]
    ERROR_FIELD_NUMBER: _ClassVar[int]
    REFUSED_FIELD_NUMBER: _ClassVar[int]
    NAME_FIELD_NUMBER: _ClassVar[int]
    NAMESPACE_FIELD_NUMBER: _ClassVar[int]
    OWNER_ID_FIELD_NUMBER: _ClassVar[int]
    JOB_ID_FIELD_NUMBER: _ClassVar[int]
    IS_DETACHED_FIELD_NUMBER: _ClassVar[int]
    CLASS_NAME_FIELD_NUMBER: _ClassVar[int]
    AMOUNTS_FIELD_NUMBER: _ClassVar[int]
    HANDLE_FIELD_NUMBER: _ClassVar[int]
    WHY_FIELD_NUMBER: _ClassVar[int]
    ASKED_ID_FIELD_NUMBER: _ClassVar[int]
    actor_id: bytes
    state: ActorState
    address: str
    worker_id: bytes
    node_id: bytes
    restarts: int
    cause: str
    error: bytes
    refused: str
    name: str
    namespace: str
    owner_id: bytes
    job_id: bytes
    is_detached: bool
    class_name: str
    amounts: _containers.ScalarMap[str, int]
    handle: bytes
    why: str
    asked_id: bytes
    def __init__(self, actor_id: _Optional[bytes] = ..., state: _Optional[_Union[ActorState, str]] = ..., address: _Optional[str] = ..., worker_id: _Optional[bytes] = ..., node_id: _Optional[bytes] = ..., restarts: _Optional[int] = ..., cause: _Optional[str] = ..., error: _Optional[bytes] = ..., refused: _Optional[str] = ..., name: _Optional[str] = ..., namespace: _Optional[str] = ..., owner_id: _Optional[bytes] = ..., job_id: _Optional[bytes] = ..., is_detached: _Optional[bool] = ..., class_name: _Optional[str] = ..., amounts: _Optional[_Mapping[str, int]] = ..., handle: _Optional[bytes] = ..., why: _Optional[str] = ..., asked_id: _Optional[bytes] = ...) -> None: ...

class ActorNamesRequest(_message.Message):
    __slots__ = ("namespace",)
    NAMESPACE_FIELD_NUMBER: _ClassVar[int]
    namespace: str
    def __init__(self, namespace: _Optional[str] = ...) -> None: ...

class ActorNamesAnswer(_message.Message):
    __slots__ = ("names",)
    NAMES_FIELD_NUMBER: _ClassVar[int]
    names: _containers.RepeatedCompositeFieldContainer[ActorName]
    def __init__(self, names: _Optional[_Iterable[_Union[ActorName, _Mapping]]] = ...) -> None: ...

class ListActorsRequest(_message.Message):
    __slots__ = ("after", "most")
    AFTER_FIELD_NUMBER: _ClassVar[int]
    MOST_FIELD_NUMBER: _ClassVar[int]
    after: bytes
    most: int
    def __init__(self, after: _Optional[bytes] = ..., most: _Optional[int] = ...) -> None: ...

class ListActorsAnswer(_message.Message):
    __slots__ = ("actors", "is_last")
    ACTORS_FIELD_NUMBER: _ClassVar[int]
    IS_LAST_FIELD_NUMBER: _ClassVar[int]
    actors: _containers.RepeatedCompositeFieldContainer[Actor]
    is_last: bool
    def __init__(self, actors: _Optional[_Iterable[_Union[Actor, _Mapping]]] = ..., is_last: _Optional[bool] = ...) -> None: ...

class WatchActorsRequest(_message.Message):
    __slots__ = ("actor_ids", "no_more")
    ACTOR_IDS_FIELD_NUMBER: _ClassVar[int]
    NO_MORE_FIELD_NUMBER: _ClassVar[int]
    actor_ids: _containers.RepeatedScalarFieldContainer[bytes]
    no_more: _containers.RepeatedScalarFieldContainer[bytes]
    def __init__(self, actor_ids: _Optional[_Iterable[bytes]] = ..., no_more: _Optional[_Iterable[bytes]] = ...) -> None: ...

class EndActorRequest(_message.Message):
    __slots__ = ("header", "actor_id", "graceful", "no_restart", "reason")
    HEADER_FIELD_NUMBER: _ClassVar[int]
    ACTOR_ID_FIELD_NUMBER: _ClassVar[int]
    GRACEFUL_FIELD_NUMBER: _ClassVar[int]
    NO_RESTART_FIELD_NUMBER: _ClassVar[int]
    REASON_FIELD_NUMBER: _ClassVar[int]
    header: Header
    actor_id: bytes
    graceful: bool
    no_restart: bool
    reason: str
    def __init__(self, header: _Optional[_Union[Header, _Mapping]] = ..., actor_id: _Optional[bytes] = ..., graceful: _Optional[bool] = ..., no_restart: _Optional[bool] = ..., reason: _Optional[str] = ...) -> None: ...

class ReportActorRequest(_message.Message):
    __slots__ = ("header", "actor_id", "worker_id", "placed", "started", "failed", "lost", "left", "refused")
    class Placed(_message.Message):
        __slots__ = ("asked", "node_id", "address")
        ASKED_FIELD_NUMBER: _ClassVar[int]
        NODE_ID_FIELD_NUMBER: _ClassVar[int]
        ADDRESS_FIELD_NUMBER: _ClassVar[int]
        asked: bytes
        node_id: bytes
        address: str
        def __init__(self, asked: _Optional[bytes] = ..., node_id: _Optional[bytes] = ..., address: _Optional[str] = ...) -> None: ...
    class NoWorker(_message.Message):
        __slots__ = ("asked", "reason", "kind")
        ASKED_FIELD_NUMBER: _ClassVar[int]
        REASON_FIELD_NUMBER: _ClassVar[int]
        KIND_FIELD_NUMBER: _ClassVar[int]
        asked: bytes
        reason: str
        kind: str
        def __init__(self, asked: _Optional[bytes] = ..., reason: _Optional[str] = ..., kind: _Optional[str] = ...) -> None: ...
    HEADER_FIELD_NUMBER: _ClassVar[int]
    ACTOR_ID_FIELD_NUMBER: _ClassVar[int]
    WORKER_ID_FIELD_NUMBER: _ClassVar[int]
    PLACED_FIELD_NUMBER: _ClassVar[int]
    STARTED_FIELD_NUMBER: _ClassVar[int]
    FAILED_FIELD_NUMBER: _ClassVar[int]
    LOST_FIELD_NUMBER: _ClassVar[int]
    LEFT_FIELD_NUMBER: _ClassVar[int]
    REFUSED_FIELD_NUMBER: _ClassVar[int]
    header: Header
    actor_id: bytes
    worker_id: bytes
    placed: ReportActorRequest.Placed
    started: Done
    failed: bytes
    lost: str
    left: str
    refused: ReportActorRequest.NoWorker
    def __init__(self, header: _Optional[_Union[Header, _Mapping]] = ..., actor_id: _Optional[bytes] = ..., worker_id: _Optional[bytes] = ..., placed: _Optional[_Union[ReportActorRequest.Placed, _Mapping]] = ..., started: _Optional[_Union[Done, _Mapping]] = ..., failed: _Optional[bytes] = ..., lost: _Optional[str] = ..., left: _Optional[str] = ..., refused: _Optional[_Union[ReportActorRequest.NoWorker, _Mapping]] = ...) -> None: ...

class EndOwnerRequest(_message.Message):
    __slots__ = ("header", "owner_id")
    HEADER_FIELD_NUMBER: _ClassVar[int]
    OWNER_ID_FIELD_NUMBER: _ClassVar[int]
    header: Header
    owner_id: bytes
    def __init__(self, header: _Optional[_Union[Header, _Mapping]] = ..., owner_id: _Optional[bytes] = ...) -> None: ...

class Node(_message.Message):
    __slots__ = ("node_id", "incarnation", "address", "host", "total", "free", "labels", "state", "reason", "is_known", "bundles", "is_head", "jobs")
    class TotalEntry(_message.Message):
        __slots__ = ("key", "value")
        KEY_FIELD_NUMBER: _ClassVar[int]
        VALUE_FIELD_NUMBER: _ClassVar[int]
        key: str
        value: int
        def __init__(self, key: _Optional[str] = ..., value: _Optional[int] = ...) -> None: ...
    class FreeEntry(_message.Message):
        __slots__ = ("key", "value")
        KEY_FIELD_NUMBER: _ClassVar[int]
        VALUE_FIELD_NUMBER: _ClassVar[int]
        key: str
        value: int
        def __init__(self, key: _Optional[str] = ..., value: _Optional[int] = ...) -> None: ...
    class LabelsEntry(_message.Message):
        __slots__ = ("key", "value")
        KEY_FIELD_NUMBER: _ClassVar[int]
        VALUE_FIELD_NUMBER: _ClassVar[int]
        key: str
        value: str
        def __init__(self, key: _Optional[str] = ..., value: _Optional[str] = ...) -> None: ...
    NODE_ID_FIELD_NUMBER: _ClassVar[int]
    INCARNATION_FIELD_NUMBER: _ClassVar[int]
    ADDRESS_FIELD_NUMBER: _ClassVar[int]
    HOST_FIELD_NUMBER: _ClassVar[int]
    TOTAL_FIELD_NUMBER: _ClassVar[int]
    FREE_FIELD_NUMBER: _ClassVar[int]
    LABELS_FIELD_NUMBER: _ClassVar[int]
    STATE_FIELD_NUMBER: _ClassVar[int]
    REASON_FIELD_NUMBER: _ClassVar[int]
    IS_KNOWN_FIELD_NUMBER: _ClassVar[int]
    BUNDLES_FIELD_NUMBER: _ClassVar[int]
    IS_HEAD_FIELD_NUMBER: _ClassVar[int]
    JOBS_FIELD_NUMBER: _ClassVar[int]
    node_id: bytes
    incarnation: int
    address: str
    host: str
    total: _containers.ScalarMap[str, int]
    free: _containers.ScalarMap[str, int]
    labels: _containers.ScalarMap[str, str]
    state: NodeState
    reason: str
    is_known: bool
    bundles: _containers.RepeatedCompositeFieldContainer[BundleThere]
    is_head: bool
    jobs: _containers.RepeatedCompositeFieldContainer[JobThere]
    def __init__(self, node_id: _Optional[bytes] = ..., incarnation: _Optional[int] = ..., address: _Optional[str] = ..., host: _Optional[str] = ..., total: _Optional[_Mapping[str, int]] = ..., free: _Optional[_Mapping[str, int]] = ..., labels: _Optional[_Mapping[str, str]] = ..., state: _Optional[_Union[NodeState, str]] = ..., reason: _Optional[str] = ..., is_known: _Optional[bool] = ..., bundles: _Optional[_Iterable[_Union[BundleThere, _Mapping]]] = ..., is_head: _Optional[bool] = ..., jobs: _Optional[_Iterable[_Union[JobThere, _Mapping]]] = ...) -> None: ...

class JobThere(_message.Message):
    __slots__ = ("job_id", "used")
    class UsedEntry(_message.Message):
        __slots__ = ("key", "value")
        KEY_FIELD_NUMBER: _ClassVar[int]
        VALUE_FIELD_NUMBER: _ClassVar[int]
        key: str
        value: int
        def __init__(self, key: _Optional[str] = ..., value: _Optional[int] = ...) -> None: ...
    JOB_ID_FIELD_NUMBER: _ClassVar[int]
    USED_FIELD_NUMBER: _ClassVar[int]
    job_id: bytes
    used: _containers.ScalarMap[str, int]
    def __init__(self, job_id: _Optional[bytes] = ..., used: _Optional[_Mapping[str, int]] = ...) -> None: ...

class BundleThere(_message.Message):
    __slots__ = ("group_id", "index", "total", "free", "size", "attempt")
    class TotalEntry(_message.Message):
        __slots__ = ("key", "value")
        KEY_FIELD_NUMBER: _ClassVar[int]
        VALUE_FIELD_NUMBER: _ClassVar[int]
        key: str
        value: int
        def __init__(self, key: _Optional[str] = ..., value: _Optional[int] = ...) -> None: ...
    class FreeEntry(_message.Message):
        __slots__ = ("key", "value")
        KEY_FIELD_NUMBER: _ClassVar[int]
        VALUE_FIELD_NUMBER: _ClassVar[int]
        key: str
        value: int
        def __init__(self, key: _Optional[str] = ..., value: _Optional[int] = ...) -> None: ...
    GROUP_ID_FIELD_NUMBER: _ClassVar[int]
    INDEX_FIELD_NUMBER: _ClassVar[int]
    TOTAL_FIELD_NUMBER: _ClassVar[int]
    FREE_FIELD_NUMBER: _ClassVar[int]
    SIZE_FIELD_NUMBER: _ClassVar[int]
    ATTEMPT_FIELD_NUMBER: _ClassVar[int]
    group_id: bytes
    index: int
    total: _containers.ScalarMap[str, int]
    free: _containers.ScalarMap[str, int]
    size: int
    attempt: int
    def __init__(self, group_id: _Optional[bytes] = ..., index: _Optional[int] = ..., total: _Optional[_Mapping[str, int]] = ..., free: _Optional[_Mapping[str, int]] = ..., size: _Optional[int] = ..., attempt: _Optional[int] = ...) -> None: ...

class RegisterRequest(_message.Message):
    __slots__ = ("id", "node")
    ID_FIELD_NUMBER: _ClassVar[int]
    NODE_FIELD_NUMBER: _ClassVar[int]
    id: RequestId
    node: Node
    def __init__(self, id: _Optional[_Union[RequestId, _Mapping]] = ..., node: _Optional[_Union[Node, _Mapping]] = ...) -> None: ...

class RegisterAnswer(_message.Message):
    __slots__ = ("incarnation", "heartbeat_s", "silence_s")
    INCARNATION_FIELD_NUMBER: _ClassVar[int]
    HEARTBEAT_S_FIELD_NUMBER: _ClassVar[int]
    SILENCE_S_FIELD_NUMBER: _ClassVar[int]
    incarnation: int
    heartbeat_s: float
    silence_s: float
    def __init__(self, incarnation: _Optional[int] = ..., heartbeat_s: _Optional[float] = ..., silence_s: _Optional[float] = ...) -> None: ...

class Heartbeat(_message.Message):
    __slots__ = ("sender", "view", "empty", "agrees_to_drain")
    SENDER_FIELD_NUMBER: _ClassVar[int]
    VIEW_FIELD_NUMBER: _ClassVar[int]
    EMPTY_FIELD_NUMBER: _ClassVar[int]
    AGREES_TO_DRAIN_FIELD_NUMBER: _ClassVar[int]
    sender: Sender
    view: ViewDelta
    empty: str
    agrees_to_drain: bool
    def __init__(self, sender: _Optional[_Union[Sender, _Mapping]] = ..., view: _Optional[_Union[ViewDelta, _Mapping]] = ..., empty: _Optional[str] = ..., agrees_to_drain: _Optional[bool] = ...) -> None: ...

class HeartbeatAnswer(_message.Message):
    __slots__ = ("ask_whole", "ask_drain", "tell_drain", "heartbeat_s")
    ASK_WHOLE_FIELD_NUMBER: _ClassVar[int]
    ASK_DRAIN_FIELD_NUMBER: _ClassVar[int]
    TELL_DRAIN_FIELD_NUMBER: _ClassVar[int]
    HEARTBEAT_S_FIELD_NUMBER: _ClassVar[int]
    ask_whole: bool
    ask_drain: Drain
    tell_drain: Drain
    heartbeat_s: float
    def __init__(self, ask_whole: _Optional[bool] = ..., ask_drain: _Optional[_Union[Drain, _Mapping]] = ..., tell_drain: _Optional[_Union[Drain, _Mapping]] = ..., heartbeat_s: _Optional[float] = ...) -> None: ...

class Drain(_message.Message):
    __slots__ = ("reason", "message", "deadline_s")
    REASON_FIELD_NUMBER: _ClassVar[int]
    MESSAGE_FIELD_NUMBER: _ClassVar[int]
    DEADLINE_S_FIELD_NUMBER: _ClassVar[int]
    reason: str
    message: str
    deadline_s: float
    def __init__(self, reason: _Optional[str] = ..., message: _Optional[str] = ..., deadline_s: _Optional[float] = ...) -> None: ...

class FollowOrdersRequest(_message.Message):
    __slots__ = ("sender", "after")
    SENDER_FIELD_NUMBER: _ClassVar[int]
    AFTER_FIELD_NUMBER: _ClassVar[int]
    sender: Sender
    after: int
    def __init__(self, sender: _Optional[_Union[Sender, _Mapping]] = ..., after: _Optional[int] = ...) -> None: ...

class Orders(_message.Message):
    __slots__ = ("first", "orders")
    FIRST_FIELD_NUMBER: _ClassVar[int]
    ORDERS_FIELD_NUMBER: _ClassVar[int]
    first: int
    orders: _containers.RepeatedCompositeFieldContainer[Order]
    def __init__(self, first: _Optional[int] = ..., orders: _Optional[_Iterable[_Union[Order, _Mapping]]] = ...) -> None: ...

class Order(_message.Message):
    __slots__ = ("want", "drop", "become", "quit", "kill")
    class WantActor(_message.Message):
        __slots__ = ("actor_id", "creation")
        ACTOR_ID_FIELD_NUMBER: _ClassVar[int]
        CREATION_FIELD_NUMBER: _ClassVar[int]
        actor_id: bytes
        creation: bytes
        def __init__(self, actor_id: _Optional[bytes] = ..., creation: _Optional[bytes] = ...) -> None: ...
    class BecomeActor(_message.Message):
        __slots__ = ("actor_id", "worker_id", "restarts", "creation")
        ACTOR_ID_FIELD_NUMBER: _ClassVar[int]
        WORKER_ID_FIELD_NUMBER: _ClassVar[int]
        RESTARTS_FIELD_NUMBER: _ClassVar[int]
        CREATION_FIELD_NUMBER: _ClassVar[int]
        actor_id: bytes
        worker_id: bytes
        restarts: int
        creation: bytes
        def __init__(self, actor_id: _Optional[bytes] = ..., worker_id: _Optional[bytes] = ..., restarts: _Optional[int] = ..., creation: _Optional[bytes] = ...) -> None: ...
    class KillWorker(_message.Message):
        __slots__ = ("worker_id", "reason")
        WORKER_ID_FIELD_NUMBER: _ClassVar[int]
        REASON_FIELD_NUMBER: _ClassVar[int]
        worker_id: bytes
        reason: str
        def __init__(self, worker_id: _Optional[bytes] = ..., reason: _Optional[str] = ...) -> None: ...
    WANT_FIELD_NUMBER: _ClassVar[int]
    DROP_FIELD_NUMBER: _ClassVar[int]
    BECOME_FIELD_NUMBER: _ClassVar[int]
    QUIT_FIELD_NUMBER: _ClassVar[int]
    KILL_FIELD_NUMBER: _ClassVar[int]
    want: Order.WantActor
    drop: bytes
    become: Order.BecomeActor
    quit: bytes
    kill: Order.KillWorker
    def __init__(self, want: _Optional[_Union[Order.WantActor, _Mapping]] = ..., drop: _Optional[bytes] = ..., become: _Optional[_Union[Order.BecomeActor, _Mapping]] = ..., quit: _Optional[bytes] = ..., kill: _Optional[_Union[Order.KillWorker, _Mapping]] = ...) -> None: ...

class DrainRequest(_message.Message):
    __slots__ = ("header", "node_id", "message", "is_preemption", "deadline_s")
    HEADER_FIELD_NUMBER: _ClassVar[int]
    NODE_ID_FIELD_NUMBER: _ClassVar[int]
    MESSAGE_FIELD_NUMBER: _ClassVar[int]
    IS_PREEMPTION_FIELD_NUMBER: _ClassVar[int]
    DEADLINE_S_FIELD_NUMBER: _ClassVar[int]
    header: Header
    node_id: bytes
    message: str
    is_preemption: bool
    deadline_s: float
    def __init__(self, header: _Optional[_Union[Header, _Mapping]] = ..., node_id: _Optional[bytes] = ..., message: _Optional[str] = ..., is_preemption: _Optional[bool] = ..., deadline_s: _Optional[float] = ...) -> None: ...

class ListMembersRequest(_message.Message):
    __slots__ = ()
    def __init__(self) -> None: ...

class ListMembersAnswer(_message.Message):
    __slots__ = ("nodes",)
    NODES_FIELD_NUMBER: _ClassVar[int]
    nodes: _containers.RepeatedCompositeFieldContainer[Node]
    def __init__(self, nodes: _Optional[_Iterable[_Union[Node, _Mapping]]] = ...) -> None: ...

class GetCredentialsRequest(_message.Message):
    __slots__ = ()
    def __init__(self) -> None: ...

class GetCredentialsAnswer(_message.Message):
    __slots__ = ("certificate", "key", "journal")
    CERTIFICATE_FIELD_NUMBER: _ClassVar[int]
    KEY_FIELD_NUMBER: _ClassVar[int]
    JOURNAL_FIELD_NUMBER: _ClassVar[int]
    certificate: bytes
    key: bytes
    journal: str
    def __init__(self, certificate: _Optional[bytes] = ..., key: _Optional[bytes] = ..., journal: _Optional[str] = ...) -> None: ...

class WatchViewRequest(_message.Message):
    __slots__ = ()
    def __init__(self) -> None: ...

class ViewDelta(_message.Message):
    __slots__ = ("source", "number", "base", "changed", "gone")
    SOURCE_FIELD_NUMBER: _ClassVar[int]
    NUMBER_FIELD_NUMBER: _ClassVar[int]
    BASE_FIELD_NUMBER: _ClassVar[int]
    CHANGED_FIELD_NUMBER: _ClassVar[int]
    GONE_FIELD_NUMBER: _ClassVar[int]
    source: int
    number: int
    base: int
    changed: _containers.RepeatedCompositeFieldContainer[Node]
    gone: _containers.RepeatedScalarFieldContainer[bytes]
    def __init__(self, source: _Optional[int] = ..., number: _Optional[int] = ..., base: _Optional[int] = ..., changed: _Optional[_Iterable[_Union[Node, _Mapping]]] = ..., gone: _Optional[_Iterable[bytes]] = ...) -> None: ...

class Bundle(_message.Message):
    __slots__ = ("amounts", "labels", "node_id")
    class AmountsEntry(_message.Message):
        __slots__ = ("key", "value")
        KEY_FIELD_NUMBER: _ClassVar[int]
        VALUE_FIELD_NUMBER: _ClassVar[int]
        key: str
        value: int
        def __init__(self, key: _Optional[str] = ..., value: _Optional[int] = ...) -> None: ...
    class LabelsEntry(_message.Message):
        __slots__ = ("key", "value")
        KEY_FIELD_NUMBER: _ClassVar[int]
        VALUE_FIELD_NUMBER: _ClassVar[int]
        key: str
        value: str
        def __init__(self, key: _Optional[str] = ..., value: _Optional[str] = ...) -> None: ...
    AMOUNTS_FIELD_NUMBER: _ClassVar[int]
    LABELS_FIELD_NUMBER: _ClassVar[int]
    NODE_ID_FIELD_NUMBER: _ClassVar[int]
    amounts: _containers.ScalarMap[str, int]
    labels: _containers.ScalarMap[str, str]
    node_id: bytes
    def __init__(self, amounts: _Optional[_Mapping[str, int]] = ..., labels: _Optional[_Mapping[str, str]] = ..., node_id: _Optional[bytes] = ...) -> None: ...

class CreateGroupRequest(_message.Message):
    __slots__ = ("header", "group_id", "name", "namespace", "strategy", "bundles", "owner_id", "job_id", "is_detached", "topology")
    HEADER_FIELD_NUMBER: _ClassVar[int]
    GROUP_ID_FIELD_NUMBER: _ClassVar[int]
    NAME_FIELD_NUMBER: _ClassVar[int]
    NAMESPACE_FIELD_NUMBER: _ClassVar[int]
    STRATEGY_FIELD_NUMBER: _ClassVar[int]
    BUNDLES_FIELD_NUMBER: _ClassVar[int]
    OWNER_ID_FIELD_NUMBER: _ClassVar[int]
    JOB_ID_FIELD_NUMBER: _ClassVar[int]
    IS_DETACHED_FIELD_NUMBER: _ClassVar[int]
    TOPOLOGY_FIELD_NUMBER: _ClassVar[int]
    header: Header
    group_id: bytes
    name: str
    namespace: str
    strategy: str
    bundles: _containers.RepeatedCompositeFieldContainer[Bundle]
    owner_id: bytes
    job_id: bytes
    is_detached: bool
    topology: str
    def __init__(self, header: _Optional[_Union[Header, _Mapping]] = ..., group_id: _Optional[bytes] = ..., name: _Optional[str] = ..., namespace: _Optional[str] = ..., strategy: _Optional[str] = ..., bundles: _Optional[_Iterable[_Union[Bundle, _Mapping]]] = ..., owner_id: _Optional[bytes] = ..., job_id: _Optional[bytes] = ..., is_detached: _Optional[bool] = ..., topology: _Optional[str] = ...) -> None: ...

class RemoveGroupRequest(_message.Message):
    __slots__ = ("header", "group_id")
    HEADER_FIELD_NUMBER: _ClassVar[int]
    GROUP_ID_FIELD_NUMBER: _ClassVar[int]
    header: Header
    group_id: bytes
    def __init__(self, header: _Optional[_Union[Header, _Mapping]] = ..., group_id: _Optional[bytes] = ...) -> None: ...

class GetGroupRequest(_message.Message):
    __slots__ = ("group_id", "name")
    class GroupName(_message.Message):
        __slots__ = ("namespace", "name")
        NAMESPACE_FIELD_NUMBER: _ClassVar[int]
        NAME_FIELD_NUMBER: _ClassVar[int]
        namespace: str
        name: str
        def __init__(self, namespace: _Optional[str] = ..., name: _Optional[str] = ...) -> None: ...
    GROUP_ID_FIELD_NUMBER: _ClassVar[int]
    NAME_FIELD_NUMBER: _ClassVar[int]
    group_id: bytes
    name: GetGroupRequest.GroupName
    def __init__(self, group_id: _Optional[bytes] = ..., name: _Optional[_Union[GetGroupRequest.GroupName, _Mapping]] = ...) -> None: ...

class ListGroupsRequest(_message.Message):
    __slots__ = ()
    def __init__(self) -> None: ...

class ListGroupsAnswer(_message.Message):
    __slots__ = ("groups",)
    GROUPS_FIELD_NUMBER: _ClassVar[int]
    groups: _containers.RepeatedCompositeFieldContainer[PlacementGroup]
    def __init__(self, groups: _Optional[_Iterable[_Union[PlacementGroup, _Mapping]]] = ...) -> None: ...

class PlacementGroup(_message.Message):
    __slots__ = ("group_id", "name", "namespace", "strategy", "state", "bundles", "reason", "job_id", "topology")
    GROUP_ID_FIELD_NUMBER: _ClassVar[int]
    NAME_FIELD_NUMBER: _ClassVar[int]
    NAMESPACE_FIELD_NUMBER: _ClassVar[int]
    STRATEGY_FIELD_NUMBER: _ClassVar[int]
    STATE_FIELD_NUMBER: _ClassVar[int]
    BUNDLES_FIELD_NUMBER: _ClassVar[int]
    REASON_FIELD_NUMBER: _ClassVar[int]
    JOB_ID_FIELD_NUMBER: _ClassVar[int]
    TOPOLOGY_FIELD_NUMBER: _ClassVar[int]
    group_id: bytes
    name: str
    namespace: str
    strategy: str
    state: GroupState
    bundles: _containers.RepeatedCompositeFieldContainer[Bundle]
    reason: str
    job_id: bytes
    topology: str
    def __init__(self, group_id: _Optional[bytes] = ..., name: _Optional[str] = ..., namespace: _Optional[str] = ..., strategy: _Optional[str] = ..., state: _Optional[_Union[GroupState, str]] = ..., bundles: _Optional[_Iterable[_Union[Bundle, _Mapping]]] = ..., reason: _Optional[str] = ..., job_id: _Optional[bytes] = ..., topology: _Optional[str] = ...) -> None: ...
