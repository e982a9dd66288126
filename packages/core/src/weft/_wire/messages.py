"""Every message, grouped by who speaks to whom.

A frame carries a list of messages (see frame.py), so a batch costs one call of the codec on each
side. Messages on one connection arrive in order; what is lost with a connection is lost from some
message on, never in between.

Payloads (`bytes` fields named data, args, code, error) are pickles that only the process that needs
the value opens.

What is always true
1. Every message is frozen and has a tag that is never used again for another meaning.
2. Decoding a message runs no code of the sender.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import reduce
from operator import or_
from typing import Any

import msgspec

from weft._specs import ActorMeta, Shape


class Message(msgspec.Struct, frozen=True, array_like=True, gc=False):
    """What every message has in common."""


class MessagePart(msgspec.Struct, frozen=True, array_like=True, gc=False):
    """What is inside messages, and does not travel by itself."""


# ------------------------------------------------------------------ values


class Held(MessagePart, frozen=True):
    """A reference that lies inside a value."""

    object_id: bytes
    owner: str


class Inline(MessagePart, frozen=True, tag=1):
    """A value in the message itself."""

    data: bytes
    held: list[Held] = []


class Shared(MessagePart, frozen=True, tag=2):
    """A value in a shared memory segment."""

    segment: str
    size_bytes: int
    creator: str
    """Address of the process that recycles the segment."""
    held: list[Held] = []


class Failure(MessagePart, frozen=True, tag=3):
    """The error instead of a value."""

    error: bytes
    held: list[Held] = []


Value = Inline | Shared | Failure


class Bundle(MessagePart, frozen=True, tag=4):
    """Values one after the other, as a msgpack list: together they are too large for a message."""

    place: Shared


Packed = Value | Bundle

# ------------------------------------------------------------------ both ways, first on every
# connection


class Hello(Message, frozen=True, tag=10):
    """Who speaks: the first message of each side."""

    wire: int
    worker_id: bytes
    address: str
    """Where this process listens; empty if nowhere."""
    pid: int
    role: str
    """driver, worker, daemon, guest or template."""
    incarnation: int = 0
    """Of the node, where a daemon speaks about objects to another."""


# ------------------------------------------------------------------ owner -> worker


class Assigned(Message, frozen=True, tag=80):
    """What follows on this connection are tasks of a lease: what they may use."""

    resources: dict[str, int]
    accelerators: dict[str, list[str]]
    runtime_env: str
    owner: str
    variables: dict[str, str] = {}
    """By which libraries see these accelerators, and no others."""
    group: str = ""
    """The strategy of its shape, if that names a placement group."""
    captures: bool = False
    """As of Shape."""


class Export(Message, frozen=True, tag=20):
    """The code of a function or class, before its first use on this connection."""

    function_id: bytes
    name: str
    code: bytes


class Run(Message, frozen=True, tag=21):
    """Run a task."""

    task_id: bytes
    function_id: bytes
    args: bytes
    """Pickled (args, kwargs); top-level references are replaced by `Dependency(index)`.

    Empty for no arguments.
    """
    deps: Sequence[Packed] = []
    num_returns: int = 1
    """-1: a stream."""
    name: str = ""
    depth: int = 0
    """How many tasks are above this one."""
    timeout_s: float = 0
    """0: none."""
    max_calls: int = 0
    backpressure: int = 0
    """A stream stops while this many items are not taken; 0: no limit."""
    attempt: int = 0
    is_dynamic: bool = False
    """The single return is a list of references to all that the generator yields."""
    owners: Sequence[Held] = []
    """For each dependency, also in bundles, the reference that it is the value of.

    And one more for `large`.
    """
    large: Shared | None = None
    """The arguments' pickle, if it is too large for `args`."""
    may_repeat: bool = False
    """If this attempt is ended to make room in memory, there is another."""
    site: str = ""
    """File and line of the submitting call: whoever looks for memory is told."""


class Call(Message, frozen=True, tag=22):
    """Call a method of the actor that this worker is."""

    task_id: bytes
    actor_id: bytes
    method: str
    args: bytes
    deps: Sequence[Packed] = []
    num_returns: int = 1
    group: str = ""
    name: str = ""
    depth: int = 0
    timeout_s: float = 0
    backpressure: int = 0
    attempt: int = 0
    is_dynamic: bool = False
    owners: Sequence[Held] = []
    large: Shared | None = None
    site: str = ""


class Cancel(Message, frozen=True, tag=23):
    """End a task: drop it if it waits here, interrupt it if it runs. It still answers with Done."""

    task_id: bytes
    recursive: bool
    is_late: bool = False
    """It has run over its time limit."""


class Abort(Message, frozen=True, tag=25):
    """End a task by force: drop it if it waits here, end this process if it runs.

    Dropped, it still answers with Done.
    """

    task_id: bytes


class Taken(Message, frozen=True, tag=24):
    """The consumer of a stream has taken this many items in all."""

    task_id: bytes
    items: int


# ------------------------------------------------------------------ worker -> owner


class Done(Message, frozen=True, tag=30):
    """A task has ended: one value a return, or one Failure for all."""

    task_id: bytes
    values: list[Packed]
    started_at: float
    """Wall clock, seconds."""
    duration_s: float
    settles: bool = False
    """There are references inside: the worker keeps them until Settled."""
    items: int = 0
    """How many items a stream yielded."""


class Yielded(Message, frozen=True, tag=31):
    """A stream's next item; its object id is the task's with index `index + 2`."""

    task_id: bytes
    index: int
    value: Value


class GiveBack(Message, frozen=True, tag=32):
    """Tasks that wait here although this worker is busy: run them elsewhere.

    They were not started.
    """

    task_ids: Sequence[bytes]
    busy: bool
    """Send no more until a Done."""


# ------------------------------------------------------------------ any process -> the owner of an
# object, and back


class Fetch(Message, frozen=True, tag=40):
    """Send the value when it is there. Answered by Fetched."""

    object_id: bytes


class Fetched(Message, frozen=True, tag=41):
    """The value of an object, or the Failure that it ended in."""

    object_id: bytes
    value: Value


class Borrow(Message, frozen=True, tag=42):
    """The sender now holds these references. Answered by Borrowed."""

    object_ids: Sequence[bytes]


class Borrowed(Message, frozen=True, tag=43):
    """The owner counts the receiver as a holder of these; the others (freed) are named."""

    object_ids: Sequence[bytes]
    lost: Sequence[bytes] = ()


class Return(Message, frozen=True, tag=44):
    """The sender holds these no longer."""

    object_ids: Sequence[bytes]


class Recycle(Message, frozen=True, tag=45):
    """Owner to creator: nobody reads these segments any more."""

    segments: list[str]


class Settled(Message, frozen=True, tag=46):
    """Caller to worker: the references inside the returned values are counted.

    The worker's own pins may go.
    """

    task_id: bytes


class CancelObject(Message, frozen=True, tag=47):
    """Borrower to owner: cancel the task that makes this object."""

    object_id: bytes
    force: bool
    recursive: bool


class Gone(Message, frozen=True, tag=48):
    """Borrower to owner: the bytes of this object are neither in memory nor on disk.

    A Fetch follows, which is answered when the object is made again, or cannot be.
    """

    object_id: bytes
    segment: str
    """The one that was looked for: by now the object may be in another."""
    reason: str


class Free(Message, frozen=True, tag=49):
    """Borrower to owner: somebody frees these by hand."""

    object_ids: Sequence[bytes]


# ------------------------------------------------------------------ driver or worker -> daemon


class Ask(Message, frozen=True, tag=50):
    """A question with one Answer. `what` is one of the names in daemon's table of questions."""

    request: int
    what: str
    body: bytes = b""
    """msgpack, as the question's entry says."""


class AskNodes(Message, frozen=True, tag=160):
    """Questions to all nodes, or to one. Answered by NodeTold for each, then an Answer."""

    request: int
    whats: list[str]
    """Each is asked when the one before was answered."""
    body: bytes = b""
    """Of each of them."""
    node_id: bytes = b""
    """Empty: all."""
    is_patient: bool = False
    """The answers may take as long as they do."""


class Demand(Message, frozen=True, tag=51):
    """How many more workers of a shape the sender wants, in all.

    Replaces the sender's last Demand for the shape.
    """

    key: int
    """The sender's own number for the shape."""
    shape: Shape
    workers: int
    depth: int
    """Deeper tasks go first, so that nested programs finish what they began."""
    task_name: str = ""
    hops: int = 0
    """How many nodes have sent it on (SentOn)."""
    bytes_at: dict[str, int] = {}
    """How many bytes of the arguments of the next tasks nodes have, by HOST:PORT."""


class ReturnLease(Message, frozen=True, tag=52):
    """The sender needs this worker no longer. `dead`: the connection to it broke."""

    worker_id: bytes
    retire: bool = False
    """The worker has run its last task (max_calls): end it."""


class Blocked(Message, frozen=True, tag=53):
    """The task on this worker waits in `get`: its CPU is free meanwhile."""


class Unblocked(Message, frozen=True, tag=54):
    """The task on this worker goes on."""


class CreateActor(Message, frozen=True, tag=55):
    """Start an actor. The constructor's references are resolved already."""

    meta: ActorMeta
    shape: Shape
    function_id: bytes
    code: bytes
    args: bytes
    deps: Sequence[Packed]
    owner: str
    options: dict[str, Any]
    """max_restarts, lifetime, get_if_exists, max_concurrency, concurrency_groups, runtime_env."""
    request: int
    """Answered by Answer: for a named actor when the name is taken or refused."""
    owners: Sequence[Held] = []
    large: Shared | None = None


class WatchActor(Message, frozen=True, tag=56):
    """Send ActorNews now and at every change."""

    actor_id: bytes


class EndActor(Message, frozen=True, tag=57):
    """End an actor. `graceful`: after the calls that it has; else at once."""

    actor_id: bytes
    graceful: bool
    no_restart: bool
    reason: str


class KillWorker(Message, frozen=True, tag=58):
    """End a worker that the sender leases: its task was cancelled by force or ran out of time."""

    worker_id: bytes
    reason: str


class Explain(Message, frozen=True, tag=59):
    """The connection to this worker broke: how did it end?

    Answered by Certificate once it is reaped.
    """

    worker_id: bytes


class CheckWorker(Message, frozen=True, tag=144):
    """The connection to this worker of another node broke. Is it there?

    Answered by Certificate once it is reaped, or by WorkerLives if that is not soon.
    """

    worker_id: bytes


class CheckNode(Message, frozen=True, tag=157):
    """Runtime to its own daemon: it calls this node for the first time. Is that dead?

    Answered by NodeLost if it is; if it dies later, all are told.
    """

    node: str
    """HOST:PORT."""


class Discard(Message, frozen=True, tag=60):
    """Remove segments whose creator is gone, or of whose name somebody may have kept a note."""

    segments: list[str]


class BeginsJob(Message, frozen=True, tag=150):
    """A driver that has joined a node says what its job is: its first message after Hello.

    Answered by Welcome.
    """

    env: str
    """The environment of its tasks, as canonical JSON; the job is part of it (_env/jobs.py)."""
    entrypoint: str = ""
    """The command that it is."""
    metadata: dict[str, str] = {}
    quota: dict[str, int] = {}
    """What the job may take, as JobLimits says it."""
    weight: int = 1
    priority: int = 0


class JobOutput(Message, frozen=True, tag=151):
    """Daemon to daemon: a worker of a job wrote this, whose driver is there. See Output.

    Answered by OutputTaken when the driver is not behind.
    """

    job_id: bytes
    worker_id: bytes
    pid: int
    label: str
    is_stderr: bool
    data: bytes


class JobHere(Message, frozen=True, tag=153):
    """Daemon to that of a job's driver: workers of the job are started here.

    Answered by JobHeard; before that none of them is lent, so nothing runs that the driver's
    goodbye does not reach.
    """

    job_id: bytes


class JobHeard(Message, frozen=True, tag=156):
    """The answer to JobHere. If the driver is saying goodbye, JobLeaves follows."""

    job_id: bytes


class JobLeaves(Message, frozen=True, tag=154):
    """Daemon to one that has said JobHere: the driver says goodbye, end what it has, gently.

    Answered by JobLeft, behind the last JobOutput.
    """

    job_id: bytes
    driver_id: bytes


class JobLeft(Message, frozen=True, tag=155):
    """The answer to JobLeaves: workers of the job have ended, and what they wrote was sent."""

    job_id: bytes


class OutputTaken(Message, frozen=True, tag=152):
    """Daemon to daemon: so much of what was written for a job was passed on."""

    job_id: bytes
    size_bytes: int


class Bye(Message, frozen=True, tag=61):
    """A driver leaves: end what is its own, send its remaining log lines, then close."""


# ------------------------------------------------------------------ program <-> its deputy


class Resumes(Message, frozen=True, tag=170):
    """First on each connection, from both sides: how many letters each has heard."""

    heard: int


class Letter(Message, frozen=True, tag=171):
    """A piece of a record of remote.py. It is kept by its sender until it was heard."""

    number: int
    body: bytes
    is_part: bool = False
    """More of the same record follows."""


class LettersHeard(Message, frozen=True, tag=172):
    """So many letters were heard."""

    heard: int
    wants_answer: bool = False
    """Say the same: the sender wants to know that somebody is there."""


OVERDRAWN = 0
"""Number of the request for what a process has taken already."""


class AskLoan(Message, frozen=True, tag=62):
    """The sender's loan is used up: lend it more. Answered by Loan."""

    request: int
    size_bytes: int
    """Of the segment that is to be made. Spare memory may be recalled meanwhile: do not count it.
    """


class LoanReturned(Message, frozen=True, tag=63):
    """So much less is lent to the sender. The answer to a Recall, with 0 if nothing is spare."""

    size_bytes: int


class MadeSegment(msgspec.Struct, frozen=True, array_like=True, gc=False):
    """An object that was written into a segment, fresh or recycled."""

    name: str
    size_bytes: int
    """Of the segment; of these the object takes the first."""
    object_bytes: int
    owner: bytes
    """Worker id of the process that owns the object."""
    label: str
    """What made it, in the user's words."""
    site: str
    """File and line."""
    on_disk: bool
    """Made as a file in the directory that Loan said."""


class SegmentsMade(Message, frozen=True, tag=64):
    """The sender has made these inside its loan. Written before anyone is told of the objects."""

    segments: list[MadeSegment]


class SegmentsFree(Message, frozen=True, tag=65):
    """The objects in these segments, which the sender made and keeps, are gone.

    The memory stays in its loan, spare. The file of one on disk is deleted by the daemon.
    """

    names: list[str]


class SegmentsOpened(Message, frozen=True, tag=66):
    """The sender has these mapped, and had not before; or it has opened what was Restored."""

    names: list[str]


class SegmentsClosed(Message, frozen=True, tag=67):
    """No mapping of these is left in the sender; or it does not open what was Restored."""

    names: list[str]


class Evicted(Message, frozen=True, tag=68):
    """The answer to Evict; also unasked, when the views of something have ended that was in use."""

    idle: list[str]
    """The sender has no mapping of these any more. Those that it made, and that hold an object, are
    the node's from here on, and their bytes are out of its loan. One that is spare stays as it is.
    """
    in_use: list[str]
    """There are views of these."""


class Restore(Message, frozen=True, tag=69):
    """A segment that the sender wants to read has no file. Answered by Restored."""

    request: int
    name: str


# ------------------------------------------------------------------ daemon -> driver or worker


class Answer(Message, frozen=True, tag=70):
    """The answer to Ask or CreateActor. `error` is empty if it went well."""

    request: int
    body: bytes = b""
    error: str = ""


class NodeTold(Message, frozen=True, tag=161):
    """What a node's daemon has answered to AskNodes."""

    request: int
    node_id: bytes
    address: str
    """HOST:PORT of the node; empty: a machine alone."""
    bodies: list[bytes] = []
    """One each question."""
    silent: str = ""
    """Why there is no answer."""
    error: str = ""
    """Why it refuses to answer."""


class Granted(Message, frozen=True, tag=71):
    """A worker for a shape; the receiver's until ReturnLease."""

    key: int
    worker_id: bytes
    address: str
    contended: bool
    """Others wait: return it as soon as there is nothing for it to do."""
    node_id: bytes = b""
    accelerators: dict[str, list[str]] = {}
    variables: dict[str, str] = {}
    """See Assigned."""


class Refused(Message, frozen=True, tag=72):
    """No worker of this shape can be had: it fits no node, or its environment fails."""

    key: int
    kind: str
    """unschedulable, environment or placement_group."""
    reason: str


class SentOn(Message, frozen=True, tag=110):
    """So many of the workers that were demanded are to be demanded of another node's daemon."""

    key: int
    workers: int
    node_id: bytes
    address: str
    """Of that daemon."""
    hops: int
    """What to say there."""
    reason: str
    """Why it is not this node."""


class NodeLost(Message, frozen=True, tag=111):
    """A node is dead: nothing of it will answer."""

    node_id: bytes
    address: str
    """Of its daemon."""
    cause: str
    incarnation: int = 0
    """The life that is over; what it says may still come."""


class Reclaim(Message, frozen=True, tag=73):
    """Others wait: return leases that have nothing to do, now and for the next moments."""


class Welcome(Message, frozen=True, tag=74):
    """The daemon's answer to Hello: the facts of the session."""

    job_id: bytes
    node_id: bytes
    session: str
    session_dir: str
    store_dir: str
    namespace: str
    resources: dict[str, float]
    labels: dict[str, str]
    runtime_env: str = ""
    logging: str = ""
    """A LoggingConfig, as JSON; empty for none."""
    are_threads_set: bool = False
    """The user has said how many threads numerical libraries use (OMP_NUM_THREADS)."""
    opens_slot: int = 0
    """Where the receiver counts the segments that it opens (_store/opens.py)."""
    driver_pid: int = 0
    """The process of the job's driver; 0: it is not on this node, or gone."""


class Certificate(Message, frozen=True, tag=75):
    """How a worker ended."""

    worker_id: bytes
    pid: int
    exit_code: int | None
    """Of wait: negative is the signal's number.

    None: nobody saw its end, for its parent was gone.
    """
    peak_bytes: int
    """Most resident memory."""
    limit_bytes: int
    """The memory limit that applied."""
    function: str
    """What it ran last; empty if idle."""
    stderr: str
    """Its last lines."""
    reason: str
    """Why it was ended, if Weft ended it."""
    task_id: bytes = b""
    """What it ran last; empty if nothing."""
    attempt: int = 0
    """Which attempt of that."""
    retry: str = "counts"
    """What another attempt of that costs: it counts, is free, or is made never."""
    started_at: float = 0.0
    """When it was forked, by the wall clock; 0: it was not."""
    ended_at: float = 0.0
    """When its end was seen."""
    node: str = ""
    """The id of its node in hexadecimal, if that is gone, and nobody saw how the worker ended."""
    is_seen: bool = True
    """It is known what it ran last. If not, it may have begun all that it was sent."""


class WorkerLives(Message, frozen=True, tag=145):
    """The answer to CheckWorker, after a while: it is there as before."""

    worker_id: bytes


class ActorNews(Message, frozen=True, tag=76):
    """Where an actor is in its life."""

    actor_id: bytes
    state: str
    """pending, alive, restarting or dead."""
    address: str
    restarts: int
    cause: str
    """Of a dead or restarting actor, in words."""
    error: bytes = b""
    """The constructor's error, if that is the cause."""
    worker_id: bytes = b""
    refused: str = ""
    """unschedulable or environment, if that is why there is no worker for it."""


class BecomeActor(Message, frozen=True, tag=77):
    """Daemon to worker: be this actor from now on. Answered by ActorReady."""

    meta: ActorMeta
    function_id: bytes
    code: bytes
    args: bytes
    deps: Sequence[Packed]
    options: dict[str, Any]
    restarts: int
    accelerators: dict[str, list[str]]
    resources: dict[str, int]
    owners: Sequence[Held] = []
    large: Shared | None = None
    owner: str = ""
    """Address of the process that owns its token."""
    variables: dict[str, str] = {}
    """See Assigned."""
    group: str = ""
    """As of Assigned."""
    captures: bool = False


class Output(Message, frozen=True, tag=78):
    """Bytes that a worker wrote, in whole lines where possible."""

    worker_id: bytes
    pid: int
    label: str
    """What the worker was running: a function's or an actor's name."""
    is_stderr: bool
    data: bytes
    node: str = ""
    """HOST:PORT of the worker's node; empty: it is the driver's."""


class Quit(Message, frozen=True, tag=79):
    """Daemon to worker: end after the current task; run exit hooks."""

    graceful: bool


class Loan(Message, frozen=True, tag=81):
    """The answer to AskLoan."""

    request: int
    size_bytes: int
    """So much more is lent: what was asked for, or more."""
    directory: str = ""
    """If not empty nothing is lent: make this one segment here, as a file under its own name."""
    error: str = ""
    """Why there is room neither in memory nor on disk."""
    file: str = ""
    """If not empty, a part of it is in this file, as large as was asked for: make a segment of it.
    """


class Recall(Message, frozen=True, tag=82):
    """Daemon to process: others need memory, return so much that is spare, or what there is.

    Answered by LoanReturned. Whole segments may make it more.
    """

    size_bytes: int


class Evict(Message, frozen=True, tag=83):
    """Daemon to process: drop your mappings of these, unless views are left. Answered by Evicted.

    The answer has all names; one that the process does not have is idle.
    """

    names: list[str]


class Restored(Message, frozen=True, tag=84):
    """The answer to Restore: the name can be opened. Say SegmentsOpened then, or SegmentsClosed."""

    request: int
    error: str = ""
    """Why the object is lost."""
    path: str = ""
    """If not empty, there is no room for a segment: the object is in this file, from `offset` on.

    The daemon does not count who maps that, and is not told.
    """
    offset: int = 0


class Orphaned(Message, frozen=True, tag=109):
    """Daemon to owner: the creator of these segments is gone. Answered by Discard.

    What the owner let go of before may have been told to that process alone (Recycle).
    """

    creator: bytes
    """Its worker id."""
    segments: list[str]


class Learned(Message, frozen=True, tag=85):
    """Tasks of a function take so much memory: ask for it. 0: for none."""

    function: str
    memory_bytes: int


class WorkerPaused(Message, frozen=True, tag=86):
    """A worker that the receiver leases is stopped; or it goes on, if `words` is empty."""

    worker_id: bytes
    words: str
    """What memory is in use, of what."""


# ------------------------------------------------------------------ worker -> daemon


# All who have a handle are told the whole error, and it is journaled.
ERROR_BYTES = 512 * 1024


class ActorReady(Message, frozen=True, tag=90):
    """The constructor has returned, or failed (`error`)."""

    actor_id: bytes
    error: bytes = b""
    """At most ERROR_BYTES."""


class Recorded(Message, frozen=True, tag=92):
    """Tasks and calls of the sender's that have ended: a packed Batch of _wire/records.py."""

    records: int
    body: bytes


class ActorExit(Message, frozen=True, tag=91):
    """The actor ends itself (exit_actor, or its last handle is gone and its calls are done)."""

    actor_id: bytes
    reason: str


class Busy(Message, frozen=True, tag=99):
    """This worker runs something: the daemon had asked, in its status page, to be told."""


# ------------------------------------------------------------------ any process -> any process


class Why(Message, frozen=True, tag=95):
    """What does this wait for? Answered by Because."""

    request: int
    kind: str
    """object (to its owner) or task (to the worker that has it)."""
    key: bytes


class Because(Message, frozen=True, tag=96):
    """The answer to Why: a packed Reason."""

    request: int
    body: bytes


class Inspect(Message, frozen=True, tag=87):
    """Daemon to driver or worker: tell of what you have now. Answered by Inspected.

    A sender that has records of tasks that ended sends those before, as Recorded.
    """

    request: int
    what: str
    """tasks, objects or stacks."""


class Inspected(Message, frozen=True, tag=88):
    """The answer to Inspect: a packed record of _wire/records.py, for who asked the daemon."""

    request: int
    body: bytes


class Measure(Message, frozen=True, tag=93):
    """Daemon to driver or worker: say what you have counted and set. Answered by Measured."""

    request: int


class Measured(Message, frozen=True, tag=94):
    """The sender's metrics at this moment: packed Readings. A worker that ends sends its last."""

    request: int
    """0: nobody has asked."""
    body: bytes


# ------------------------------------------------------------------ in a cluster


class AskNoMore(Message, frozen=True, tag=162):
    """Daemon to daemon: who wanted this answer is gone."""

    request: int
    """Of an Ask of the sender's."""


class Transfer(Message, frozen=True, tag=120):
    """A message of transfers.py about an object that goes from node to node."""

    body: bytes


class ControlTalk(Message, frozen=True, tag=126):
    """A message of lines.py between a daemon and the control service."""

    body: bytes


class NodeDrains(Message, frozen=True, tag=122):
    """Daemon to owner: this node is about to end; move what is nowhere else. Then NodeDrained."""

    node: tuple[bytes, int, str]
    """(node id, incarnation, HOST:PORT), as NodeLife."""
    targets: list[tuple[bytes, int, str]]
    """Where objects can go."""
    request: int


class NodeDrained(Message, frozen=True, tag=123):
    """Owner to daemon: no object of the sender's needs that node any more."""

    request: int
    left: int
    """But for so many that no other node could take."""


class WatchOwner(Message, frozen=True, tag=121):
    """Worker to daemon: it makes objects for a process of another node. They end with that."""

    address: str


class WantActor(Message, frozen=True, tag=140):
    """Find a worker for an actor; control has asked the sender for it.

    Answered by WantSentOn or WantSettled.
    """

    actor_id: bytes
    shape: Shape
    name: str
    """Of its class."""
    asked: bytes
    """The sender's node."""
    number: int
    """The sender's own, for the answer."""
    hops: int


class WantTaken(Message, frozen=True, tag=141):
    """The sender does not want it any more."""

    actor_id: bytes
    number: int


class WantSentOn(Message, frozen=True, tag=142):
    """The worker is to be wanted of another node's daemon."""

    actor_id: bytes
    number: int
    address: str
    """Of that daemon."""
    hops: int
    """What to say there."""


class WantSettled(Message, frozen=True, tag=143):
    """Control knows of a worker, or that there is none."""

    actor_id: bytes
    number: int


# ------------------------------------------------------------------ daemon <-> template


class Fork(Message, frozen=True, tag=100):
    """Daemon to template: fork a worker.

    Two file descriptors come with it: its stdout and stderr.
    """

    worker_id: bytes
    env: dict[str, str]


class Forked(Message, frozen=True, tag=101):
    """Template to daemon: the worker's process id."""

    worker_id: bytes
    pid: int


class Reaped(Message, frozen=True, tag=102):
    """Template to daemon: a worker has ended."""

    pid: int
    status: int
    """As of os.wait4."""
    peak_bytes: int
    address_space_bytes: int = -1
    """Its RLIMIT_AS; -1: none."""


class Preload(Message, frozen=True, tag=103):
    """Import these modules, so that later workers have them: for the daemon, and its template."""

    modules: list[str]


# ------------------------------------------------------------------ daemon <-> spiller


class Spill(Message, frozen=True, tag=104):
    """Daemon to spiller: write these segments into one file. Answered by Spilled."""

    batch: int
    file: str
    names: list[str]
    sizes: list[int]
    """Of the objects in them, in bytes."""


class Spilled(Message, frozen=True, tag=105):
    """The file of a batch is complete; or it is not there, for `error`."""

    batch: int
    error: str
    places: list[tuple[int, int, int]]
    """(offset, size_bytes, checksum) of each segment, in the order of Spill."""


class Unspill(Message, frozen=True, tag=106):
    """Daemon to spiller: make a segment of what a file holds. Answered by Unspilled."""

    request: int
    name: str
    file: str
    offset: int
    size_bytes: int
    segment_bytes: int
    checksum: int
    directory: str = ""
    """Where the segment is made; empty: in the store."""
    over: str = ""
    """If not empty, the segment is made of this file of the store; it is new if that is gone."""


class Unspilled(Message, frozen=True, tag=107):
    """The segment is there; or it is not, for `error`.

    That begins with "full: " if there is no room for the segment, and the copy may be fine.
    """

    request: int
    error: str


class Unlink(Message, frozen=True, tag=108):
    """Daemon to spiller: delete these files, as far as they are there."""

    files: list[str]


ANY: Any = reduce(or_, Message.__subclasses__())
"""One of all messages."""
