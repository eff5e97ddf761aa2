"""Reads from the ledger's database what was decided, as the events that were published."""

from typing import Final

from asyncpg import Record

from infra.postgres import Connection
from workers.jobs.job import Message, StoredRange
from workers.jobs.result_events import result_event
from workers.ledger.model import Entry, Tick, WorkerName

__all__ = ["JOURNAL_ROWS", "read_ticks", "replay_answers", "row_event"]

# Rows of the journal `j` with all that their events need; a condition may follow.
JOURNAL_ROWS: Final = (
    "select a.account_id, o.original, j.* from journal as j join accounts as a using (account)"
    " left join original_ids as o using (account, request_id)"
)


async def replay_answers(
    connection: Connection, worker: WorkerName, partition: int, stored: StoredRange
) -> list[Message]:
    """Return from the books what a worker booked for a range of a partition's records."""
    rows = await connection.fetch(
        f"{JOURNAL_ROWS} where j.worker = $1 and j.source_partition = $2"
        " and j.source_offset >= $3 and j.source_offset < $4"
        " and j.as_of > coalesce($5::timestamptz, '-infinity') and j.as_of <= coalesce($6::timestamptz, 'infinity')"
        " order by j.source_offset, j.account, j.sequence",
        worker.value,
        partition,
        *stored,
    )
    return [message for _, message in map(row_event, rows)]


def row_event(row: Record) -> tuple[Entry, Message]:
    """Return a row that `JOURNAL_ROWS` gives, and its event."""
    account_id, original, *columns = row
    entry = Entry(*columns)
    return entry, result_event(account_id, entry, original_id=None if original is None else original.decode())


async def read_ticks(connection: Connection, partition: int, stored: StoredRange) -> list[Tick]:
    """Return the stored answers to the ticks of a range of a partition's records."""
    rows = await connection.fetch(
        "select * from ticks where partition = $1 and source_offset >= $2 and source_offset < $3"
        " and as_of > coalesce($4::timestamptz, '-infinity') and as_of <= coalesce($5::timestamptz, 'infinity')"
        " order by source_offset",
        partition,
        *stored,
    )
    return [Tick(*row) for row in rows]
