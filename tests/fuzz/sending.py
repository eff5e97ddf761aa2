"""The fuzz as producers put it on the wire: batches in every codec, with whatever bytes, through a real broker."""

import asyncio
from collections import defaultdict
from collections.abc import Iterable, Sequence

from aiokafka import AIOKafkaProducer
from aiokafka.errors import BrokerResponseError
from aiokafka.producer.message_accumulator import BatchBuilder
from aiokafka.record.default_records import _DefaultRecordBatchBuilderPy

from infra.settings import Settings
from tests.fuzz.records import Record

__all__ = ["Place", "send_records"]

Place = tuple[str, int, int]  # topic, partition and offset

_BATCH_BYTES = 800_000  # below a topic's limit, whatever the codec makes of it
_BATCH_RECORDS = 200
_ROOM = 50_000_000


class _Bytes(str):
    """A header's name that other clients may send and aiokafka cannot: it is put down as it is, not as UTF-8."""

    __slots__ = ()

    def encode(self, *_: str) -> bytes:  # type: ignore[override]
        return super().encode("latin-1")


async def send_records(settings: Settings, records: Iterable[Record]) -> tuple[dict[Place, Record], list[Record]]:
    """Publish records; return where each is, and those that the broker would not take."""
    taken: dict[Place, Record] = {}
    refused: list[Record] = []
    # Not idempotent: aiokafka numbers only batches of its own making. A batch that came twice would be complained of.
    async with AIOKafkaProducer(
        bootstrap_servers=settings.kafka_bootstrap_servers, max_request_size=_ROOM, acks="all"
    ) as producer:
        deliveries = []
        for group in _grouped(records):
            batch = _pack(group)
            deliveries.append((group, await producer.send_batch(batch, group[0].topic, partition=group[0].partition)))
        await asyncio.wait([delivery for _, delivery in deliveries])
        for group, delivery in deliveries:
            error = delivery.exception()
            if error is None:
                first = delivery.result().offset
                taken |= {(each.topic, each.partition, first + n): each for n, each in enumerate(group)}
            elif isinstance(error, BrokerResponseError) and not error.retriable:
                refused += group
            else:
                raise error
    return taken, refused


def _grouped(records: Iterable[Record]) -> list[list[Record]]:
    """Return records in batches, in order within each partition: all of a batch have one codec."""
    open_: defaultdict[tuple[str, int], list[Record]] = defaultdict(list)
    done = []
    for record in records:
        group = open_[record.topic, record.partition]
        full = len(group) >= _BATCH_RECORDS or sum(each.size for each in group) + record.size > _BATCH_BYTES
        # A batch goes on in the codec of its first record; what is large has to have its own. Times are written as
        # distances from the first, and odd ones are too far apart.
        alone = record.timestamp is not None or (record.size > 50_000 and group and record.codec != group[0].codec)
        if group and (full or alone):
            done.append(group)
            group = open_[record.topic, record.partition] = []
        group.append(record)
    return done + [group for group in open_.values() if group]


def _pack(records: Sequence[Record]) -> BatchBuilder:
    codec = records[0].codec
    batch = BatchBuilder(_ROOM, codec)
    batch._builder = _DefaultRecordBatchBuilderPy(2, codec, 0, -1, -1, 0, _ROOM)
    for record in records:
        headers = [(_Bytes(name.decode("latin-1")), value) for name, value in record.headers]
        batch.append(timestamp=record.timestamp, key=record.key, value=record.value, headers=headers)
    return batch
