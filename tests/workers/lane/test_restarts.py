"""Servers that end and come back, topics that vanish and rights that are missing, on a stack of their own."""

import asyncio
import logging
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from time import monotonic

import psutil
import pytest
from aiokafka.admin import AIOKafkaAdminClient, NewTopic
from aiokafka.admin.config_resource import ConfigResource, ConfigResourceType
from aiokafka.errors import (
    GroupAuthorizationFailedError,
    MessageSizeTooLargeError,
    TopicAuthorizationFailedError,
    TransactionalIdAuthorizationFailed,
)
from aiokafka.protocol.admin import CreateAclsRequest, DeleteAclsRequest

from infra.kafka.clients import NotSetUpError, admin_client
from infra.kafka.permanent_errors import operator_hint
from infra.local.stack import LocalStack
from infra.migrate import migrate
from infra.postgres import connect_database
from infra.settings import Settings, load_settings
from schemas.catalogue import BALANCES, SEND_REQUESTS, SEND_RESULTS
from tests.conftest import MORTAL
from tests.whole import whole_but
from tests.workers.life import in_partition, living, once_each
from tests.workers.wire import ends, prepare, publish, read, read_to_end, send
from workers.jobs.balances import with_balances
from workers.jobs.send import SendJob
from workers.lane import server_checks
from workers.lane.worker import run_worker
from workers.ledger.plans import load_catalogue
from workers.ledger.store import FUNCTIONS

pytestmark = pytest.mark.usefixtures("soon_over_it")

TOPIC, GROUP, TRANSACTIONAL_ID = 2, 3, 5  # kinds of resources
READ, WRITE = 3, 4
DENY, PREFIXED = 2, 4


@pytest.fixture(scope="module")
def own_stack() -> Iterator[LocalStack]:
    """A stack to break. Its broker asks an authorizer, which allows what nobody has forbidden."""
    rights = {
        "authorizer.class.name": "org.apache.kafka.metadata.authorizer.StandardAuthorizer",
        "allow.everyone.if.no.acl.found": "true",
    }
    with LocalStack(broker_settings=rights, postgres_settings=MORTAL) as running:
        yield running


@pytest.fixture(scope="module")
async def migrated(own_stack: LocalStack) -> Settings:
    """Settings for it, with books made."""
    settings = load_settings(
        kafka_bootstrap_servers=own_stack.kafka_bootstrap_servers,
        database_url=own_stack.database_url,
        topic_partitions=2,
        session_seconds=10,
        transaction_seconds=2,
    )
    connection = await connect_database(settings)
    await migrate(connection, [FUNCTIONS])
    await connection.close()
    return settings


@pytest.fixture
async def own(migrated: Settings, monkeypatch: pytest.MonkeyPatch) -> Settings:
    """The same with all topics, all that is in them passed over; the servers are looked after often."""
    monkeypatch.setattr(server_checks, "_SERVERS_SECONDS", 0.5)
    await prepare(migrated)
    return migrated


async def test_a_worker_outlives_its_database_s_restart(own: Settings, own_stack: LocalStack, account: str) -> None:
    """What comes meanwhile is held, and answered once when it is back."""
    requests = [send(account) for _ in range(20)]
    start = await ends(own, SEND_RESULTS)
    async with living(own) as life:
        await life.ready()
        await asyncio.to_thread(own_stack.kill_postgres)
        await life.not_ready("Postgres")
        await publish(own, SEND_REQUESTS, requests)
        await life.not_ready("tries again")
        await asyncio.to_thread(own_stack.start_postgres)
        await read(own, start, len(requests))
        await life.ready()
    answers = await read_to_end(own, start)

    assert once_each(requests, answers)


async def test_a_worker_whose_database_does_not_answer_ends_in_time(own: Settings, own_stack: LocalStack) -> None:
    """It has nothing to do, and gives its lanes back; asyncpg waits for 30 s until what had no answer is cancelled."""
    server = psutil.Process(own_stack.postgres_pid)
    async with living(own) as life:
        await life.ready()
        frozen = [server, *server.children(recursive=True)]
        for each in frozen:
            each.suspend()
        try:
            began = monotonic()
            life.stop.set()
            await asyncio.wait([life.task], timeout=30)
            seconds = monotonic() - began
        finally:
            for each in frozen:
                each.resume()

    assert seconds < 5


async def test_a_worker_outlives_its_broker_s_restart(
    own: Settings, own_stack: LocalStack, account: str, caplog: pytest.LogCaptureFixture
) -> None:
    """Also in the middle of its work; and it does not spin meanwhile, with producers that it had or has given up."""
    requests = [send(account) for _ in range(2_000)]
    start = await ends(own, SEND_RESULTS)
    async with living(own) as life:
        await life.ready()
        await publish(own, SEND_REQUESTS, requests)
        await read(own, start, 1)
        await asyncio.to_thread(own_stack.kill_kafka)
        await life.not_ready("Kafka")
        caplog.clear()
        caplog.set_level(logging.WARNING, "aiokafka")  # commands that run in this process silence it
        began = monotonic()
        await asyncio.to_thread(own_stack.start_kafka)
        attempts = sum(record.getMessage().startswith("Unable connect to node") for record in caplog.records)
        a_second = attempts / (monotonic() - began)
        await read(own, start, len(requests))
        await life.ready()
    answers = await read_to_end(own, start)

    print(f"{a_second:.0f} attempts a second to reach the broker")
    assert once_each(requests, answers)
    assert 0 < a_second < 200  # some 50 on a quiet machine, 81 on a busy one


@pytest.mark.parametrize("topic", [SEND_REQUESTS, SEND_RESULTS])
async def test_a_worker_whose_topic_is_gone_ends_and_says_what_to_run(own: Settings, account: str, topic: str) -> None:
    """The one it reads, and the one it publishes to: aiokafka would wait for either."""
    async with living(own) as life:
        await life.ready()
        async with admin_client(own) as admin:
            await admin.delete_topics([topic])
        if topic == SEND_RESULTS:
            await publish(own, SEND_REQUESTS, [send(account)])

        error = await life.ended()
    assert isinstance(error, NotSetUpError)
    assert f"Kafka has no topic {topic}: run `inmail topics apply`" == str(error)


@pytest.fixture
async def narrow(own: Settings) -> AsyncIterator[Settings]:
    """The stack with the topic of balances on, which somebody made with one partition."""
    async with admin_client(own) as admin:
        await admin.create_topics([NewTopic(BALANCES, 1, 1)])
        yield own.model_copy(update={"balances_topic": True})
        await admin.delete_topics([BALANCES])


async def test_a_worker_does_not_start_where_the_topic_of_balances_lacks_partitions(narrow: Settings) -> None:
    """It would try each balance of the others for ever, and the results with it."""
    job = with_balances(SendJob(load_catalogue()), narrow)
    with pytest.raises(NotSetUpError, match=f"{BALANCES} has 1 partitions, .* has 2, .* run `inmail topics apply`"):
        await asyncio.wait_for(run_worker(job, narrow, asyncio.Event()), 10)


async def test_a_worker_ends_once_the_topic_of_balances_lacks_the_partition_of_one(narrow: Settings) -> None:
    """The topic was made again while the worker ran: it says so, instead of trying for ever."""
    async with living(narrow, with_balances(SendJob(load_catalogue()), narrow)) as life:
        await life.ready()
        await publish(narrow, SEND_REQUESTS, [send(in_partition(narrow, 1))])
        error = await life.ended()

    assert isinstance(error, NotSetUpError)
    assert str(error).startswith(f"{BALANCES} has 1 partitions")


@asynccontextmanager
async def _forbidden(settings: Settings, resource: int, name: str, operation: int) -> AsyncIterator[None]:
    """Forbid everybody something, for names that begin so."""
    rule = (resource, name, PREFIXED, "User:*", "*", operation, DENY)
    async with admin_client(settings) as admin:
        made = await admin._send_request(CreateAclsRequest(*rule))
        assert [0] == [each[0] for each in made.creation_responses]
        yield
        await admin._send_request(DeleteAclsRequest(*rule))


RIGHTS = {
    "to read its topic": (TOPIC, SEND_REQUESTS, READ, TopicAuthorizationFailedError),
    "to publish": (TOPIC, SEND_RESULTS, WRITE, TopicAuthorizationFailedError),
    "to be in its group": (GROUP, SendJob.group, READ, GroupAuthorizationFailedError),
    "to its transactions": (TRANSACTIONAL_ID, SendJob.group, WRITE, TransactionalIdAuthorizationFailed),
}


@pytest.mark.parametrize("what", whole_but(RIGHTS, "to publish"))
async def test_a_worker_that_is_not_allowed_ends_and_says_which_right_it_needs(
    own: Settings, account: str, what: str
) -> None:
    """Trying again would not help, and would hide it."""
    resource, name, operation, kind = RIGHTS[what]
    await publish(own, SEND_REQUESTS, [send(account)])
    async with _forbidden(own, resource, name, operation), living(own) as life:
        error = await life.ended()

    assert isinstance(error, kind)
    assert (operator_hint(error) or "").startswith("grant the right that docs/operate.md lists ")


async def test_a_result_topic_that_takes_no_large_batch_ends_the_worker(own: Settings, account: str) -> None:
    """It is a setting to mend; the batch is held."""
    requests = [send(account) for _ in range(50)]
    start = await ends(own, SEND_RESULTS)
    async with admin_client(own) as admin:
        await _set_largest(admin, SEND_RESULTS, 2_000)
        await publish(own, SEND_REQUESTS, requests)
        async with living(own) as life:
            error = await life.ended()
        await _set_largest(admin, SEND_RESULTS, 1_048_588)
    async with living(own):
        await read(own, start, len(requests))
    answers = await read_to_end(own, start)

    assert isinstance(error, MessageSizeTooLargeError)
    assert "max.message.bytes" in (operator_hint(error) or "")
    assert once_each(requests, answers)


async def _set_largest(admin: AIOKafkaAdminClient, topic: str, size: int) -> None:
    config = {"max.message.bytes": str(size), "message.timestamp.type": "LogAppendTime"}
    await admin.alter_configs([ConfigResource(ConfigResourceType.TOPIC, topic, configs=config)])
