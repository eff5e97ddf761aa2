"""Going on without records that are lost: when a lane asks for it, what it takes, and what it never passes over."""

import json
import re
import shlex
from uuid import uuid4

import pytest
from aiokafka import AIOKafkaProducer, TopicPartition
from aiokafka.admin import RecordsToDelete

from infra.kafka.clients import admin_client
from infra.postgres import Connection
from infra.settings import Settings
from schemas.catalogue import SEND_REQUESTS, SEND_RESULTS
from schemas.envelope import encode
from tests.workers.command import run
from tests.workers.lagging import QUICK, stands
from tests.workers.life import at_the_end, in_partition, living
from tests.workers.noted_operations import list_operations
from tests.workers.replaying import ME
from tests.workers.two_servers import TwoServers, account_of
from tests.workers.wire import ends, pass_over, prepare, publish, read, send, set_offset
from workers.commands.running import Exit
from workers.jobs.send import SendJob
from workers.lane import lane
from workers.ledger.model import WorkerName
from workers.ops.books.shards import ServerError, server_name
from workers.ops.doctor.lane_checks import check_offsets
from workers.ops.doctor.model import Grade
from workers.ops.lag import Status, observer
from workers.ops.operations import RefusedError
from workers.ops.replay.skip import SkippedLane, plan_skip, skip

PLACE = TopicPartition(SEND_REQUESTS, 2)
WHY = ("--by", "ann", "--because", "no newer backup", "--yes")
_STORED = "select next_offset from lanes where topic = 'inmail.send-requests' and partition = $1"
_EPOCHS = "select epoch, owner_epoch from lanes where topic = 'inmail.send-requests' and partition = 2"
_OLDER = (
    "update lanes set next_offset = next_offset - $1, published = next_offset - $1"
    " where topic = 'inmail.send-requests' and partition = 2"
)


async def _end(settings: Settings, place: TopicPartition = PLACE) -> int:
    return (await ends(settings, SEND_REQUESTS))[place]


async def _delete_before(settings: Settings, *offsets: int, places: tuple[TopicPartition, ...] = (PLACE,)) -> None:
    """Let retention take what is before an offset of each partition."""
    asked = {place: RecordsToDelete(before_offset=offset) for place, offset in zip(places, offsets, strict=True)}
    async with admin_client(settings) as admin:
        await admin.delete_records(asked)


async def _decided(settings: Settings, count: int) -> int:
    """Have so many requests of one partition decided and published; return where it ends."""
    account = in_partition(settings, PLACE.partition)
    await publish(settings, SEND_REQUESTS, [send(account) for _ in range(count)])
    async with living(settings):
        await at_the_end(settings, PLACE.partition)
    return await _end(settings)


async def test_a_backup_of_before_the_oldest_record_is_refused_until_somebody_accepts_its_loss(
    cluster: Settings, database: Connection, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Nothing has come since: by Kafka's offsets all is read, and what was decided meanwhile is nowhere any more.

    Probe, lag, its metric and doctor name how many records are gone, and what the lane says to do makes it go on.
    """
    monkeypatch.setattr(lane, "_HALTED_SECONDS", 0.2)
    end = await _decided(cluster, 5)
    await database.execute(_OLDER, 3)
    await _delete_before(cluster, end)
    start = await ends(cluster, SEND_RESULTS)
    gone = f"Up to 3 records from offset {end - 3} on are not in Kafka any more either: restore a newer backup"
    async with observer(cluster, limits=QUICK) as found:
        seen = await stands(found, SendJob.group, PLACE, Status.BEYOND_BOOKS)
    async with living(cluster) as life:
        await life.not_ready(f"lane {SEND_REQUESTS}/2 is halted: group inmail-send has published")
        await life.not_ready(gone)
        (halted,) = life.health.not_ready()
        checked = await check_offsets(cluster, before_start=True)
        command = re.findall("`inmail (replay skip .*?)`", halted)
        dry = await run(cluster, *shlex.split(command[0]), "--dry-run")
        stood = await database.fetchval(_STORED, 2)
        done = await run(cluster, *shlex.split(command[0]), *WHY)
        again = await run(cluster, *shlex.split(command[0]), *WHY)
        await life.ready()
        await publish(cluster, SEND_REQUESTS, [request := send(in_partition(cluster, 2))])
        (answer,) = await read(cluster, start, 1)

    assert gone in seen.reason
    assert (3, 0) == (seen.lost, seen.records)
    assert [Grade.WRONG] == [each.grade for each in checked if gone in each.text]
    assert ([Exit.DONE] * 3, end - 3) == ([each.code for each in (dry, done, again)], stood)
    assert "Up to 3 records will never be in the ledger's database." in dry.out
    assert "Up to 3 of them were answered before" in dry.out
    assert "1 lane moved: operation " in done.out
    assert "Nothing to skip" in again.out
    assert str(request.id) == answer["request_id"]
    (noted,) = await list_operations(cluster, 9)
    assert ("skip", "ann", "no newer backup", "done") == (noted.verb, noted.actor, noted.reason, noted.status)
    assert [{"partition": 2, "from": end - 3, "to": end, "gone": 3, "left": 0, "answered": 3}] == noted.plan["lanes"]


async def test_markers_after_the_last_record_are_no_loss(cluster: Settings, database: Connection) -> None:
    """Transactional producers leave offsets that no record has: the lane reads past them, whatever retention leaves."""
    account = in_partition(cluster, 2).encode()
    async with AIOKafkaProducer(**cluster.kafka_client(), transactional_id=f"test-{uuid4().hex}") as producer:
        for ends_well in (True, False):
            await producer.begin_transaction()
            await producer.send_and_wait(SEND_REQUESTS, encode(send(account.decode())), account, partition=2)
            await (producer.commit_transaction() if ends_well else producer.abort_transaction())
    async with living(cluster):
        await at_the_end(cluster, 2)
    end = await _end(cluster)

    for oldest in (end - 1, end):
        await _delete_before(cluster, oldest)
        async with living(cluster) as life:
            await life.ready()

    assert end == await database.fetchval(_STORED, 2)
    assert () == (await plan_skip(cluster, WorkerName.SEND)).lanes


async def test_records_that_a_worker_reads_by_itself_are_never_skipped(cluster: Settings, database: Connection) -> None:
    """Only those that are gone, or that the group is beyond: of these the plan says that they can be read again."""
    account = in_partition(cluster, 2)
    await publish(cluster, SEND_REQUESTS, [send(account) for _ in range(4)])
    end = await _end(cluster)
    only = (WorkerName.SEND, end, (2,))

    with pytest.raises(RefusedError, match=f"partition 2: {end} is beyond {end - 4}, up to where records are gone"):
        await plan_skip(cluster, *only)
    await set_offset(cluster, SendJob.group, PLACE, end - 1)
    with pytest.raises(RefusedError, match=f"{end} is beyond {end - 1}"):
        await plan_skip(cluster, *only)
    passed = await plan_skip(cluster, WorkerName.SEND, end - 1, (2,))
    unasked = await plan_skip(cluster, WorkerName.SEND)
    await _delete_before(cluster, end - 2)
    gone = await plan_skip(cluster, WorkerName.SEND)
    both = await plan_skip(cluster, WorkerName.SEND, end - 1, (2,))

    assert (SkippedLane(2, end - 4, end - 1, 0, 3, 3),) == passed.lanes
    assert () == unasked.lanes
    assert (SkippedLane(2, end - 4, end - 2, 2, 0, 2),) == gone.lanes
    assert (SkippedLane(2, end - 4, end - 1, 2, 1, 3),) == both.lanes
    await database.execute("update lanes set next_offset = next_offset + 1 where topic = $1", SEND_REQUESTS)
    with pytest.raises(RefusedError, match="has moved since the plan was made"):
        await skip(cluster, both, ME)
    assert end - 3 == await database.fetchval(_STORED, 2)


async def test_a_lane_of_which_the_books_know_nothing_is_refused(cluster: Settings, database: Connection) -> None:
    """No worker has opened it, or its offsets are of another topic. An offset alone is of no partition."""
    await publish(cluster, SEND_REQUESTS, [send(in_partition(cluster, 2)) for _ in range(2)])
    end = await _end(cluster)
    await _delete_before(cluster, end)

    await database.execute("update lanes set topic_id = $1", uuid4())
    with pytest.raises(RefusedError, match=f"{SEND_REQUESTS} was deleted and created again"):
        await plan_skip(cluster, WorkerName.SEND)
    await database.execute("delete from lanes")
    with pytest.raises(RefusedError, match="partition 2: no worker has opened this lane with this database yet"):
        await plan_skip(cluster, WorkerName.SEND, end, (2,))
    said = await run(cluster, "replay", "skip", "send", "--to-offset", "3", "--dry-run")
    unsaid = await run(cluster, "replay", "skip", "send", "--partition", "2", "--yes")

    assert [Exit.WRONG_USAGE] * 2 == [said.code, unsaid.code]
    assert "offsets are those" in said.err


async def test_the_owner_at_work_begins_again_from_there(cluster: Settings, database: Connection) -> None:
    """Its epoch is over with the row: what it knew to be stored would be less than what the row has."""
    end = await _decided(cluster, 2)
    async with living(cluster) as life:
        await life.ready()
        before = await database.fetchrow(_EPOCHS)
        await database.execute(_OLDER, 1)  # as a failover to a replica that lagged leaves it
        await skip(cluster, await plan_skip(cluster, WorkerName.SEND, end, (2,)), ME)
        after = await database.fetchrow(_EPOCHS)
        start = await ends(cluster, SEND_RESULTS)
        await publish(cluster, SEND_REQUESTS, [request := send(in_partition(cluster, 2))])
        (answer,) = await read(cluster, start, 1)

    assert [each + 1 for each in before or ()] == list(after or ())
    assert str(request.id) == answer["request_id"]


async def test_lanes_of_several_servers_go_on_each_on_its_own(servers: TwoServers) -> None:
    """One operation, and each server's lanes. One server away leaves the other's lanes to be moved alone."""
    name = f"w-{uuid4().hex[:12]}"
    requests = [send(account_of(number, name)) for number in (0, 3)]
    await prepare(servers.both)
    await publish(servers.both, SEND_REQUESTS, requests)  # a lane that has stored nothing has lost nothing
    await prepare(servers.alone[1])
    await prepare(servers.both)
    await publish(servers.both, SEND_REQUESTS, requests)
    end = await pass_over(servers.both)
    places = TopicPartition(SEND_REQUESTS, 0), TopicPartition(SEND_REQUESTS, 3)
    await _delete_before(servers.both, *(end[place] for place in places), places=places)

    with pytest.raises(ServerError):
        await plan_skip(servers.without_second(), WorkerName.SEND)
    one = await run(servers.without_second(), "replay", "skip", "send", "--partition", "0", "--dry-run", "--json")
    plan = await plan_skip(servers.both, WorkerName.SEND)
    done = await run(servers.both, "replay", "skip", "send", *WHY, "--json")

    assert [0] == [each["partition"] for each in json.loads(one.out)["plan"]["lanes"]]
    assert [(each.partition, end[each] - 1, end[each]) for each in places] == [each[:3] for each in plan.lanes]
    assert list(map(server_name, servers.alone)) == [plan.server_of[number] for number in (0, 3)]
    assert {"lanes": 2} == json.loads(done.out)["result"]
    assert [end[place] for place in places] == [
        await servers.first.fetchval(_STORED, 0),
        await servers.second.fetchval(_STORED, 3),
    ]
    assert end[places[1]] - 1 == await servers.first.fetchval(_STORED, 3)  # another server's: a copy, which counts not
    assert (1, 0) == (len(await list_operations(servers.both, 9)), len(await list_operations(servers.alone[1], 9)))
