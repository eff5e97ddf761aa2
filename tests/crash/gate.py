"""Inside a worker: where it can be made to stand, and the controller's word that lets it go on.

Nothing in the code under test knows of it. Each point wraps one call that a worker awaits, from outside, by its name; a
name that no longer fits leaves a point that is never reached, which the matrix reports. Within a call a worker stands
at one of the call's own awaits: its question is on its way, and it does not hear the answer.
"""

import asyncio
import contextlib
import inspect
import os
import socket
import types
from collections.abc import Callable, Container, Coroutine, Generator
from functools import partial, wraps
from importlib import import_module
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any, NamedTuple
from urllib.parse import urlsplit

from aiokafka.errors import MessageSizeTooLargeError

from infra.settings import Settings
from tests.crash.points import Phase

__all__ = ["PATCHED", "Gate"]

Call = Callable[[tuple[Any, ...]], bool]


class _Patch(NamedTuple):
    """One call to wrap."""

    point: str
    owner: str  # module, or module:Class
    name: str
    counts: Call = lambda _: True


def _of_group(arguments: tuple[Any, ...]) -> bool:
    """Tell whether a consumer is the worker's own: others look without a group."""
    return arguments[0]._group_id is not None


def _transactional(arguments: tuple[Any, ...]) -> bool:
    return arguments[0]._txn_manager is not None and arguments[0]._txn_manager.transactional_id is not None


def _any(arguments: tuple[Any, ...]) -> bool:
    """Tell whether a listener is called with partitions, and a drain with lanes."""
    return bool(arguments[1])


def _sql(start: str) -> Call:
    return lambda arguments: arguments[1].startswith(start)


CLAIM = "\nupdate lanes as l\nset next_offset"
RAISE = "\ninsert into lanes as l"

_CONSUMER = "aiokafka.consumer.consumer:AIOKafkaConsumer"
_PRODUCER = "aiokafka.producer.producer:AIOKafkaProducer"
_PATCHES = (
    _Patch("join", _CONSUMER, "start", _of_group),
    _Patch("start", "infra.kafka.transactions:TransactionPair", "start"),
    _Patch("assign", "workers.lane.membership:Membership", "on_partitions_assigned", _any),
    _Patch("known", "workers.lane.lane_rows:LaneRows", "read"),
    _Patch("fence", "workers.lane.turn", "fence_producers", lambda arguments: bool(arguments[1])),
    _Patch("epoch", "asyncpg.pool:Pool", "fetch", _sql(RAISE)),  # after: it is done, and its owner has not heard of it
    _Patch("number", "workers.lane.opening", "agree_on_partitions"),
    _Patch("topic", "workers.lane.opening", "topic_ids"),
    _Patch("committed", "workers.lane.opening", "committed_offsets"),
    _Patch("owned", "workers.lane.lane_rows:LaneRows", "are_owned"),
    _Patch("resume", "workers.lane.lane_rows:LaneRows", "resume"),
    _Patch("oldest", _CONSUMER, "beginning_offsets", _of_group),
    _Patch("end", _CONSUMER, "end_offsets", _of_group),
    _Patch("search", "workers.lane.opening", "scan_published"),
    _Patch("scan", "infra.kafka.records:PartitionFetcher", "fetch"),
    _Patch("recall", "workers.jobs.send:SendJob", "replay_answers"),
    _Patch("recall", "workers.jobs.billing:BillingJob", "replay_answers"),
    _Patch("recall", "workers.jobs.expiry:ExpiryJob", "replay_answers"),
    _Patch("seek", _CONSUMER, "seek", _of_group),
    _Patch("fetch", _CONSUMER, "getmany", _of_group),
    _Patch("take", "workers.lane.lane:Lane", "receive"),
    _Patch("ends", "infra.kafka.end_offsets:EndOffsets", "end_offsets"),
    _Patch("look", "workers.lane.time_order", "read_neighbours"),
    _Patch("wait", "workers.lane.lane_rows:LaneRows", "announce_waiting"),
    _Patch("decode", "workers.lane.deciding", "decode_records"),
    _Patch("acquire", "asyncpg.pool:PoolAcquireContext", "__aenter__"),
    _Patch("begin", "asyncpg.transaction:Transaction", "__aenter__"),
    _Patch("claim", "asyncpg.connection:Connection", "execute", _sql(CLAIM)),
    _Patch("step", "workers.jobs.expiry:ExpiryJob", "step"),
    _Patch("call", "workers.jobs.send:SendJob", "decide"),
    _Patch("call", "workers.jobs.billing:BillingJob", "decide"),
    _Patch("call", "workers.jobs.expiry:ExpiryJob", "decide"),
    _Patch("commit", "asyncpg.transaction:Transaction", "_Transaction__commit"),
    _Patch("gather", "workers.lane.turn_queue:TurnQueue", "_gather"),
    _Patch("publish", _PRODUCER, "begin_transaction"),
    _Patch("partitions", _PRODUCER, "partitions_for", _transactional),
    _Patch("delivery", _PRODUCER, "send_batch", _transactional),
    _Patch("offsets", _PRODUCER, "send_offsets_to_transaction"),
    _Patch("confirm", _PRODUCER, "commit_transaction"),
    _Patch("revoke", "workers.lane.membership:Membership", "on_partitions_revoked", _any),
    _Patch("drain", "workers.lane.owners:Owners", "give_up", _any),
    _Patch("release", "workers.lane.lane_rows:LaneRows", "release", _any),
    _Patch("rest", "workers.lane.turn:LaneOwner", "_begin_again"),
    _Patch("member", "infra.kafka.aiokafka_fixes:Consumer", "is_member"),
    _Patch("discard", "infra.kafka.transactions:TransactionPair", "discard"),
    _Patch("leave", _CONSUMER, "stop", _of_group),
)
_LEFT = "left"  # what is published by an opening, after a recall
PATCHED = {_LEFT, *(patch.point for patch in _PATCHES)}  # the points that a worker can be made to stand at


class Gate:
    """A worker's end of the pipe. The controller arms it for one point; whoever comes there stands until let go."""

    def __init__(self, pipe: Connection, settings: Settings, armed: tuple[str, Phase, int] | None) -> None:
        self._pipe = pipe
        self._armed = armed
        self._may_go = asyncio.Event()
        self._recalled: asyncio.Task[Any] | None = None
        self._ports = {
            "kafka": {int(each.rpartition(":")[2]) for each in settings.kafka_bootstrap_servers.split(",")},
            "postgres": {urlsplit(settings.database_url.get_secret_value()).port},
        }

    def install(self) -> None:
        """Wrap the calls of all points."""
        for patch in _PATCHES:
            self._wrap(patch)
        self._wrap(_Patch(_LEFT, "infra.kafka.transactions:TransactionPair", "publish", self._is_left))

    def listen(self) -> None:
        """Take the controller's words from now on."""
        asyncio.get_running_loop().add_reader(self._pipe.fileno(), self._read)
        os.set_blocking(self._pipe.fileno(), True)  # uvloop switches it off; who stands still waits for a word

    def tell(self, *word: object) -> None:
        """Tell the controller something. Without one, there is nothing to live for."""
        try:
            self._pipe.send(word)
        except OSError:
            os._exit(1)

    def _is_left(self, _: tuple[Any, ...]) -> bool:
        """What the opening of a lane publishes after a recall is what an earlier owner left."""
        return self._recalled is not None and asyncio.current_task() is self._recalled

    def _wrap(self, patch: _Patch) -> None:
        module, _, name = patch.owner.partition(":")
        owner = getattr(import_module(module), name) if name else import_module(module)
        original = getattr(owner, patch.name)
        point, counts = patch.point, patch.counts
        if not inspect.iscoroutinefunction(original):

            @wraps(original)
            def call(*arguments: Any, **options: Any) -> Any:
                if not counts(arguments):
                    return original(*arguments, **options)
                self._stand_still(point, Phase.BEFORE)
                result = original(*arguments, **options)
                self._stand_still(point, Phase.AFTER)
                return result

            setattr(owner, patch.name, call)
            return

        @wraps(original)
        async def call_async(*arguments: Any, **options: Any) -> Any:
            if not counts(arguments):
                return await original(*arguments, **options)
            if point == "revoke":
                self.tell("revoking")
            await self._stand(point, Phase.BEFORE)
            call = original(*arguments, **options)
            result = await (self._step(point, call) if self._is_armed(point, Phase.WITHIN) else call)
            if point == "join":
                self.tell("joined")
            elif point == "recall":
                self._recalled = asyncio.current_task()
            elif point == "delivery":
                result.add_done_callback(self._note_refusal)
            await self._stand(point, Phase.AFTER)
            return result

        setattr(owner, patch.name, call_async)

    def _note_refusal(self, delivery: "asyncio.Future[object]") -> None:
        if not delivery.cancelled() and isinstance(delivery.exception(), MessageSizeTooLargeError):
            self.tell("refused")

    def _is_armed(self, point: str, phase: Phase) -> bool:
        return self._armed is not None and self._armed[:2] == (point, phase)

    def _comes_to(self, point: str, phase: Phase) -> bool:
        if self._armed is None or self._armed[:2] != (point, phase):
            return False
        left = self._armed[2] - 1
        self._armed = (point, phase, left) if left else None
        if left:
            return False
        self._may_go.clear()
        self.tell("at", point, phase)
        return True

    @types.coroutine
    def _step(self, point: str, call: Coroutine[Any, Any, Any]) -> Generator[Any, Any, Any]:
        """Run a call as `await` does, and stand at the await of it that is asked for: the last, if it has fewer.

        Which one is the last is known from the call before. Whoever is cancelled there is so within the call, as if it
        had waited for the answer: what it waits for is cancelled, or had ended meanwhile.
        """
        passed = 0
        step: Callable[[], Any] = partial(call.send, None)
        while True:
            try:
                waited_for = step()
            except StopIteration as end:
                if passed and self._armed is not None and self._is_armed(point, Phase.WITHIN):
                    self._armed = (point, Phase.WITHIN, min(passed, self._armed[2]))
                return end.value
            passed += 1
            try:
                if self._armed == (point, Phase.WITHIN, passed):
                    yield from self._stand_within(point, waited_for)
                step = partial(call.send, (yield waited_for))
            except BaseException as error:  # noqa: BLE001 - whatever it is, it is for the call
                step = partial(call.throw, error)

    @types.coroutine
    def _stand_within(self, point: str, waited_for: "asyncio.Future[Any] | None") -> Generator[Any, Any, None]:
        self._armed = None
        self._may_go.clear()
        self.tell("at", point, Phase.WITHIN)
        try:
            yield from self._may_go.wait()
        except asyncio.CancelledError:
            self.tell("cancelled")
            if waited_for is None or not waited_for.cancel():
                raise

    async def _stand(self, point: str, phase: Phase) -> None:
        """Let this one coroutine stand; the worker's others go on."""
        if self._comes_to(point, phase):
            await self._may_go.wait()

    def _stand_still(self, point: str, phase: Phase) -> None:
        """Let the whole process stand: the point is no await."""
        if self._comes_to(point, phase):
            while not self._may_go.is_set():
                self._obey()

    def _read(self) -> None:
        while self._pipe.poll():
            self._obey()

    def _obey(self) -> None:
        try:
            word, *rest = self._pipe.recv()
        except (EOFError, OSError):
            os._exit(1)
        match word:
            case "arm":
                self._armed = rest[0]
                if self._armed is None:  # it may have come there a moment before it was called off
                    self._may_go.set()
            case "go":
                self._may_go.set()
            case "cut":
                self.tell("cut", _cut(self._ports[rest[0]]))


def _cut(ports: Container[int | None]) -> int:
    """Cut this process's connections to a server's ports, and return how many. Both ends see them end."""
    cut = 0
    for entry in list(Path("/proc/self/fd").iterdir()):
        with contextlib.suppress(OSError):  # not connected, or gone meanwhile
            if not entry.readlink().name.startswith("socket:"):
                continue
            with socket.socket(fileno=os.dup(int(entry.name))) as connection:
                if connection.family == socket.AF_INET and connection.getpeername()[1] in ports:
                    connection.shutdown(socket.SHUT_RDWR)
                    cut += 1
    return cut
