"""Setting back the clock of a lane that was carried off: its watermark is far ahead, and every lot looks ended to it.

Only what is decided from then on changes. What was decided stays: a refusal is final for its request id, a lot whose
end was booked stays closed, a credit that came back to one is gone, and credits that were given begin at the later
time; the plan counts each, so that credits can be given back with `credits.adjusted`. The lane's epoch is raised with
its watermark, so that an owner at work begins again from the new one.

Of several servers, all that hold one of the partitions have to answer. The lanes of each are set back at once, one
server after the other, and the operation is noted on that of INMAIL_DATABASE_URL. If the process is killed between two
servers, the same command plans the lanes that are left.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any, NamedTuple

from infra.clock import utc_now
from infra.postgres import Connection
from infra.settings import RecordTime, Settings
from infra.terminal import format_instant
from workers.ledger.model import WorkerName
from workers.ops.books.shards import naming_server, server_name
from workers.ops.books.snapshot import open_books
from workers.ops.clock.decide import ClockDecision
from workers.ops.clock.state import LaneClock, credits_between, read_lane_clocks
from workers.ops.clock_decisions import end_decisions
from workers.ops.numbers import ServerNumbers, names_by_number, open_of_operation, servers_of_numbers
from workers.ops.operations import Intent, OngoingOperation, Operator, RefusedError, recorded_operation

__all__ = ["VERB", "SetBackLane", "SetBackPlan", "plan_set_back", "set_back"]

VERB = "clock set-back"

_DECIDED = """
select
    count(*) as rows,
    count(*) filter (where j.code = 'insufficient_credits') as refused,
    coalesce(-sum(j.amount) filter (where j.code = 'expired' and j.lot_expires_at > $3), 0) as expired,
    count(*) filter (where j.code = 'lot_ended' and j.lot_expires_at > $3) as not_returned,
    coalesce(sum(j.amount) filter (where l.granted_at = j.as_of), 0) as later
from journal as j
left join lots as l on j.code = 'granted' and l.account = j.account and l.lot = j.lot
where j.worker = $1 and j.source_partition = $2 and j.as_of > $3
"""

# It locks the lane's row: its owner stores nothing between the two. A clock that is before the planned time was set
# back since, and has gone on from there.
_NOTE = """
insert into clock_set_backs (consumer_group, topic, partition, next_offset, as_of, set_back_to)
select l.consumer_group, l.topic, l.partition, coalesce(l.next_offset, 0), l.as_of, $3
from lanes as l
where l.topic = $1 and l.partition = $2 and l.as_of > $3 and l.as_of >= $4
for update
returning next_offset
"""
# A topic that was created again while the clock was ahead has rows of the earlier time, too, from here on.
_SET_BACK = """
update lanes
set as_of = $3, topic_since = least(topic_since, $3 - interval '1 microsecond'),
    epoch = epoch + 1, head = null, held = null,
    owner_epoch = case owner_epoch when epoch then epoch + 1 else owner_epoch end
where topic = $1 and partition = $2 and as_of > $3
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
    not_returned: int  # credits of sends that failed, whose lots seemed to have ended: they stay spent
    later: int  # credits given from a later time on: they cannot be spent before

    def summary(self) -> dict[str, Any]:
        """Return it for JSON."""
        as_of = None if self.lane.as_of is None else self.lane.as_of.isoformat()
        lane = {"worker": self.lane.worker, "partition": self.lane.partition, "as_of": as_of}
        return lane | {"to": self.to.isoformat()} | dict(zip(self._fields[2:], self[2:], strict=True))


@dataclass(frozen=True, slots=True)
class SetBackPlan:
    """What setting clocks back would do."""

    lanes: tuple[SetBackLane, ...]
    servers: tuple[ServerNumbers, ...] = ()  # that hold the partitions

    @property
    def server_of(self) -> Mapping[int, str]:
        """The name of the server of each partition; empty where there is one server."""
        return names_by_number(self.servers)

    def summary(self) -> dict[str, Any]:
        """Return it for JSON."""
        plan = {"lanes": [each.summary() for each in self.lanes]}
        if not self.server_of:
            return plan
        return plan | {"servers": [{"server": server_name(server), "numbers": list(of)} for server, of in self.servers]}


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
        NotHeldError, ServerError: of several servers, as `servers_of_numbers` raises them.
        NotSetUpError, OSError, asyncpg.PostgresError: when the books cannot be read.

    """
    if settings.topic_record_time is RecordTime.CREATE:
        raise RefusedError("INMAIL_TOPIC_RECORD_TIME=create takes the producers' times, however far ahead")
    latest = utc_now() + timedelta(minutes=settings.clock_ahead_minutes)
    goes = to or utc_now()
    if goes > latest:
        raise RefusedError(f"--to {format_instant(goes)} is itself far ahead of this host's clock")
    servers = await servers_of_numbers(settings, partitions)
    lanes: list[SetBackLane] = []
    for server, numbers in servers:
        with naming_server(server):
            async with open_books(server) as connection:
                lanes += [
                    await _lane(connection, clock, goes)
                    for clock in await read_lane_clocks(connection)
                    if clock.as_of is not None
                    and clock.as_of > (latest if to is None else goes)
                    and (not workers or clock.worker in workers)
                    and (not numbers or clock.partition in numbers)
                ]
    return SetBackPlan(tuple(lanes), tuple(servers))


async def _lane(connection: Connection, clock: LaneClock, goes: datetime) -> SetBackLane:
    open_lots = await credits_between(connection, clock.partition, goes, clock.as_of or goes)
    row = await connection.fetchrow(_DECIDED, clock.worker, clock.partition, goes)
    return SetBackLane(clock, goes, *open_lots, *(row or (0, 0, 0, 0, 0)))


async def set_back(settings: Settings, plan: SetBackPlan, who: Operator) -> OngoingOperation:
    """Set clocks back as planned, of each server at once, on record; return the operation.

    Raises:
        RefusedError: when another one is under way.
        NotHeldError: when a number is on its way to another server.
        ServerError: when one of several servers does not answer; the lanes of those before it are set back.
        OSError, asyncpg.PostgresError: when the books cannot be reached or refuse.

    """
    numbers = {each.lane.partition for each in plan.lanes}
    arguments = {"lanes": [[each.lane.topic, each.lane.partition, each.to.isoformat()] for each in plan.lanes]}
    with naming_server(settings):
        async with recorded_operation(settings, Intent(VERB, *who, arguments, plan.summary())) as operation:
            operation.result["lanes"] = 0
            for server, held in await servers_of_numbers(settings, numbers) if numbers else ():
                lanes = [each for each in plan.lanes if each.lane.partition in held]
                with naming_server(server):
                    async with open_of_operation(settings, server, operation, VERB) as connection:
                        operation.result["lanes"] += await _set_lanes(connection, lanes)
    return operation


async def _set_lanes(connection: Connection, lanes: Sequence[SetBackLane]) -> int:
    """Set the clocks of lanes back that are as far ahead as planned, or farther; return how many."""
    count = 0
    async with connection.transaction():
        for each in lanes:
            lane = each.lane.topic, each.lane.partition, each.to
            next_offset = await connection.fetchval(_NOTE, *lane, each.lane.as_of)
            if next_offset is None:  # it is no longer ahead
                continue
            # A time that was let in for all records up to it would carry the clock off again with the next one.
            await end_decisions(connection, *lane[:2], next_offset, ClockDecision.ACCEPT)
            await connection.execute(_SET_BACK, *lane)
            count += 1
    return count
