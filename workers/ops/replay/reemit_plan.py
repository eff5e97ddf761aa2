"""Plans a reemission: selects stored rows as the events they were published as, in an order that can be resumed.

The journal's rows come first, account by account in the order of sequence, then the answers to ticks. Repeats and dead
letters are never sent again, since the database has no rows for them.
"""

from collections import Counter
from collections.abc import AsyncGenerator, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any, Final, NamedTuple
from uuid import UUID

from infra.kafka.clients import admin_client
from infra.postgres import Connection
from infra.settings import Settings
from schemas.catalogue import ALL_TOPICS, CREDIT_EVENTS, SEND_RESULTS
from workers.jobs.job import Message
from workers.jobs.result_events import tick_messages
from workers.jobs.stored_events import JOURNAL_ROWS, row_event
from workers.ledger.model import Tick, WorkerName
from workers.ops.books.balance import UnknownAccountError
from workers.ops.books.snapshot import open_books
from workers.ops.numbers import one_server_of
from workers.ops.operations import RefusedError

__all__ = ["VERB", "ReemitPlan", "RowFilter", "RowPosition", "operation_arguments", "plan_reemit", "read_pages"]

VERB = "reemit"
_PAGE = 500
_COUNT_SECONDS = 3600.0
_NO_ID = UUID(int=0)

JOURNAL: Final = "journal"
TICKS: Final = "ticks"


class RowPosition(NamedTuple):
    """The position of the row sent last: its table, and its key there."""

    part: str = JOURNAL
    first: int = 0  # account, or partition of a tick
    second: int = 0  # sequence, or offset of a tick
    third: UUID = _NO_ID  # request id of a tick

    def summary(self) -> list[Any]:
        """Return the position for JSON."""
        return [self.part, self.first, self.second, str(self.third)]


_TICKS_BEGIN: Final = RowPosition(TICKS, -1, -1)


@dataclass(frozen=True, slots=True)
class RowFilter:
    """A filter of rows: all conditions that are not None must hold."""

    account: str | None = None
    request: UUID | None = None  # its answers, and the movements it caused
    after: datetime | None = None  # decision time at this time or later
    before: datetime | None = None  # decision time before this time
    worker: WorkerName | None = None
    partition: int | None = None  # of the input
    start: int | None = None  # offset of the input
    end: int | None = None  # exclusive

    def summary(self) -> dict[str, Any]:
        """Return the conditions for JSON."""
        given = {name: getattr(self, name) for name in self.__slots__}
        return {n: v if isinstance(v, int) else str(v) for n, v in given.items() if v is not None}


@dataclass(slots=True)
class ReemitPlan:
    """The events to send."""

    rate: float
    to: str | None  # None: each event goes to the topic it was published to
    partitions: Mapping[str, int]  # number of partitions of each target topic
    events: Counter[str] = field(default_factory=Counter)  # by topic
    start: RowPosition = field(default_factory=RowPosition)
    resumes: int | None = None  # the operation to resume
    sent_before: int = 0  # by the resumed operations

    @property
    def count(self) -> int:
        """The number of events to send."""
        return self.events.total()

    @property
    def seconds(self) -> float:
        """The duration at the rate."""
        return self.count / self.rate

    def summary(self) -> dict[str, Any]:
        """Return the plan for JSON."""
        return {
            "events": self.count,
            "by_topic": dict(sorted(self.events.items())),
            "to": self.to,
            "rate": self.rate,
            "seconds": round(self.seconds, 3),
            "goes_on_with": self.resumes,
            "sent_before": self.sent_before,
        }


def operation_arguments(selection: RowFilter, to: str | None) -> dict[str, Any]:
    """Return the arguments of a reemission for JSON: one with the same arguments resumes it."""
    return {"selection": selection.summary(), "to": to}


async def plan_reemit(
    settings: Settings, selection: RowFilter, to: str | None, rate: float, *, from_start: bool = False
) -> ReemitPlan:
    """Return the plan of a reemission, without sending anything.

    Args:
        settings: where Kafka and Postgres are.
        selection: the filter.
        to: a topic for all events; None: each event goes to the topic it was published to.
        rate: events a second.
        from_start: begin at the first row, instead of resuming a reemission with the same arguments.

    Raises:
        RefusedError: when the topic is one of this system's, or does not exist, or the request is unknown.
        UnknownAccountError, NotSetUpError: when the ledger has no such account, or was never migrated.
        KafkaError, OSError, asyncpg.PostgresError: when Kafka or Postgres cannot be reached or refuses.

    """
    plan = ReemitPlan(rate, to, await _partitions(settings, to))
    server = await one_server_of(settings, selection.account, selection.partition, "inmail replay reemit")
    async with open_books(server) as connection:
        if selection.account is not None and not await connection.fetchval(
            "select exists (select from accounts where account_id = $1)", selection.account
        ):
            raise UnknownAccountError(selection.account)
        if not from_start:
            await _resume(connection, plan, operation_arguments(selection, to))
        plan.events = await _count_events(connection, selection, plan.start)
    if selection.request is not None and not plan.count and plan.resumes is None:
        raise RefusedError(f"the ledger has no matching row of request {selection.request}")
    return plan


async def _partitions(settings: Settings, to: str | None) -> dict[str, int]:
    """Return the number of partitions of each target topic; refuse a topic that must not be written to."""
    if to in ALL_TOPICS:
        raise RefusedError(
            f"{to} is a topic of this system: its workers read it, or its readers expect one kind of event there."
            " Without --to, each event goes to the topic it was published to"
        )
    if to is not None and to.startswith("__"):
        raise RefusedError(f"{to} is an internal topic of Kafka")
    wanted = [to] if to is not None else [SEND_RESULTS, CREDIT_EVENTS]
    async with admin_client(settings) as admin:
        rows = await admin.describe_topics()  # of all: a broker may create a topic that is described by name
    found = {row["topic"]: len(row["partitions"]) for row in rows if row["error_code"] == 0}
    if missing := [topic for topic in wanted if topic not in found]:
        raise RefusedError(
            f"there is no topic {missing[0]}: create it first, with as many partitions as {SEND_RESULTS} has"
            f" ({found.get(SEND_RESULTS, 0)}) to keep accounts where they are"
        )
    return {topic: found[topic] for topic in wanted}


async def _resume(connection: Connection, plan: ReemitPlan, arguments: Mapping[str, Any]) -> None:
    """Set the plan's start to the position of a reemission with the same arguments that did not finish."""
    row = await connection.fetchrow(
        "select operation, status, result from operations where verb = $1 and arguments = $2"
        " order by operation desc limit 1",
        VERB,
        dict(arguments),
    )
    if row is None or row["status"] == "done" or "position" not in row["result"]:
        return
    part, first, second, third = row["result"]["position"]
    plan.start, plan.resumes = RowPosition(part, first, second, UUID(third)), row["operation"]
    plan.sent_before = row["result"]["sent"] + row["result"]["sent_before"]


# An index finds the rows of a request by the position of its record, which its answer has.
_AT_ITS_PLACE = """
(j.source_partition, j.source_offset) in (
    select r.source_partition, r.source_offset from journal as r
    where r.request_id = {0} and r.is_answer and r.code <> 'key_conflict' and r.code <> 'balance_not_current'
    union all
    select r.source_partition, r.source_offset from journal as r
    where r.request_id = {0} and r.is_answer and r.code = 'balance_not_current'
    union all
    select r.source_partition, r.source_offset from journal as r
    where r.request_id = {0} and r.is_answer and r.code = 'key_conflict'
    union all
    select t.partition, t.source_offset from ticks as t where t.request_id = {0}
)
"""


# Offsets are those of the topic as it is: one that was created again has other records at the same ones.
_OF_THIS_TOPIC = """{0}.as_of > coalesce(
(select l.topic_since from lanes as l where l.consumer_group = {1} and l.partition = {2}), '-infinity')"""


def _conditions(selection: RowFilter, part: str, position: RowPosition) -> tuple[str, list[Any]]:
    """Return the SQL condition on the rows of a table, and its arguments, the position's first."""
    ticks = part == TICKS
    partition = "t.partition" if ticks else "j.source_partition"
    row = "t" if ticks else "j"
    given: list[tuple[str, Any]] = [
        (f"{row}.request_id = ", selection.request),
        (f"{row}.as_of >= ", selection.after),
        (f"{row}.as_of < ", selection.before),
        (f"{partition} = ", selection.partition),
        (f"{row}.source_offset >= ", selection.start),
        (f"{row}.source_offset < ", selection.end),
    ]
    if ticks:
        texts = ["(t.partition, t.source_offset, t.request_id) > ($1, $2, $3)", "t.code <> 'booking'"]
        values: list[Any] = [position.first, position.second, position.third]
    else:
        texts, values = ["(j.account, j.sequence) > ($1, $2)"], [position.first, position.second]
        given += [("j.worker = ", selection.worker and selection.worker.value)]
        if selection.account is not None:
            values.append(selection.account)
            texts.append("j.account = (select a.account from accounts as a where a.account_id = $3)")
        if selection.request is not None:
            values.append(selection.request)
            texts.append(_AT_ITS_PLACE.format(f"${len(values)}"))
    if (selection.start, selection.end) != (None, None):
        texts.append(_OF_THIS_TOPIC.format(row, "'inmail-expiry'" if ticks else "'inmail-' || j.worker", partition))
    for text, value in given:
        if value is not None:
            values.append(value)
            texts.append(f"{text}${len(values)}")
    return " and ".join(texts), values


def _has_ticks(selection: RowFilter) -> bool:
    return selection.account is None and selection.worker in (None, WorkerName.EXPIRY)


async def _count_events(connection: Connection, selection: RowFilter, start: RowPosition) -> Counter[str]:
    counts: Counter[str] = Counter()
    if start.part == JOURNAL:
        where, values = _conditions(selection, JOURNAL, start)
        rows = await connection.fetch(
            # By topic, as `result_event` chooses it: sends, and reports that returned no credit.
            "select j.recipient_id is not null or (j.worker = 'send' and j.is_answer"  # noqa: S608 - of texts below
            " and j.code not in ('reversed', 'lot_ended')) as of_send, count(*)"
            f" from journal as j where {where} group by 1",
            *values,
            timeout=_COUNT_SECONDS,
        )
        counts.update({SEND_RESULTS if row[0] else CREDIT_EVENTS: row[1] for row in rows})
    if _has_ticks(selection):
        where, values = _conditions(selection, TICKS, start if start.part == TICKS else _TICKS_BEGIN)
        counts[CREDIT_EVENTS] += await connection.fetchval(
            f"select count(*) from ticks as t where {where}",  # noqa: S608 - the same
            *values,
            timeout=_COUNT_SECONDS,
        )
    return +counts


async def read_pages(
    connection: Connection, selection: RowFilter, start: RowPosition
) -> AsyncGenerator[Sequence[tuple[RowPosition, Message]], None]:
    """Yield pages of the selected events after a position, each event with its position."""
    position = start
    while position.part == JOURNAL:
        where, values = _conditions(selection, JOURNAL, position)
        rows = await connection.fetch(
            f"{JOURNAL_ROWS} where {where} order by j.account, j.sequence limit {_PAGE}",
            *values,
            timeout=_COUNT_SECONDS,
        )
        events = [(RowPosition(JOURNAL, row.account, row.sequence), event) for row, event in map(row_event, rows)]
        if events:
            yield events
            position = events[-1][0]
        if len(events) < _PAGE:
            position = _TICKS_BEGIN
    while _has_ticks(selection):
        where, values = _conditions(selection, TICKS, position)
        rows = await connection.fetch(
            "select t.* from ticks as t"  # noqa: S608 - the same
            f" where {where} order by t.partition, t.source_offset, t.request_id limit {_PAGE}",
            *values,
        )
        ticks = [Tick(*row) for row in rows]
        if ticks:
            # The rows that a tick booked are in the journal; its last message is the answer.
            yield [(_tick_position(each), tick_messages(each, [], each.source_offset)[-1]) for each in ticks]
            position = _tick_position(ticks[-1])
        if len(ticks) < _PAGE:
            return


def _tick_position(tick: Tick) -> RowPosition:
    return RowPosition(TICKS, tick.partition, tick.source_offset, tick.request_id)
