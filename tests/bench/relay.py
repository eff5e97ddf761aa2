"""The least that exactly-once costs here, as a baseline: each request is answered with its id, nothing is decided.

It has our consumer and our producers: one Kafka transaction a batch and a partition, the offset in it. It has no
database, reads no event, and checks nothing. What is above it is the ledger's share; what it takes itself is the
brokers', the clients' and the readers', and no way of deciding is below it.

Run as a process: `python -m tests.bench.relay` goes on until its standard input ends.
"""

import asyncio
from collections.abc import Sequence

from aiokafka import TopicPartition
from aiokafka.structs import ConsumerRecord

from infra.kafka.clients import create_consumer
from infra.kafka.transactions import Message, TransactionPair
from infra.settings import Settings, load_settings
from infra.shutdown import stop_requested, stop_with_parent
from schemas.catalogue import SEND_REQUESTS, SEND_RESULTS

__all__ = ["GROUP"]

GROUP = "relay-send"
_ID = b'"id":"'
_UUID_LENGTH = 36


class _Partition:
    """Answers one partition's records, those that came meanwhile together."""

    def __init__(self, settings: Settings, tp: TopicPartition) -> None:
        self._tp = tp
        self._producers = TransactionPair(settings, f"{GROUP}.{tp.partition}")
        self._pending: list[ConsumerRecord] = []
        self._arrived = asyncio.Event()

    def take(self, records: Sequence[ConsumerRecord]) -> None:
        self._pending += records
        self._arrived.set()

    async def run(self) -> None:
        await self._producers.start()
        try:
            while True:
                await self._arrived.wait()
                self._arrived.clear()
                records, self._pending = self._pending, []
                messages = [Message(SEND_RESULTS, record.key, _answer(record)) for record in records]
                await self._producers.publish(messages, {self._tp: records[-1].offset + 1}, GROUP)
        finally:
            await self._producers.discard()


def _answer(record: ConsumerRecord) -> bytes:
    at = record.value.index(_ID) + len(_ID)
    return b'{"request_id":"%b"}' % record.value[at : at + _UUID_LENGTH]


async def _work(settings: Settings) -> None:
    stop = stop_requested()
    stop_with_parent(stop)
    consumer = create_consumer(settings, GROUP, 20)
    consumer.subscribe([SEND_REQUESTS])
    partitions: dict[TopicPartition, _Partition] = {}
    tasks: list[asyncio.Task[None]] = []
    async with consumer, asyncio.TaskGroup() as running:
        while not stop.is_set():
            for tp, records in (await consumer.getmany(timeout_ms=100)).items():
                if tp not in partitions:
                    partitions[tp] = _Partition(settings, tp)
                    tasks.append(running.create_task(partitions[tp].run()))
                partitions[tp].take(records)
        for task in tasks:
            task.cancel()


if __name__ == "__main__":
    asyncio.run(_work(load_settings()))
