"""What the observer says of a group while something is wrong with it: each state caused once, on a real cluster."""

import asyncio
from itertools import count
from uuid import uuid4

import asyncpg
import pytest
from aiokafka import TopicPartition
from aiokafka.protocol.admin import DeleteGroupsRequest
from structlog.testing import capture_logs

from infra.kafka.cluster_queries import open_cluster_queries
from infra.kafka.commit_history import partition_of_group
from infra.postgres import Connection
from infra.settings import Settings
from schemas.catalogue import BILLING_EVENTS, SEND_REQUESTS
from tests.workers.lagging import QUICK, Reading, make_reading, stands
from tests.workers.life import at_the_end, in_partition, living
from tests.workers.wire import Raw, ends, prepare, promotion, publish, send, set_offset, working
from workers.commands.views.lag import show_lag
from workers.errors import BreakerError
from workers.jobs.billing import BillingJob
from workers.jobs.send import SendJob
from workers.lane import server_checks
from workers.lane.circuit_breaker import FEWEST
from workers.ledger.plans import load_catalogue
from workers.ops.lag import Status, StatusLimits, observer
from workers.ops.topics.plan import apply_topics, plan_topics

PATIENT = StatusLimits(window_seconds=60)


@pytest.fixture
async def reading(settings: Settings, account: str) -> Reading:
    """A topic and a group of the test's own."""
    return await make_reading(settings, account)


async def test_a_group_at_the_end_is_ok_whoever_writes_nothing(reading: Reading) -> None:
    """An idle producer and a group without members: nothing is unread, so nothing is wrong."""
    await reading.write(3)
    await reading.commit(3)

    found = await reading.first_look()

    assert (Status.OK, "all is read", 0, 0.0, 0.0) == (
        found.status,
        found.reason,
        found.records,
        found.seconds,
        found.eta_seconds,
    )


async def test_a_group_without_members_is_stopped_and_who_comes_is_its_owner(reading: Reading) -> None:
    """With records to read; the reader that then comes is named, by client and host."""
    await reading.write(3)
    await reading.commit(1)
    async with reading.observed() as found:
        stopped = await reading.stands(found, Status.STOPPED)
        assert "nobody is in the group, and 2 of its records are unread" in stopped.reason
        assert stopped.owner is None

        async with reading.member() as consumer:
            assert len(await consumer.getmany(timeout_ms=5_000)) == 1
            await consumer.commit()
            read = await reading.stands(found, Status.OK)
        changes = found.changes(reading.group, *reading.place)

    assert read.owner is not None
    assert (reading.group, "127.0.0.1") == (read.owner.client, read.owner.host)
    assert [Status.STOPPED, Status.OK] == [change.status for change in changes][-2:]
    assert changes[-1].at == read.since


async def test_a_reader_that_stands_still_is_stalled_also_for_an_observer_that_has_just_come(reading: Reading) -> None:
    """The commits of before are in Kafka. Without them the first look could not tell."""
    await reading.write(3)
    await reading.commit(1)
    async with reading.member(), reading.observed() as found:
        stalled = await reading.stands(found, Status.STALLED)

        again, forgetful = await reading.first_look(), await reading.first_look(remembers=False)

    assert "its reader is there and has not got on for" in stalled.reason
    assert (Status.STALLED, 2) == (again.status, again.records)
    assert Status.OK == forgetful.status


@pytest.mark.whole
async def test_a_reader_that_gets_on_and_falls_behind_is_slow(reading: Reading) -> None:
    """One record read for three that come; also for an observer that has just come."""
    await reading.write(6)

    enough = asyncio.Event()

    async def fall_behind() -> None:
        for offset in count(1):
            if enough.is_set():
                break
            await reading.commit(offset)
            await reading.write(3)

    async with reading.observed() as found:
        falling = asyncio.create_task(fall_behind())
        slow = await reading.stands(found, Status.SLOW)
        again = await reading.first_look()
        enough.set()
        await falling

    assert "records a second, and" in slow.reason
    assert slow.eta_seconds is None
    assert Status.SLOW == again.status


@pytest.mark.usefixtures("soon_over_it")
async def test_a_lock_in_postgres_is_the_cause_on_every_surface(
    cluster: Settings, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Within seconds lag, for an old and a new observer, the worker's readiness and its log name who holds it."""
    monkeypatch.setattr(server_checks, "_SERVERS_SECONDS", 0.3)
    account = in_partition(cluster, 1)
    place = TopicPartition(SEND_REQUESTS, 1)
    with capture_logs() as logs:
        async with living(cluster) as life, observer(cluster) as found:
            await publish(cluster, SEND_REQUESTS, [send(account)])
            await at_the_end(cluster, 1)
            other = await asyncpg.connect(
                cluster.database_url.get_secret_value(), server_settings={"application_name": "psql"}
            )
            named = f"pid {other.get_server_pid()} (user "
            async with asyncio.timeout(10):
                await other.execute("begin; lock table accounts in access exclusive mode")
                await publish(cluster, SEND_REQUESTS, [send(account)])
                locked = await stands(found, SendJob.group, place, Status.LOCKED)
                await life.not_ready(f"Postgres: {named}")
            async with observer(cluster) as new:
                await new.refresh()
                show_lag(new.groups)
                first = next(group for group in new.groups if group.group == SendJob.group)
            await other.close()
            await at_the_end(cluster, 1)
            await life.ready()
            calm = await stands(found, SendJob.group, place, Status.OK)

    assert locked.reason.startswith(named)
    assert "idle in transaction since " in locked.reason
    assert (Status.LOCKED, locked.reason[:40]) == (first.status, first.reason[:40])
    assert f"Postgres: {named}" in capsys.readouterr().out
    (told,) = [log for log in logs if log["event"] == "lock_in_the_way"]
    assert told["holder"].startswith(named)
    assert "pg_terminate_backend" in told["hint"]
    assert "all is read" == calm.reason


async def test_an_offset_that_went_back_is_told_until_it_has_come_as_far_again(reading: Reading) -> None:
    """To an observer that saw it, and to one that came afterwards."""
    await reading.write(10)
    async with reading.observed(PATIENT) as found:
        await reading.commit(8)
        await found.refresh()
        await reading.commit(2)

        rewound = await reading.stands(found, Status.REWOUND)
        again = await reading.first_look(PATIENT)
        await reading.commit(8)
        as_far = await reading.stands(found, Status.OK)

    assert "the offset went back from 8 after" in rewound.reason
    assert "is at 2: 6 to read again" in again.reason
    assert (2, 8) == (rewound.committed, as_far.committed)


@pytest.mark.whole
async def test_a_group_that_never_committed_is_told_so_and_so_is_one_that_never_ran(reading: Reading) -> None:
    """Its members' partitions are known from who they were given to; of the other nothing is known at all."""
    await reading.write(4)
    async with reading.member(), reading.observed() as found:
        never = await reading.stands(found, Status.NEVER_COMMITTED)
    async with observer(reading.settings, [f"none-{reading.group}"], books=False) as found:
        await found.refresh()
        (nobody,) = found.groups

    assert (None, 4, True) == (never.committed, never.records, never.owner is not None)
    assert (Status.NEVER_COMMITTED, "", ()) == (nobody.status, nobody.topic, nobody.partitions)


async def test_a_hanging_transaction_holds_a_group_that_has_read_all_it_can(reading: Reading) -> None:
    """It is not the reader that is at fault. Once the transaction ends, it is again."""
    await reading.write(2)
    await reading.commit(2)
    async with reading.transactions() as producer, reading.member(), reading.observed() as found:
        await producer.begin_transaction()
        await producer.send_and_wait(reading.place.topic, b"x")
        await reading.write(1)

        held = await reading.stands(found, Status.HELD)

        await producer.commit_transaction()
        stalled = await reading.stands(found, Status.STALLED)
    assert (2, 2) == (held.records, held.held)
    assert "an open transaction of a producer holds 2 back" in held.reason
    assert held.seconds > QUICK.held_seconds
    assert 0 == stalled.held


@pytest.mark.whole
async def test_markers_and_what_was_aborted_are_no_lag(reading: Reading) -> None:
    """A group that commits the last record's offset and one more is 1 behind for ever, by offsets; and here 4."""
    async with reading.transactions() as producer:
        for ends in (producer.commit_transaction, producer.abort_transaction):
            await producer.begin_transaction()
            await producer.send_and_wait(reading.place.topic, b"x")
            await ends()
        async with reading.observed(StatusLimits(window_seconds=60, behind_seconds=0)) as found:
            await reading.commit(1)
            ok = await reading.stands(found, Status.OK)

            await producer.begin_transaction()
            await producer.send_and_wait(reading.place.topic, b"x")
            await producer.commit_transaction()
            await reading.stands(found, Status.STOPPED)

    assert (1, 0, 0, 0.0) == (ok.committed, ok.records, ok.held, ok.seconds)
    assert ok.end > 1


@pytest.mark.whole
async def test_what_was_aborted_is_passed_over_look_by_look(reading: Reading) -> None:
    """More of it than one look passes over: the next goes on from there, and finds the record that nobody reads."""
    await reading.commit(0)
    async with reading.transactions() as producer, reading.observed() as found:
        for _ in range(20):
            await producer.begin_transaction()
            await producer.send_and_wait(reading.place.topic, b"x" * 12_000)
            await producer.abort_transaction()
        await reading.write(1)

        stopped = await reading.stands(found, Status.STOPPED)
    assert stopped.seconds > 0


@pytest.mark.whole
async def test_all_groups_of_the_cluster_are_told_of_together(reading: Reading, account: str) -> None:
    """With who is in them, which aiokafka's own client could not read of two at once."""
    other = await make_reading(reading.settings, f"{account}-2")
    async with reading.member(), other.member(), open_cluster_queries(reading.settings) as asked:
        names = await asked.groups()
        described = await asked.describe([reading.group, other.group])

    assert {reading.group, other.group} <= set(names)
    assert [1, 1] == [len(each.members or ()) for each in described.values()]


def test_a_group_s_offsets_are_looked_for_where_java_s_hash_puts_them() -> None:
    """Values of String.hashCode, the lowest integer among them."""
    found = [partition_of_group(name, 50) for name in ("", "hello", "polygenelubricants", "\U0001f600")]

    assert [0, 99_162_322 % 50, 0, 1_772_899 % 50] == found


# -- our own workers ------------------------------------------------------------------------------------------------


async def test_what_the_breaker_ended_is_paused_until_a_batch_is_stored(cluster: Settings) -> None:
    """Told with what the breaker said, from the lane's row: the worker itself is gone."""
    account, place = in_partition(cluster, 0), TopicPartition(SEND_REQUESTS, 0)
    bad: list[Raw] = [(account.encode(), b"{")] * FEWEST
    await publish(cluster, SEND_REQUESTS, bad)
    async with observer(cluster, limits=QUICK) as found:
        stopped = await stands(found, SendJob.group, place, Status.STOPPED)
        async with living(cluster) as life:
            assert isinstance(await life.ended(), BreakerError)
        paused = await stands(found, SendJob.group, place, Status.PAUSED)
        async with living(cluster.model_copy(update={"dead_letter_share": 1.0})):
            await at_the_end(cluster, 0)
        await publish(cluster, SEND_REQUESTS, [send(account)])
        again = await stands(found, SendJob.group, place, Status.STOPPED)

    assert FEWEST == stopped.records
    assert f"the breaker: {FEWEST} of the last {FEWEST} records cannot be decided" in paused.reason
    assert 1 == again.records


async def test_a_lane_that_waits_for_another_names_it(cluster: Settings) -> None:
    """Its neighbour is not there and has records unread; once it has read them, the lane goes on."""
    account, place = in_partition(cluster, 0), TopicPartition(SEND_REQUESTS, 0)
    async with observer(cluster, limits=QUICK) as found:
        await publish(cluster, BILLING_EVENTS, [promotion(account, 1)])
        await publish(cluster, SEND_REQUESTS, [send(account)])
        async with living(cluster.model_copy(update={"order_seconds": 60.0})):
            waiting = await stands(found, SendJob.group, place, Status.WAITING)
            async with working(cluster, BillingJob(load_catalogue())):
                await stands(found, SendJob.group, place, Status.OK)
                await at_the_end(cluster, 0)

    assert f"waits for {BillingJob.group}, partition 0, since 20" in waiting.reason
    assert "which has read up to offset" in waiting.reason


async def test_an_offset_beyond_what_the_books_have_read_leaves_records_unread(cluster: Settings) -> None:
    """Other books, or somebody set it: by the group's offset all would be read, and nobody has read it."""
    account, place = in_partition(cluster, 0), TopicPartition(SEND_REQUESTS, 0)
    await publish(cluster, SEND_REQUESTS, [send(account) for _ in range(3)])
    end = (await ends(cluster, SEND_REQUESTS))[place]
    await set_offset(cluster, SendJob.group, place, end)
    async with observer(cluster, limits=QUICK) as found:
        beyond = await stands(found, SendJob.group, place, Status.BEYOND_BOOKS)
        await set_offset(cluster, SendJob.group, place, end - 3)
        stopped = await stands(found, SendJob.group, place, Status.STOPPED)

    assert (3, 3) == (beyond.records, stopped.records)
    assert beyond.seconds > 0
    assert (
        f"its offset is {end:,}, and the books have read up to {end - 3:,}; 3 of its records are unread"
        in beyond.reason
    )
    assert f"run `inmail replay rewind send --to-offset {end - 3} --partition 0`" in beyond.reason


async def test_an_offset_beyond_the_end_of_its_partition_is_not_all_read(cluster: Settings, account: str) -> None:
    """Of our own group, with what sets it right; of another, with how much may be unread."""
    place = TopicPartition(SEND_REQUESTS, 0)
    end = (await ends(cluster, SEND_REQUESTS))[place]
    await set_offset(cluster, SendJob.group, place, end + 9)
    other = await make_reading(cluster, account)
    await other.write(3)
    await other.commit(7)
    async with observer(cluster, limits=QUICK) as found:
        ours = await stands(found, SendJob.group, place, Status.BEYOND_END)
    theirs = await other.first_look()

    assert f"its offset is {end + 9:,}, and the partition ends at {end:,}" in ours.reason
    assert f"run `inmail replay rewind send --to-offset {end} --partition 0`" in ours.reason
    assert (Status.BEYOND_END, 3) == (theirs.status, theirs.records)
    assert "its offset is 7, and the partition ends at 3" in theirs.reason


@pytest.mark.whole
async def test_an_offset_that_kafka_has_forgotten_is_not_one_that_never_was(cluster: Settings) -> None:
    """The books know that the group has read, and how far."""
    place = TopicPartition(SEND_REQUESTS, 1)
    await publish(cluster, SEND_REQUESTS, [send(in_partition(cluster, 1))])
    await prepare(cluster)
    end = (await ends(cluster, SEND_REQUESTS))[place]
    async with open_cluster_queries(cluster) as asked:
        coordinator = await asked._coordinator(SendJob.group)
        deleted = await asked.send(coordinator or 0, DeleteGroupsRequest([SendJob.group]))
    assert [(SendJob.group, 0)] == [tuple(each) for each in deleted.results]
    async with observer(cluster, limits=QUICK) as found:
        expired = await stands(found, SendJob.group, place, Status.EXPIRED, Status.OK)
        await apply_topics(cluster, await plan_topics(cluster))
        await stands(found, SendJob.group, place, Status.STOPPED)

    assert Status.EXPIRED == expired.status
    assert f"the books have read up to {end:,}" in expired.reason
    assert "" == expired.note


async def test_a_topic_that_the_books_have_not_read_is_told_by_its_id(cluster: Settings, database: Connection) -> None:
    """Whatever its offsets: all that it holds is unread."""
    place = TopicPartition(SEND_REQUESTS, 0)
    await publish(cluster, SEND_REQUESTS, [send(in_partition(cluster, 0))])
    end = (await ends(cluster, SEND_REQUESTS))[place]
    await set_offset(cluster, SendJob.group, place, end)
    await database.execute("update lanes set topic_id = $1, next_offset = $2", another := uuid4(), end)
    async with observer(cluster, limits=QUICK) as found:
        recreated = await stands(found, SendJob.group, place, Status.RECREATED)
        await database.execute("update lanes set topic_id = null")
        ok = await stands(found, SendJob.group, place, Status.OK)

    assert (end - recreated.oldest, 0) == (recreated.records, ok.records)
    assert f"the books have read the topic with the id {another} up to offset {end:,}" in recreated.reason


async def test_lag_is_told_while_the_books_are_away(cluster: Settings) -> None:
    """What they would tell is missing, and that is said."""
    away = cluster.model_copy(update={"database_url": type(cluster.database_url)("postgresql://127.0.0.1:9/none")})
    async with observer(away) as found:
        await found.refresh()

    assert {SendJob.group, BillingJob.group} <= {group.group for group in found.groups}
    assert "the books cannot be read" in (found.trouble or "")
