"""Dead letters for tests: of a plan that the shipped catalogue does not have, with and without a worker."""

from contextlib import aclosing
from itertools import count
from uuid import UUID, uuid4

from aiokafka import TopicPartition
from aiokafka.structs import ConsumerRecord

from infra.kafka.clients import create_producer, partition_of
from infra.kafka.records import read_records
from infra.settings import Settings
from schemas.billing import SubscriptionActivated
from schemas.catalogue import Undecodable
from schemas.dead_letters import DeadLetterReason
from schemas.envelope import Event
from tests.ledger.book import DAY, NEW_YEAR
from workers.jobs.dead_letters import dead_letter

__all__ = ["platinum", "records_of", "set_aside"]

_offsets = count(10**9)  # no record that a test publishes has one of them


def platinum(account: str, id_: UUID | None = None) -> Event:
    """Return the start of a subscription to a plan that the shipped catalogue does not have."""
    data = {"subscription_id": "s", "plan": "platinum", "period_start": NEW_YEAR, "period_end": NEW_YEAR + 31 * DAY}
    return SubscriptionActivated.create(id=id_ or uuid4(), source="/test", subject=account, time=NEW_YEAR, data=data)


async def set_aside(settings: Settings, topic: str, account: str, values: list[bytes], reason: str) -> None:
    """Write the dead letters that a lane would write of such records."""
    key = account.encode()
    partition = partition_of(key, settings.topic_partitions)
    problem = Undecodable(DeadLetterReason(reason), "planted")
    async with create_producer(settings, "test", large=True) as producer:
        for value in values:
            offset = next(_offsets)
            record = ConsumerRecord(topic, partition, offset, 1_900_000_000_000, 1, key, value, None, 0, 0, ())
            letter = dead_letter(record, problem)
            await producer.send_and_wait(letter.topic, letter.value, letter.key, partition=letter.partition)


async def records_of(settings: Settings, topic: str, account: str) -> list[ConsumerRecord]:
    """Return an account's records of a topic, which all are in one partition."""
    place = TopicPartition(topic, partition_of(account.encode(), settings.topic_partitions))
    async with aclosing(read_records(settings, [place])) as records:
        return [record async for record in records if record.key == account.encode()]
