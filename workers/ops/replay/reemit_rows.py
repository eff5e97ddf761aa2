"""The stored rows that a reemission selects, as the events they were published as, in an order that can be resumed."""

from collections import Counter
from collections.abc import AsyncGenerator, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any, Final, NamedTuple
from uuid import UUID

from infra.postgres import Connection
from schemas.catalogue import CREDIT_EVENTS, SEND_RESULTS
from workers.jobs.job import Message
from workers.jobs.result_events import tick_messages
from workers.jobs.stored_events import JOURNAL_ROWS, row_event
from workers.ledger.model import Tick, WorkerName

__all__ = ["RowFilter", "RowPosition", "count_events", "read_pages"]

_PAGE = 500
_COUNT_SECONDS = 3600.0
_PAGE_SECONDS = 3600.0  # few rows of many may match
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


# Their key begins with the partition: every one that there is, so that it finds a request.
_TICK_PARTITIONS: Final = (
    "t.partition = any(array(select generate_series(0, (select max(x.partition) from ticks as x))))"
)
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
    select t.partition, t.source_offset from ticks as t where t.request_id = {0} and {1}
)
"""


# Offsets are those of the topic as it is: one that was created again has other records at the same ones.
_OF_THIS_TOPIC = """{0}.as_of > coalesce(
(select l.topic_since from lanes as l where l.consumer_group = {1} and l.partition = {2}), '-infinity')"""


# Of one of several servers: rows that a move has copied here or has not deleted yet are another server's. Those of an
# account belong to the account's number, a tick's to its partition.
_OF_NUMBERS: Final = {JOURNAL: "a.partition = any({0}::integer[])", TICKS: "t.partition = any({0}::integer[])"}


def _conditions(
    selection: RowFilter, part: str, position: RowPosition, numbers: Sequence[int] | None
) -> tuple[str, list[Any]]:
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
        if selection.request is not None:
            texts.append(_TICK_PARTITIONS)
    else:
        texts, values = ["(j.account, j.sequence) > ($1, $2)"], [position.first, position.second]
        given += [("j.worker = ", selection.worker and selection.worker.value)]
        if selection.account is not None:
            values.append(selection.account)
            texts.append("j.account = (select a.account from accounts as a where a.account_id = $3)")
        if selection.request is not None:
            values.append(selection.request)
            texts.append(_AT_ITS_PLACE.format(f"${len(values)}", _TICK_PARTITIONS))
    if numbers is not None:
        values.append(numbers)
        texts.append(_OF_NUMBERS[part].format(f"${len(values)}"))
    if (selection.start, selection.end) != (None, None):
        texts.append(_OF_THIS_TOPIC.format(row, "'inmail-expiry'" if ticks else "'inmail-' || j.worker", partition))
    for text, value in given:
        if value is not None:
            values.append(value)
            texts.append(f"{text}${len(values)}")
    return " and ".join(texts), values


def _has_ticks(selection: RowFilter) -> bool:
    return selection.account is None and selection.worker in (None, WorkerName.EXPIRY)


async def count_events(
    connection: Connection, selection: RowFilter, start: RowPosition, numbers: Sequence[int] | None
) -> Counter[str]:
    """Return how many selected events of the numbers come after a position, by topic; None: of all numbers."""
    counts: Counter[str] = Counter()
    if start.part == JOURNAL:
        where, values = _conditions(selection, JOURNAL, start, numbers)
        accounts = "" if numbers is None else " join accounts as a using (account)"
        rows = await connection.fetch(
            # By topic, as `result_event` chooses it: sends, and reports that returned no credit.
            "select j.recipient_id is not null or (j.worker = 'send' and j.is_answer"  # noqa: S608 - of texts below
            " and j.code not in ('reversed', 'lot_ended')) as of_send, count(*)"
            f" from journal as j{accounts} where {where} group by 1",
            *values,
            timeout=_COUNT_SECONDS,
        )
        counts.update({SEND_RESULTS if row[0] else CREDIT_EVENTS: row[1] for row in rows})
    if _has_ticks(selection):
        where, values = _conditions(selection, TICKS, start if start.part == TICKS else _TICKS_BEGIN, numbers)
        counts[CREDIT_EVENTS] += await connection.fetchval(
            f"select count(*) from ticks as t where {where}",  # noqa: S608 - the same
            *values,
            timeout=_COUNT_SECONDS,
        )
    return +counts


async def read_pages(
    connection: Connection, selection: RowFilter, start: RowPosition, numbers: Sequence[int] | None = None
) -> AsyncGenerator[Sequence[tuple[RowPosition, Message]], None]:
    """Yield pages of the selected events of the numbers after a position, each with its position; None: of all."""
    position = start
    while position.part == JOURNAL:
        where, values = _conditions(selection, JOURNAL, position, numbers)
        rows = await connection.fetch(
            f"{JOURNAL_ROWS} where {where} order by j.account, j.sequence limit {_PAGE}",
            *values,
            timeout=_PAGE_SECONDS,
        )
        events = [(RowPosition(JOURNAL, row.account, row.sequence), event) for row, event in map(row_event, rows)]
        if events:
            yield events
            position = events[-1][0]
        if len(events) < _PAGE:
            position = _TICKS_BEGIN
    while _has_ticks(selection):
        where, values = _conditions(selection, TICKS, position, numbers)
        rows = await connection.fetch(
            "select t.* from ticks as t"  # noqa: S608 - the same
            f" where {where} order by t.partition, t.source_offset, t.request_id limit {_PAGE}",
            *values,
            timeout=_PAGE_SECONDS,
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
