"""Which of the records that lanes have received may be decided now: none of a time far ahead, none out of order."""

from bisect import bisect_left
from collections.abc import Sequence

from aiokafka import TopicPartition
from aiokafka.structs import ConsumerRecord

from infra.kafka.clients import partition_of
from infra.shards import Shard
from schemas.catalogue import BILLING_EVENTS, SEND_REQUESTS
from workers.lane.deciding import LaneBatch
from workers.lane.inbox import Taken
from workers.lane.lane import Lane
from workers.lane.lane_rows import LaneRows
from workers.lane.time_order import Decidable, Order, Received
from workers.lane.work import Work
from workers.telemetry.worker_metrics import Stage

__all__ = ["Admission"]


class Admission:
    """The way of one owner's lanes from records that were received to records that may be decided."""

    def __init__(self, work: Work, rows: LaneRows) -> None:
        self._rows, self._health, self._assignor = rows, work.clients.health, work.clients.assignor
        clients = work.clients
        self._order = Order(clients.pool, clients.ends, rows, work.settings.order_seconds, clients.topic_ids)

    async def admit(self, received: Sequence[tuple[Lane, Taken]]) -> list[LaneBatch]:
        """Return what may be decided now of each lane that need not wait. The rest is received again.

        Records before the offset that was stored when a lane was opened are decided already: they wait for nobody.

        Raises:
            FencedError: when a lane has a newer owner.

        """
        batches = []
        in_order: dict[Lane, Taken] = {}
        for lane, taken in received:
            decided = bisect_left(taken.records, lane.stored_at_start, key=lambda record: record.offset)
            if decided or not taken.records:
                batches.append(LaneBatch(lane, _cut(lane, taken, decided), Decidable(decided)))
            elif count := await lane.guard.admit(taken.records, lane.as_of):
                lane.goes_on(taken.records[0].offset)
                in_order[lane] = _cut(lane, taken, count)
            else:
                await self._hold(lane, taken)
        if in_order:
            with self._health.stage(Stage.WAIT):
                batches += await self._admit_in_order(in_order)
        return batches

    async def _admit_in_order(self, taken: dict[Lane, Taken]) -> list[LaneBatch]:
        received = []
        for lane, each in taken.items():
            records = lane.wait.cut(each.records)
            received.append(Received(lane, records, _other_places(lane, records, self._assignor.shard)))
        decidable = await self._order.admit(received)
        for lane in taken.keys() - decidable.keys():
            lane.inbox.put_back(taken[lane])
        return [LaneBatch(lane, _cut(lane, taken[lane], each.records), each) for lane, each in decidable.items()]

    async def _hold(self, lane: Lane, taken: Taken) -> None:
        """Hold a record of a time far ahead, and say so."""
        lane.inbox.put_back(taken)
        lane.hold()
        held = lane.guard.held
        if held is not None:
            await self._rows.hold(lane.row, held.reason, held.offset, held.time)


def _cut(lane: Lane, taken: Taken, count: int) -> Taken:
    """Return the first records of a batch, and put the others back."""
    if count == len(taken.records):
        return taken
    first, rest = taken.records[:count], taken.records[count:]
    lane.inbox.put_back(Taken(rest, taken.next_offset))
    return Taken(first, rest[0].offset)


def _other_places(lane: Lane, records: Sequence[ConsumerRecord], shard: Shard) -> list[TopicPartition]:
    """Return the partitions whose lanes move credits of accounts in records that have another number than the lane.

    The record's key tells the account: a record whose key is not its account becomes a dead letter. So does one whose
    account's number another server holds, and the lanes there have no rows here that would tell how far they are.
    """
    numbers = {partition_of(record.key, lane.partitions) for record in records if record.key}
    others = sorted(number for number in numbers - {lane.partition} if shard.holds(number))
    return [TopicPartition(topic, number) for number in others for topic in (BILLING_EVENTS, SEND_REQUESTS)]
