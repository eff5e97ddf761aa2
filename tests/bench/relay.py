"""The least that exactly-once costs here, as a baseline: each request is answered with its id, nothing is decided.

It has our consumer and our producers: one Kafka transaction for all that came meanwhile, with all offsets in it. It has
no database, reads no event, and checks nothing. What is above it is the ledger's share; what it takes itself is the
brokers', the clients' and the readers', and no way of deciding is below it.

Run as a process: `python -m tests.bench.relay` goes on until its standard input ends.
"""

import asyncio

from aiokafka import TopicPartition
from aiokafka.structs import ConsumerRecord

from infra.kafka.clients import create_consumer
from infra.kafka.transactions import Message, TransactionPair
from infra.settings import Settings, load_settings
from infra.shutdown import create_stop_event, stop_with_parent
from schemas.catalogue import SEND_REQUESTS, SEND_RESULTS

__all__ = ["GROUP"]

GROUP = "relay-send"
_ID = b'"id":"'
_UUID_LENGTH = 36


def _answer(record: ConsumerRecord) -> bytes:
    at = record.value.index(_ID) + len(_ID)
    return b'{"request_id":"%b"}' % record.value[at : at + _UUID_LENGTH]


async def _publish(producers: TransactionPair, pending: list[ConsumerRecord], arrived: asyncio.Event) -> None:
    """Answer what has come, all of it together, one transaction after the other."""
    while True:
        await arrived.wait()
        arrived.clear()
        records, pending[:] = list(pending), []
        messages = [Message(SEND_RESULTS, record.key, _answer(record)) for record in records]
        offsets = {TopicPartition(record.topic, record.partition): record.offset + 1 for record in records}
        await producers.publish(messages, offsets, GROUP)


async def _work(settings: Settings) -> None:
    stop = create_stop_event()
    stop_with_parent(stop)
    consumer = create_consumer(settings, GROUP, 20)
    consumer.subscribe([SEND_REQUESTS])
    producers = TransactionPair(settings, GROUP)
    await producers.start()
    pending: list[ConsumerRecord] = []
    arrived = asyncio.Event()
    async with consumer, asyncio.TaskGroup() as running:
        publishing = running.create_task(_publish(producers, pending, arrived))
        while not stop.is_set():
            for records in (await consumer.getmany(timeout_ms=100)).values():
                pending += records
                arrived.set()
        publishing.cancel()
    await producers.discard()


if __name__ == "__main__":
    asyncio.run(_work(load_settings()))
