"""An operator's decision about a record of a time far ahead: let the time in, or set the record aside.

The lane that holds the record reads the decision within a second, and again whenever it opens: a record that is read
again comes out alike. What is decided is kept for good, with the operation that did it.
"""

from dataclasses import dataclass
from datetime import datetime, timedelta
from enum import StrEnum
from typing import Any

from infra.clock import EPOCH, utc_now
from infra.settings import Settings
from infra.terminal import format_instant
from workers.ledger.model import WorkerName
from workers.ops.books.snapshot import open_books
from workers.ops.clock.state import CreditsBetween, LaneClock, credits_between, read_lane_clocks
from workers.ops.numbers import naming_part, one_server_of_number
from workers.ops.operations import Intent, OngoingOperation, Operator, RefusedError, recorded_operation
from workers.topology import TOPIC_OF

__all__ = ["ClockDecision", "ClockPlan", "decide_clock", "plan_clock"]

_END = 2**63 - 1  # after every offset
_KEEP = """
insert into clock_decisions (operation, topic, partition, kind, first_offset, next_offset, time)
values ($1, $2, $3, $4, $5, $6, $7)
"""


class ClockDecision(StrEnum):
    """What becomes of a record of a time far ahead."""

    ACCEPT = "accept"  # it is decided as of its time, and the lane's clock goes there
    SET_ASIDE = "set_aside"  # it becomes a dead letter, and moves no clock


@dataclass(frozen=True, slots=True)
class ClockPlan:
    """What a decision would do."""

    decision: ClockDecision
    lane: LaneClock
    first_offset: int
    next_offset: int  # after the last record that it holds for
    time: datetime  # accept: the latest time let in; set aside: records of a later one
    ends: CreditsBetween  # lots that end with the clock's way there

    def summary(self) -> dict[str, Any]:
        """Return it for JSON."""
        return {
            "decision": self.decision.value,
            "lane": self.lane.summary() | {"as_of": _text(self.lane.as_of), "held_time": _text(self.lane.held_time)},
            "first_offset": self.first_offset,
            "next_offset": self.next_offset,
            "time": _text(self.time),
            "lots_that_end": self.ends.lots,
            "credits_that_end": self.ends.credits,
        }


async def plan_clock(  # noqa: PLR0913 - which record, and how much of what comes with it
    settings: Settings,
    worker: WorkerName,
    partition: int,
    decision: ClockDecision,
    *,
    up_to: datetime | None = None,
    to_offset: int | None = None,
) -> ClockPlan:
    """Return what a decision about the record that a lane holds would do.

    Args:
        settings: where the books are.
        worker: whose lane it is.
        partition: and which.
        decision: what is to become of the record.
        up_to: let in all times up to this one, of whatever record; that record's own unless given.
        to_offset: set aside all records before this offset that are as far ahead; that record only unless given.

    Raises:
        RefusedError: when the lane holds none, or the arguments leave out the record that it holds.
        NotHeldError, ServerError: of several servers, as `one_server_of_number` raises them.
        NotSetUpError, OSError, asyncpg.PostgresError: when the books cannot be read.

    """
    topic = TOPIC_OF[worker.value]
    own = await one_server_of_number(settings, partition)
    with naming_part(settings, own):
        async with open_books(own) as connection:
            clocks = await read_lane_clocks(connection)
            lane = next((each for each in clocks if (each.topic, each.partition) == (topic, partition)), None)
            if lane is None or lane.held_offset is None or lane.held_time is None:
                raise RefusedError(f"lane {topic}/{partition} holds no record: see `inmail clock show`")
            offset, held_time = lane.held_offset, lane.held_time
            if decision is ClockDecision.SET_ASIDE:
                if to_offset is not None and to_offset <= offset:
                    raise RefusedError(f"--to-offset {to_offset} is before the record that is held, {offset}")
                after = held_time - timedelta(milliseconds=1)
                if to_offset is not None:  # of the others, those that the lane would hold as well
                    after = min(after, utc_now() + timedelta(minutes=settings.clock_ahead_minutes))
                return ClockPlan(decision, lane, offset, to_offset or offset + 1, after, CreditsBetween(0, 0))
            if up_to is not None and up_to < held_time:
                told = f"--up-to {format_instant(up_to)} is before the time of the record, {format_instant(held_time)}"
                raise RefusedError(told)
            ends = await credits_between(connection, partition, lane.as_of or EPOCH, up_to or held_time)
            return ClockPlan(decision, lane, offset, offset + 1 if up_to is None else _END, up_to or held_time, ends)


async def decide_clock(settings: Settings, plan: ClockPlan, who: Operator) -> OngoingOperation:
    """Keep a decision as planned, on record; return the operation. The lane goes on by itself.

    Raises:
        RefusedError: when another such decision is under way, or the lane holds that record no more.
        OSError, asyncpg.PostgresError: when the books cannot be reached or refuse.

    """
    lane = plan.lane
    own = await one_server_of_number(settings, lane.partition)
    arguments = {"worker": lane.worker, "partition": lane.partition, "decision": plan.decision.value}
    verb = f"clock {plan.decision.value.replace('_', '-')}"
    with naming_part(settings, own):
        async with recorded_operation(own, Intent(verb, *who, arguments, plan.summary())) as operation:
            now = {(each.topic, each.partition): each for each in await read_lane_clocks(operation.connection)}
            if now[lane.topic, lane.partition].held_offset != lane.held_offset:
                raise RefusedError(f"lane {lane.topic}/{lane.partition} does not hold that record any more")
            await operation.connection.execute(
                _KEEP,
                operation.number,
                lane.topic,
                lane.partition,
                plan.decision.value,
                plan.first_offset,
                plan.next_offset,
                plan.time,
            )
            operation.result["decided"] = True
    return operation


def _text(time: datetime | None) -> str | None:
    return None if time is None else time.isoformat()
