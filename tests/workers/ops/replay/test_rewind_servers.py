"""Rewinding partitions that several Postgres servers hold: their offsets are set all at once, or none is."""

import asyncio
from datetime import UTC, datetime, timedelta
from uuid import uuid4

import pytest
from aiokafka import TopicPartition

from infra.clock import utc_now
from infra.kafka.clients import admin_client, committed_offsets
from infra.postgres import Connection
from schemas.catalogue import SEND_REQUESTS
from tests.whole import whole
from tests.workers.command import run
from tests.workers.noted_operations import list_operations
from tests.workers.replaying import ME
from tests.workers.two_servers import PARTITIONS, PlacedBook, TwoServers, account_of, set_state
from tests.workers.wire import ends, eventually, pass_over, prepare, publish, send
from workers.commands.running import Exit
from workers.console.operation_runner import OperationRunner
from workers.console.query_limiter import QueryLimiter
from workers.jobs.send import SendJob
from workers.ledger.model import WorkerName
from workers.ops.books.shards import NotHeldError, ServerError, server_name
from workers.ops.operations import Intent, OngoingOperation, RefusedError, recorded_operation
from workers.ops.replay import rewind as rewinding
from workers.ops.replay.rewind import rewind
from workers.ops.replay.rewind_plan import RewindOptions, RewindPlan, plan_rewind
from workers.ops.replay.rewind_target import VERB, RewindTarget, TargetKind

AGAIN = RewindOptions(publish_again=True)
_STAND = "update lanes set next_offset = $2, published = $2 where topic = 'inmail.send-requests' and partition = $1"
_PUBLISHED = "select published from lanes where topic = 'inmail.send-requests' and partition = $1"


class Decided:
    """A request on each of two servers, decided and published: the first's in partition 0, the second's in 3."""

    def __init__(self, servers: TwoServers) -> None:
        """Take the servers, both empty."""
        self.servers = servers
        self.requests = [send(account_of(number, f"w-{uuid4().hex[:12]}")) for number in (0, 3)]

    async def decide(self) -> None:
        """Publish the requests, decide them, and note that their answers are published."""
        await prepare(self.servers.alone[1])
        await prepare(self.servers.both)
        self.before = await ends(self.servers.both, SEND_REQUESTS)
        await publish(self.servers.both, SEND_REQUESTS, self.requests)
        await pass_over(self.servers.both)
        for connection, number, request in zip(self._connections, (0, 3), self.requests, strict=True):
            book = PlacedBook(connection)
            book.offset, book.now = self.offset(number), datetime.now(UTC)
            await book.one(request)
            await connection.execute(_STAND, number, self.offset(number) + 1)

    @property
    def _connections(self) -> tuple[Connection, Connection]:
        return self.servers.first, self.servers.second

    def offset(self, number: int) -> int:
        """Return the offset of a partition's request, or of its end if it has none."""
        return self.before[TopicPartition(SEND_REQUESTS, number)]

    async def committed(self) -> list[int]:
        """Return how far after the partitions' ends of before the requests the group is."""
        places = [TopicPartition(SEND_REQUESTS, number) for number in range(PARTITIONS)]
        async with admin_client(self.servers.both) as admin:
            found = await committed_offsets(admin, SendJob.group, places)
        return [(found[place] or 0) - self.before[place] for place in places]

    async def announced(self) -> list[int]:
        """Return the same of what the lanes of partitions 0 and 3 expect, each at its server."""
        return [
            await connection.fetchval(_PUBLISHED, number) - self.offset(number)
            for connection, number in zip(self._connections, (0, 3), strict=True)
        ]


@pytest.fixture
async def decided(servers: TwoServers) -> Decided:
    """Two servers with a decided request each."""
    found = Decided(servers)
    await found.decide()
    return found


async def back(decided: Decided, target: RewindTarget) -> tuple[RewindPlan, OngoingOperation]:
    """Rewind the send workers' group."""
    both = decided.servers.both
    plan = await plan_rewind(both, WorkerName.SEND, target, AGAIN)
    return plan, await rewind(both, target, AGAIN, plan, who=ME, stop=asyncio.Event(), drain_seconds=5)


def lately() -> RewindTarget:
    """Return the time of before the requests, in all partitions."""
    return RewindTarget(TargetKind.TIME, utc_now() - timedelta(days=1))


async def test_all_partitions_go_back_at_once_and_forward_again(decided: Decided) -> None:
    """Each server's lanes are told; the operation is noted once, and whoever undoes it need not know who holds what."""
    target = RewindTarget(TargetKind.OFFSET, decided.offset(0), (0,))
    starts = {number: decided.offset(number) for number in (0, 3)}
    stood, told = await decided.committed(), await decided.announced()

    both = decided.servers.both
    plan = await plan_rewind(both, WorkerName.SEND, lately(), AGAIN, starts)
    done = await rewind(both, lately(), AGAIN, plan, who=ME, stop=asyncio.Event(), drain_seconds=5)
    rewound, expected = await decided.committed(), await decided.announced()
    undone, _ = await back(decided, RewindTarget(TargetKind.UNDO, done.number))

    first, second = map(server_name, decided.servers.alone)
    assert ([1, 0, 0, 1], [1, 1]) == (stood, told)
    assert [(0, 1, 1), (3, 1, 1)] == [(each.partition, each.republished, each.first_answers) for each in plan.moves]
    assert {0: first, 1: first, 2: first, 3: second} == plan.server_of
    assert [{"server": first, "numbers": [0, 1, 2]}, {"server": second, "numbers": [3]}] == plan.summary()["servers"]
    assert (True, [0, 0, 0, 0], [0, 0]) == (done.result["set"], rewound, expected)
    assert ([0, 3], stood) == ([each.partition for each in undone.moves], await decided.committed())
    assert (2, 0) == (len(await list_operations(both, 9)), len(await list_operations(decided.servers.alone[1], 9)))
    assert [0] == [each.partition for each in (await plan_rewind(both, WorkerName.SEND, target, AGAIN)).moves]


async def test_a_target_is_looked_for_on_every_server(decided: Decided) -> None:
    """A request is where its account is; a time is one for all partitions; what nobody has is refused."""
    both = decided.servers.both
    found = RewindTarget(TargetKind.REQUEST, decided.requests[1].id)

    plan = await plan_rewind(both, WorkerName.SEND, found, AGAIN)
    moves = (await plan_rewind(both, WorkerName.SEND, lately(), AGAIN)).moves
    for kind, value, words in (
        (TargetKind.REQUEST, uuid4(), "no stored outcome"),
        (TargetKind.TIME, datetime(2100, 1, 1, tzinfo=UTC), "has no record from 2100"),
        (TargetKind.UNDO, 10**9, "is not a rewind of send"),
    ):
        with pytest.raises(RefusedError, match=words):
            await plan_rewind(both, WorkerName.SEND, RewindTarget(kind, value), AGAIN)

    assert [(3, decided.offset(3))] == [(each.partition, each.target) for each in plan.moves]
    assert {0, 3} <= {each.partition for each in moves}


async def test_nothing_is_set_while_a_server_of_one_of_the_partitions_is_away(decided: Decided) -> None:
    """It is named, with the exit code of what cannot be reached; partitions of the others can be rewound."""
    away, stood = decided.servers.without_second(), await decided.committed()
    words = ["replay", "rewind", "send", "--publish-again", "--by", "ops-1", "--because", "a trial", "--yes"]

    code, _, err = await run(away, *words, "--to-request", str(decided.requests[0].id))
    done, out, _ = await run(away, *words, "--to-request", str(decided.requests[0].id), "--partition", "0")

    assert (Exit.UNREACHABLE, True) == (code, "Postgres cannot be reached at localhost:1" in err)
    assert (Exit.DONE, True) == (done, server_name(decided.servers.alone[0]) in out)
    assert ([1, 0, 0, 1], [0, 0, 0, 1]) == (stood, await decided.committed())


async def test_a_number_that_moves_meanwhile_is_not_rewound(decided: Decided, monkeypatch: pytest.MonkeyPatch) -> None:
    """The copy of its lanes would not know that its offset goes back: before, during, and as it is told."""
    starts = {number: decided.offset(number) for number in (0, 3)}
    both, stood = decided.servers.both, await decided.committed()
    plan = await plan_rewind(both, WorkerName.SEND, lately(), AGAIN, starts)
    announce = rewinding._announce_offsets

    async def moves(*arguments: object) -> None:
        await announce(*arguments)  # type: ignore[arg-type] # as they came
        await set_state(decided.servers.first, 2, "left", decided.servers.second)
        await set_state(decided.servers.second, 2, "held")

    with monkeypatch.context() as broken:
        broken.setattr(rewinding, "_announce_offsets", moves)
        with pytest.raises(RefusedError, match="moved to another server meanwhile, and nothing was set"):
            await rewind(both, lately(), AGAIN, plan, who=ME, stop=asyncio.Event(), drain_seconds=5)
    with pytest.raises(RefusedError, match="moved to another server meanwhile, and nothing was set"):
        await rewind(both, lately(), AGAIN, plan, who=ME, stop=asyncio.Event(), drain_seconds=5)
    await decided.servers.move_back()
    with pytest.raises(NotHeldError, match="partition number 3 is held by no server"):
        await plan_rewind(both, WorkerName.SEND, lately(), AGAIN)

    assert stood == await decided.committed()


@pytest.mark.parametrize("several", [whole(False), True])
async def test_the_console_continues_a_rewind(decided: Decided, *, several: bool) -> None:
    """One that was stopped while its group drained: planned with a page's limits of time, and run without them."""
    settings = decided.servers.both
    if not several:
        settings = decided.servers.alone[0]
        await set_state(decided.servers.first, 3, "held")
    target = RewindTarget(TargetKind.OFFSET, decided.offset(0), (0,))
    options = RewindOptions(publish_again=True, drain=True)
    stop = asyncio.Event()
    stop.set()
    plan = await plan_rewind(settings, WorkerName.SEND, target, options)
    await rewind(settings, target, options, plan, who=ME, stop=stop, drain_seconds=5)
    (stopped,) = await list_operations(settings, 9)
    runner = OperationRunner(settings)

    can = runner.can_resume(stopped)
    await runner.resume(QueryLimiter(settings).settings, stopped, ME)

    async def done() -> bool:
        return (await list_operations(settings, 1))[0].status == "done"

    await eventually(done, "the rewind is done")
    assert ("stopped", True, [0, 0, 0, 1]) == (stopped.status, can, await decided.committed())


async def test_one_rewind_at_a_time_works_on_a_server_wherever_it_is_noted(decided: Decided) -> None:
    """An operator whose INMAIL_DATABASE_URL is another server's is told which one is in the way."""
    second = decided.servers.alone[1]
    async with recorded_operation(second, Intent(VERB, *ME, {}, {})):
        with pytest.raises(RefusedError, match=rf"{server_name(second)}: another rewind is under way"):
            await back(decided, RewindTarget(TargetKind.REQUEST, decided.requests[1].id))
    with pytest.raises(ServerError):
        await plan_rewind(decided.servers.without_second(), WorkerName.SEND, lately(), AGAIN)
