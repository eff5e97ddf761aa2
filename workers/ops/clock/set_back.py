"""Setting back the clock of a lane that was carried off: its watermark is far ahead, and every lot looks ended to it.

Only what is decided from then on changes. What was decided stays: a refusal is final for its request id, and a lot
whose end was booked stays closed; the plan counts both, so that credits can be given back with `credits.adjusted`. The
lane's epoch is raised with its watermark, so that an owner at work begins again from the new one.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any, NamedTuple

from infra.clock import utc_now
from infra.postgres import Connection
from infra.settings import RecordTime, Settings
from workers.ledger.model import WorkerName
from workers.ops.books.snapshot import open_books
from workers.ops.clock.state import LaneClock, credits_between, read_lane_clocks
from workers.ops.numbers import one_server_of_numbers
from workers.ops.operations import Intent, OngoingOperation, Operator, RefusedError, recorded_operation

__all__ = ["VERB", "SetBackLane", "SetBackPlan", "plan_set_back", "set_back"]

VERB = "clock set-back"

_DECIDED = """
select
    count(*) as rows,
    count(*) filter (where j.code = 'insufficient_credits') as refused,
    coalesce(-sum(j.amount) filter (where j.code = 'expired' and j.lot_expires_at > $3), 0) as expired
from journal as j
where j.worker = $1 and j.source_partition = $2 and j.as_of > $3
"""


class SetBackLane(NamedTuple):
    """What setting back one lane would do."""

    lane: LaneClock
    to: datetime
    lots: int  # open ones that end between the two times: they can be spent again
    credits: int  # what remains on them
    rows: int  # journal rows that its lane decided as of a later time: they stay
    refused: int  # of those, sends refused for want of credits
    expired: int  # credits of lots whose end was booked too early: they stay expired

    def summary(self) -> dict[str, Any]:
        """Return it for JSON."""
        as_of = None if self.lane.as_of is None else self.lane.as_of.isoformat()
        lane = {"worker": self.lane.worker, "partition": self.lane.partition, "as_of": as_of}
        return lane | {"to": self.to.isoformat()} | dict(zip(self._fields[2:], self[2:], strict=True))


@dataclass(frozen=True, slots=True)
class SetBackPlan:
    """What setting clocks back would do."""

    lanes: tuple[SetBackLane, ...]

    def summary(self) -> dict[str, Any]:
        """Return it for JSON."""
        return {"lanes": [each.summary() for each in self.lanes]}


async def plan_set_back(
    settings: Settings,
    to: datetime | None = None,
    workers: Sequence[WorkerName] = (),
    partitions: Sequence[int] = (),
) -> SetBackPlan:
    """Return what setting back the clocks that are far ahead would do.

    Args:
        settings: where the books are.
        to: where the clocks are to stand; now unless given.
        workers: whose lanes; all workers' unless given.
        partitions: and which; all unless given.

    Raises:
        RefusedError: when the topics have their producers' time, or the time is itself far ahead.
        NotSetUpError, OSError, asyncpg.PostgresError: when the books cannot be read.

    """
    if settings.topic_record_time is RecordTime.CREATE:
        raise RefusedError("INMAIL_TOPIC_RECORD_TIME=create takes the producers' times, however far ahead")
    latest = utc_now() + timedelta(minutes=settings.clock_ahead_minutes)
    goes = to or utc_now()
    if goes > latest:
        raise RefusedError(f"--to {goes.isoformat()} is itself far ahead of this host's clock")
    settings = await one_server_of_numbers(settings, partitions, "inmail clock set-back")
    async with open_books(settings) as connection:
        return SetBackPlan(
            tuple(
                [
                    await _lane(connection, clock, goes)
                    for clock in await read_lane_clocks(connection)
                    if clock.as_of is not None
                    and clock.as_of > (latest if to is None else goes)
                    and (not workers or clock.worker in workers)
                    and (not partitions or clock.partition in partitions)
                ]
            )
        )


async def _lane(connection: Connection, clock: LaneClock, goes: datetime) -> SetBackLane:
    open_lots = await credits_between(connection, clock.partition, goes, clock.as_of or goes)
    row = await connection.fetchrow(_DECIDED, clock.worker, clock.partition, goes)
    return SetBackLane(clock, goes, *open_lots, *(row or (0, 0, 0)))


async def set_back(settings: Settings, plan: SetBackPlan, who: Operator) -> OngoingOperation:
    """Set clocks back as planned, all at once, on record; return the operation.

    Raises:
        RefusedError: when another one is under way.
        OSError, asyncpg.PostgresError: when the books cannot be reached or refuse.

    """
    if plan.lanes:
        numbers = {each.lane.partition for each in plan.lanes}
        settings = await one_server_of_numbers(settings, numbers, "inmail clock set-back")
    arguments = {"lanes": [[each.lane.topic, each.lane.partition, each.to.isoformat()] for each in plan.lanes]}
    async with recorded_operation(settings, Intent(VERB, *who, arguments, plan.summary())) as operation:
        async with operation.connection.transaction():
            for each in plan.lanes:
                await operation.connection.execute(
                    "update lanes set as_of = $3, epoch = epoch + 1, head = null, held = null,"
                    " owner_epoch = case owner_epoch when epoch then epoch + 1 else owner_epoch end"
                    " where topic = $1 and partition = $2 and as_of > $3",
                    each.lane.topic,
                    each.lane.partition,
                    each.to,
                )
        operation.result["lanes"] = len(plan.lanes)
    return operation
