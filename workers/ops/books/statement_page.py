"""A page of an account's journal, and the answers to one of its requests: each read by an index, bounded in size."""

from dataclasses import dataclass
from typing import Final
from uuid import UUID

from infra.postgres import Connection
from workers.ops.books.statement import LINE_COLUMNS, StatementLine

__all__ = ["ANSWERS_OF_REQUEST", "RequestAnswers", "StatementPage", "read_answers", "read_statement_page"]

_ANSWERS_AT_MOST: Final = 50
_NO_BOUND: Final = 2**63 - 1  # no sequence is higher

# Three partial indexes begin with the request id: for conflicts, for answers that are not final, and for final answers.
ANSWERS_OF_REQUEST: Final = """
    select x.* from journal as x
    where x.request_id = $1 and x.is_answer and x.code <> 'key_conflict' and x.code <> 'balance_not_current'
    union all
    select x.* from journal as x where x.request_id = $1 and x.is_answer and x.code = 'balance_not_current'
    union all
    select x.* from journal as x where x.request_id = $1 and x.is_answer and x.code = 'key_conflict'
"""

_ANSWERS: Final = f"""
select {LINE_COLUMNS},
    (select o.original from original_ids as o where o.request_id = $1 and o.account = j.account) as original
from ({ANSWERS_OF_REQUEST}) as j
where j.account = (select a.account from accounts as a where a.account_id = $2)
order by code = 'balance_not_current', code = 'key_conflict', sequence desc -- a conflict is of one with a final answer
limit $3
"""  # noqa: S608 - constants

_PAGE: Final = """
select a.sequence as newest, j.*
from accounts as a
left join lateral (
    select {columns}
    from journal
    where account = a.account and sequence {after} $2
    order by sequence {direction}
    limit $3
) as j on true
where a.account_id = $1 and a.sequence > 0
order by j.sequence {direction}
"""
_OLDEST_FIRST: Final = _PAGE.format(columns=LINE_COLUMNS, after=">", direction="asc")
_NEWEST_FIRST: Final = _PAGE.format(columns=LINE_COLUMNS, after="<", direction="desc")


@dataclass(frozen=True, slots=True)
class StatementPage:
    """Some lines of an account's statement, in one direction."""

    sequence: int  # of the account's newest row
    lines: tuple[StatementLine, ...]


@dataclass(frozen=True, slots=True)
class RequestAnswers:
    """The stored answers to one request id of an account."""

    answer: StatementLine  # the final one; without one, the newest that is not final
    conflicts: tuple[StatementLine, ...]  # answers to the same id with another body, the oldest first
    original_id: str | None  # the producer's id, where it is no UUID


async def read_statement_page(
    connection: Connection, account_id: str, limit: int, *, after: int | None = None, before: int | None = None
) -> StatementPage | None:
    """Return a page of an account's statement; None if the account is unknown.

    Args:
        connection: to the ledger's database.
        account_id: whose statement.
        limit: how many lines at most.
        after: lines with a higher number, the oldest first.
        before: lines with a lower number, the newest first. With neither, the newest lines, the newest first.

    """
    if after is not None:
        rows = await connection.fetch(_OLDEST_FIRST, account_id, after, limit)
    else:
        rows = await connection.fetch(_NEWEST_FIRST, account_id, _NO_BOUND if before is None else before, limit)
    if not rows:
        return None
    # Without lines there is one row, without a line.
    return StatementPage(rows[0]["newest"], tuple(StatementLine(*row[1:]) for row in rows if row[1] is not None))


async def read_answers(connection: Connection, account_id: str, request_id: UUID) -> RequestAnswers | None:
    """Return the answers to a request; None if there are none, or the account is unknown."""
    rows = await connection.fetch(_ANSWERS, request_id, account_id, _ANSWERS_AT_MOST)
    lines = [StatementLine(*row[:-1]) for row in rows]
    conflicts = tuple(line for line in reversed(lines) if line.code == "key_conflict")
    answers = [line for line in lines if line.code != "key_conflict"]
    final = [line for line in answers if line.code != "balance_not_current"]
    if not answers:
        return None
    original = rows[0]["original"]
    return RequestAnswers((final or answers)[0], conflicts, None if original is None else original.decode())
