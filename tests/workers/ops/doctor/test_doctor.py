"""The check-up on a real Kafka and a real Postgres: fine as they come; what is broken is found."""

import json
import os
import signal
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from dataclasses import replace
from pathlib import Path
from time import monotonic

import pytest
from aiokafka import TopicPartition
from aiokafka.admin.config_resource import ConfigResource, ConfigResourceType
from aiokafka.protocol.admin import CreateAclsRequest, DeleteAclsRequest
from pydantic import SecretStr

from infra.kafka.broker_versions import BrokerVersion
from infra.kafka.clients import admin_client, committed_offsets, create_producer, reader
from infra.kafka.topic_ids import DescribedTopic
from infra.local.stack import LocalStack
from infra.migrate import migrate
from infra.postgres import connect_database
from infra.settings import Settings, load_settings
from schemas.catalogue import BILLING_EVENTS, EXPIRY_TICKS, SEND_REQUESTS, SEND_RESULTS
from tests.conftest import Connect
from tests.pooler import OPENED_WITH, pooler
from tests.whole import whole_but
from tests.workers.command import run
from tests.workers.hanging import LENIENT, leave_marker_out, leave_offset_marker_out
from tests.workers.wire import eventually, set_offset
from workers.commands.running import Exit
from workers.jobs.send import SendJob
from workers.ledger.store import FUNCTIONS
from workers.local.up import prepare_stack
from workers.ops.doctor import CheckResult, CheckupReport, Grade, run_checkup
from workers.ops.doctor.kafka_checks import _replicas, check_version
from workers.ops.doctor.lane_checks import _group, check_offsets
from workers.ops.lag import GroupLag, PartitionLag, Status
from workers.ops.lag.offsets import LOST_UNDECIDED

TOPIC, GROUP, TRANSACTIONAL_ID = 2, 3, 5  # kinds of resources
READ, WRITE, DESCRIBE = 3, 4, 8
DENY, PREFIXED = 2, 4

NOTHING = "select 1"


@pytest.fixture(scope="module")
def own_stack() -> Iterator[LocalStack]:
    """A stack to break. Its broker asks an authorizer, which allows what nobody has forbidden."""
    rights = {
        "authorizer.class.name": "org.apache.kafka.metadata.authorizer.StandardAuthorizer",
        "allow.everyone.if.no.acl.found": "true",
        **LENIENT,
    }
    with LocalStack(broker_settings=rights) as running:
        yield running


@pytest.fixture(scope="module")
async def prepared(own_stack: LocalStack) -> Settings:
    """Settings for it, with topics and tables made."""
    settings = load_settings(
        kafka_bootstrap_servers=own_stack.kafka_bootstrap_servers,
        database_url=own_stack.database_url,
        topic_partitions=2,
    )
    await prepare_stack(settings)
    return settings


@asynccontextmanager
async def _broken(settings: Settings, sql: str, mend: str = NOTHING) -> AsyncIterator[None]:
    """Break something in the database, and mend it afterwards."""
    connection = await connect_database(settings)
    try:
        await connection.execute(sql)
        yield
        await connection.execute(mend)
        await migrate(connection, [FUNCTIONS])
    finally:
        await connection.close()


@asynccontextmanager
async def _forbidden(settings: Settings, resource: int, name: str, operation: int) -> AsyncIterator[None]:
    """Forbid everybody something, for names that begin so."""
    rule = (resource, name, PREFIXED, "User:*", "*", operation, DENY)
    async with admin_client(settings) as admin:
        await admin._send_request(CreateAclsRequest(*rule))
        yield
        await admin._send_request(DeleteAclsRequest(*rule))


async def _wrong(settings: Settings, *, before_start: bool = True) -> list[CheckResult]:
    return [each for each in await _results(settings, before_start=before_start) if each.grade is Grade.WRONG]


async def _results(settings: Settings, *, before_start: bool = True) -> list[CheckResult]:
    return list((await run_checkup(settings, before_start=before_start)).results)


async def test_a_system_that_was_set_up_has_nothing_to_find(prepared: Settings) -> None:
    """Before its workers start; afterwards it is a warning that none runs. Each right of the workers has its line."""
    before = await _results(prepared)
    after = await _results(prepared, before_start=False)

    assert [] == [each for each in before if each.grade is not Grade.OK]
    assert 40 < len(before)
    assert ["inmail-billing", "inmail-expiry", "inmail-send"] == sorted(
        each.subject for each in after if each.grade is Grade.WARNING and each.text.startswith("nobody is in the group")
    )
    told = {(each.area, each.subject): each.text for each in before}
    (version,) = [text for (area, subject), text in told.items() if subject.startswith("version of")]
    assert "Kafka 4.2, on which every fault was tested" == version
    assert "inmail_worker has INSERT, SELECT" == told["rights", "table journal"]
    assert "READ and WRITE" == told["rights", f"topic {EXPIRY_TICKS}"]


_ALTER = (
    "do $$ begin execute format('alter database %I {} default_transaction_read_only{}', current_database()); end $$"
)
_MURMUR2 = (
    "create or replace function murmur2(p_bytes bytea) returns bigint language plpgsql immutable strict parallel safe"
    " as 'begin return 0; end'"
)
_HALTED = (
    "insert into lanes (consumer_group, topic, partition, epoch, halted)"
    " values ('inmail-send', 'inmail.send-requests', 1, 1, 'the offset is gone')"
)

_WITHOUT_0012 = (
    "create table kept as select * from migrations where name like '0012%';"
    " delete from migrations where name like '0012%'"
)

# What is done, what mends it where `inmail migrate` does not, and what is found.
DAMAGE = {
    "a right that is missing": (
        "revoke update (remaining) on lots from inmail_worker",
        NOTHING,
        ("rights", "table lots", "inmail_worker lacks UPDATE"),
    ),
    "a right too many": (
        "grant delete on journal to inmail_worker",
        NOTHING,
        ("rights", "table journal", "inmail_worker has DELETE: a worker could change what is written for good"),
    ),
    "a row that may be edited by column": (
        "grant update (amount) on journal to inmail_worker",
        NOTHING,
        ("rights", "table journal", "inmail_worker has UPDATE: a worker could change what is written for good"),
    ),
    "a migration that is missing": (
        _WITHOUT_0012,
        "insert into migrations select * from kept; drop table kept",
        ("Postgres", "migrations", "0012_announced_ends.sql missing"),
    ),
    "a function of another version": (_MURMUR2, NOTHING, ("Postgres", "functions", "murmur2 are of another version")),
    "a lane that is halted": (_HALTED, "delete from lanes", ("lanes", "send 1", "halted: the offset is gone")),
    "no writes": (
        _ALTER.format("set", " = on"),
        _ALTER.format("reset", ""),
        ("Postgres", "writes", "default_transaction_read_only is on: workers decide nothing"),
    ),
}


@pytest.mark.parametrize("what", DAMAGE)
async def test_what_is_broken_in_the_database_is_found(prepared: Settings, what: str) -> None:
    """And nothing else is blamed for it."""
    sql, mend, expected = DAMAGE[what]
    async with _broken(prepared, sql, mend):
        found = await _wrong(prepared, before_start=False)

    assert [expected] == [(each.area, each.subject, each.text) for each in found]
    assert [] == await _wrong(prepared)


async def test_a_form_of_a_function_that_a_version_before_has_left_is_nothing_wrong(prepared: Settings) -> None:
    """Workers of this version call the one with this version's parameters; `inmail migrate` leaves the other there."""
    form = "note_told(bigint, told_period, timestamptz)"
    sql = f"create function {form} returns void language sql as $$ select 'a version before' $$"
    async with _broken(prepared, sql, f"drop function {form}"):
        found = await _wrong(prepared)

    assert [] == found


async def test_whoever_keeps_a_table_locked_is_named_and_keeps_no_worker_from_being_started(
    prepared: Settings, connect: Connect
) -> None:
    """A transaction that somebody forgot: it is a warning, since it may end at any moment."""
    connection = await connect(prepared)
    await connection.execute("set idle_in_transaction_session_timeout = 0")  # ours have one, others need not
    async with connection.transaction():
        await connection.execute("lock table journal in share mode")
        pid = f"pid {connection.get_server_pid()} (user "

        async def told() -> bool:
            found = [each for each in await _results(prepared) if each.subject == "locks"]
            assert {Grade.WARNING, Grade.OK} >= {each.grade for each in found}
            return any(each.text.startswith(pid) and "holds a lock on journal" in each.text for each in found)

        await eventually(told, "a warning that names the holder")


async def test_a_lock_in_the_way_of_a_question_is_no_server_that_is_away(prepared: Settings, connect: Connect) -> None:
    """What could not be looked at is a warning: Postgres did answer, and the lock's holder is named beside it."""
    connection = await connect(prepared)
    await connection.execute("set idle_in_transaction_session_timeout = 0")
    async with connection.transaction():
        await connection.execute("lock table accounts in access exclusive mode")
        found = [each for each in await _results(prepared) if (each.area, each.subject) == ("topics", "plan")]

    assert [(Grade.WARNING, False)] == [(each.grade, each.unreachable) for each in found]
    assert "lock timeout" in found[0].text


async def test_a_lane_that_is_halted_keeps_no_worker_from_being_started(prepared: Settings) -> None:
    """Before a start it is a warning: starting the worker is part of the remedy."""
    sql, mend, expected = DAMAGE["a lane that is halted"]
    async with _broken(prepared, sql, mend):
        found = await _results(prepared)

    assert [expected] == [(each.area, each.subject, each.text) for each in found if each.grade is Grade.WARNING]


async def test_an_offset_beyond_what_the_database_has_read_is_wrong(prepared: Settings) -> None:
    """As after a restore: Kafka's offset says that a record is read which these books have never seen."""
    place = TopicPartition(SEND_REQUESTS, 0)
    async with create_producer(prepared, "test") as producer:
        await (await producer.send(place.topic, b"x", partition=place.partition))
    await set_offset(prepared, SendJob.group, place, 1)
    found = await run(prepared, "doctor", "--before-start", "--json")
    await set_offset(prepared, SendJob.group, place, 0)
    mended = await run(prepared, "doctor", "--before-start")

    wrong = [each for each in json.loads(found.out)["checks"] if each["grade"] != "ok"]
    assert (Exit.NO, [("lanes", "inmail-send 0")]) == (found.code, [(each["area"], each["subject"]) for each in wrong])
    assert wrong[0]["text"].startswith("BEYOND BOOKS: its offset is 1, and the books have read up to 0;")
    assert Exit.DONE == mended.code


async def test_offsets_are_not_said_to_agree_with_a_database_that_was_not_read(
    prepared: Settings, connect: Connect
) -> None:
    """A warning says that they were not compared, and why, and stands where each group's line would."""
    connection = await connect(prepared)
    async with connection.transaction():
        await connection.execute("lock table lanes in access exclusive mode")
        found = await check_offsets(prepared, before_start=True)

    assert [("lanes", "offsets", Grade.WARNING)] == [(each.area, each.subject, each.grade) for each in found]
    assert found[0].text.startswith("not compared: the books cannot be read (")


FORBIDDEN = {
    f"topic {SEND_REQUESTS}": (TOPIC, SEND_REQUESTS, READ, "READ"),
    f"topic {SEND_RESULTS}": (TOPIC, SEND_RESULTS, WRITE, "READ and WRITE"),
    "group inmail-send": (GROUP, "inmail-send", READ, "READ"),
    "the transactional ids inmail-send.*": (TRANSACTIONAL_ID, "inmail-send.", DESCRIBE, "WRITE"),
}


@pytest.mark.parametrize("subject", whole_but(FORBIDDEN, f"topic {SEND_RESULTS}"))
async def test_a_right_that_kafka_does_not_give_is_named(prepared: Settings, subject: str) -> None:
    """One by one, without trying what it is for."""
    resource, name, operation, lacking = FORBIDDEN[subject]
    async with _forbidden(prepared, resource, name, operation):
        found = [each for each in await _results(prepared) if each.area == "rights" and each.grade is Grade.WRONG]

    assert [(subject, f"user ANONYMOUS (no login is set) lacks {lacking}")] == [
        (each.subject, each.text) for each in found
    ]


async def test_a_topic_with_its_producers_times_is_wrong(prepared: Settings) -> None:
    """Decisions go by the broker's time."""
    async with admin_client(prepared) as admin:
        topic = ConfigResource(
            ConfigResourceType.TOPIC, BILLING_EVENTS, configs={"message.timestamp.type": "CreateTime"}
        )
        await admin.alter_configs([topic])
        found = await _wrong(prepared)
    await prepare_stack(prepared)

    assert [("topics", BILLING_EVENTS)] == [(each.area, each.subject) for each in found]
    assert found[0].text.startswith("message.timestamp.type is CreateTime; the guarantee: ")
    assert [] == await _wrong(prepared)


async def test_topics_that_are_missing_are_one_line(prepared: Settings) -> None:
    """Not one for each question that cannot be asked without them."""
    async with admin_client(prepared) as admin:
        await admin.delete_topics([SEND_RESULTS])

        async def gone() -> bool:
            return all(row["topic"] != SEND_RESULTS for row in await admin.describe_topics())

        await eventually(gone, "the topic's end")
    found = await _wrong(prepared)
    await prepare_stack(prepared)

    assert [("topics", "existence", f"there is no {SEND_RESULTS}")] == [
        (each.area, each.subject, each.text) for each in found
    ]


async def _readable(settings: Settings, place: TopicPartition) -> list[bytes | None]:
    """Return what a reader of committed records finds."""
    async with reader(settings) as consumer:
        consumer.assign([place])
        await consumer.seek_to_beginning(place)
        found = await consumer.getmany(place, timeout_ms=500)
        return [record.value for records in found.values() for record in records]


@pytest.mark.parametrize(("commit", "words"), [(True, "1 ended as committed, 0"), (False, "0 ended as committed, 1")])
async def test_a_transaction_that_nobody_will_end_is_found_and_ended(
    prepared: Settings, *, commit: bool, words: str
) -> None:
    """As its coordinator says; readers, who stopped before it, then find what was committed, and nothing else."""
    place = await leave_marker_out(prepared, commit=commit)
    found = await _wrong(prepared)
    before = await _readable(prepared, place)
    ended = await run(prepared, "transactions", "end", "--because", "a test", "--yes")

    ((subject, text),) = [(each.subject, each.text) for each in found]
    assert (SEND_RESULTS, True) == (subject, "a transaction of inmail-send.left.0, whose coordinator says" in text)
    assert (Exit.DONE, True) == (ended.code, words in ended.out), ended
    assert [b"left"] * commit == (await _readable(prepared, place))[len(before) :]
    assert [] == await _wrong(prepared)


async def test_a_commit_of_offsets_that_nobody_will_end_is_found_and_ended(prepared: Settings) -> None:
    """The group has its offset only then."""
    place = TopicPartition(SEND_REQUESTS, 1)
    await leave_offset_marker_out(prepared, "others", place, 7)
    async with admin_client(prepared) as admin:
        before = await committed_offsets(admin, "others", [place])

        found = await _wrong(prepared)
        ended = await run(prepared, "transactions", "end", "--because", "a test", "--yes")

        assert ({place: None}, {place: 7}) == (before, await committed_offsets(admin, "others", [place]))
    ((subject, text),) = [(each.subject, each.text) for each in found]
    assert ("__consumer_offsets", True) == (subject, "a transaction of inmail-send.left.1, whose" in text)
    assert (Exit.DONE, True) == (ended.code, "1 ended as committed, 0" in ended.out), ended
    assert [] == await _wrong(prepared)


async def test_a_search_path_that_leads_nowhere_is_the_one_thing_told(prepared: Settings) -> None:
    """Not a table after the other that cannot be found for it."""
    url = f"{prepared.database_url.get_secret_value()}?search_path=ledgr"
    found = await _wrong(prepared.model_copy(update={"database_url": SecretStr(url)}))

    assert ["search_path"] == [each.subject for each in found if each.area == "Postgres"]
    assert "does not have ledgr" in found[0].text


async def test_a_pooler_between_is_wrong(prepared: Settings, tmp_path: Path) -> None:
    """Where it refuses sessions, and where it lets them through without what they were opened with."""
    async with pooler(prepared, tmp_path) as pooled:
        refused = [each for each in await _wrong(pooled) if each.area == "Postgres"]
    async with pooler(prepared, tmp_path, f"ignore_startup_parameters = {OPENED_WITH}") as pooled:
        dropped = [each for each in await _wrong(pooled) if each.area == "Postgres"]

    assert ["a pooler such as PgBouncer stands between"] == [each.text.partition(" (")[0] for each in refused]
    assert ["a pooler such as PgBouncer stands between"] == [each.text.partition(".")[0] for each in dropped]


async def test_a_server_that_does_not_answer_is_named_soon(prepared: Settings, own_stack: LocalStack) -> None:
    """After a second it is said for what it waits, after five it waits no longer, and the rest is looked at."""
    said: list[str] = []
    began = monotonic()
    os.kill(own_stack.kafka_pid, signal.SIGSTOP)
    try:
        report: CheckupReport = await run_checkup(prepared, before_start=True, say=said.append)
    finally:
        os.kill(own_stack.kafka_pid, signal.SIGCONT)

    servers = own_stack.kafka_bootstrap_servers
    assert monotonic() - began < 12
    assert [f"waiting for Kafka, at {servers} (for at most 5 s)"] == said
    assert report.unreachable
    assert [("Kafka", f"at {servers}", "it does not answer within 5 s")] == [
        (each.area, each.subject, each.text) for each in report.results if each.grade is Grade.WRONG
    ]


@pytest.mark.parametrize(
    ("level", "release", "grade"),
    [
        (25, "4.0", Grade.OK),
        (29, "4.2", Grade.OK),
        (30, "4.3", Grade.WARNING),
        (33, "4.4", Grade.WARNING),
        (40, None, Grade.WARNING),
        (None, None, Grade.WARNING),
    ],
)
def test_a_broker_that_may_leave_out_markers_is_warned_of(level: int | None, release: str | None, grade: Grade) -> None:
    """By what is known of its release."""
    found = check_version(BrokerVersion("broker:9092", level, release))

    assert grade is found.grade
    assert ("markers" in found.text) == (level is not None and level >= 30)


async def test_the_command_ends_with_what_it_found(prepared: Settings) -> None:
    """0 where all is well, 1 where something is wrong, 3 where a server cannot be reached; and as JSON."""
    fine = await run(prepared, "doctor", "--before-start")
    async with _broken(prepared, DAMAGE["a right too many"][0]):
        broken = await run(prepared, "doctor", "--json")
    away = await run(prepared.model_copy(update={"kafka_bootstrap_servers": "127.0.0.1:1"}), "doctor")

    assert (Exit.DONE, "Everything is as it has to be.") == (fine.code, fine.out.splitlines()[-1].partition(" (")[0])
    assert (Exit.NO, "wrong") == (broken.code, json.loads(broken.out)["grade"])
    assert ["table journal"] == [
        each["subject"] for each in json.loads(broken.out)["checks"] if each["grade"] == "wrong"
    ]
    assert Exit.UNREACHABLE == away.code
    assert "wrong   Kafka: at 127.0.0.1:1: it cannot be reached. To do: start Kafka, or mend" in away.out


async def test_a_database_with_several_addresses_is_named_by_all_of_them() -> None:
    """Whoever reads it does not look at one host only."""
    hosts = "localhost:1,localhost:2"
    away = load_settings(kafka_bootstrap_servers="localhost:1", database_url=f"postgresql://{hosts}/inmail")
    found = await _wrong(away)

    assert ["at localhost:1, localhost:2"] == [each.subject for each in found if each.area == "Postgres"]


def test_a_replica_that_is_behind_is_warned_of_with_its_broker() -> None:
    """Whoever reads it knows where to look."""
    found = _replicas("t", DescribedTopic(3, (), (0, 4), (2,), None), brokers=3)

    assert [("the replicas of partitions 0, 4 on broker 2 are not in sync", Grade.WARNING)] == [
        (each.text, each.grade) for each in found
    ]
    assert found[0].do.startswith("look at broker 2: ")


def test_records_that_retention_took_before_they_were_decided_are_told_of_before_a_start() -> None:
    """No lane has looked yet; one that has says so itself, and its reason is no second fault."""
    gone = PartitionLag("inmail-send", SEND_REQUESTS, 0, committed=5, end=9, records=0, seconds=0.0, lost=4, held=0)
    lost = replace(gone, status=Status.HALTED, reason=f"{LOST_UNDECIDED}: the oldest left is 9")
    told = replace(gone, status=Status.HALTED, reason="its lane cannot go on: retention removed")

    def grades(partition: PartitionLag) -> list[Grade]:
        group = GroupLag("inmail-send", SEND_REQUESTS, (partition,), "Empty", members=0)
        return [each.grade for each in _group(group, before_start=True)]

    assert ([Grade.WRONG], []) == (grades(lost), grades(told))


@pytest.mark.parametrize("state", ["PreparingRebalance", "CompletingRebalance"])
def test_a_group_that_shares_its_partitions_out_is_warned_of(state: str) -> None:
    """Nobody reads meanwhile; after a kill that lasts until the session of the member that is gone has ended."""
    behind = PartitionLag("inmail-send", SEND_REQUESTS, 0, committed=5, end=9, records=4, seconds=2.0, lost=0, held=0)
    found = _group(GroupLag("inmail-send", SEND_REQUESTS, (behind,), state, members=2), before_start=False)
    settled = _group(GroupLag("inmail-send", SEND_REQUESTS, (behind,), "Stable", members=1), before_start=False)

    assert [Grade.WARNING] == [each.grade for each in found]
    assert "nobody reads meanwhile; unread records: 4" in found[0].text
    assert "INMAIL_SESSION_SECONDS" in found[0].do
    assert [] == settled
