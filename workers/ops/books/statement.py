"""An account's statement: its balance, lot by lot, and every journal row up to it."""

import csv
import io
from collections.abc import Mapping
from dataclasses import dataclass, fields
from datetime import datetime
from typing import Any, Final
from uuid import UUID

from infra.postgres import Connection
from workers.ops.books.balance import Balance, balance_of
from workers.ops.books.reasons import reason_of
from workers.ops.books.shards import by_account

__all__ = [
    "LINE_COLUMNS",
    "Statement",
    "StatementLine",
    "read_statement",
    "statement_of",
    "write_csv",
]


@dataclass(frozen=True, slots=True)
class StatementLine:
    """One row of the journal."""

    sequence: int
    as_of: datetime
    code: str
    request_id: UUID
    amount: int
    lot: int | None
    lot_expires_at: datetime | None
    balance_before: int
    balance_after: int
    recipient_id: str | None
    relationship: str | None
    sender_id: str | None
    next_allotment_at: datetime | None
    reverses: int | None
    details: Mapping[str, Any] | None

    @property
    def reason(self) -> str:
        """The reason for the row, in words."""
        return reason_of(self)


@dataclass(frozen=True, slots=True)
class Statement(Balance):
    """An account's balance at one instant, and the journal rows up to the instant."""

    lines: tuple[StatementLine, ...]  # all, or the newest
    line_count: int  # of all

    def summary(self) -> dict[str, object]:
        """Return the statement for JSON, each line with its reason."""
        facts: dict[str, object] = {field.name: getattr(self, field.name) for field in fields(Balance)}
        return facts | {"lines": [_members(line) | {"reason": line.reason} for line in self.lines]}


# Of a journal row, in the order of a line's fields.
LINE_COLUMNS: Final = ", ".join(field.name for field in fields(StatementLine))

_LINES: Final = f"""
select {LINE_COLUMNS}
from journal
where account = (select account from accounts where account_id = $1) and as_of <= $2
order by sequence desc
limit $3
"""  # noqa: S608 - a constant

_COUNT: Final = """
select count(*) from journal where account = (select account from accounts where account_id = $1) and as_of <= $2
"""

_COLUMNS = (
    "account_id",
    "sequence",
    "as_of",
    "code",
    "amount",
    "balance_before",
    "balance_after",
    "lot",
    "lot_expires_at",
    "reason",
    "request_id",
    "recipient_id",
    "relationship",
    "sender_id",
    "next_allotment_at",
    "reverses",
)


async def statement_of(
    connection: Connection, account_id: str, as_of: datetime | None = None, *, last: int | None = None
) -> Statement:
    """Return an account's statement.

    Args:
        connection: to the ledger's database.
        account_id: whose statement.
        as_of: the instant; `balance_of` describes the default.
        last: how many of the newest lines at most; None: all.

    Raises:
        UnknownAccountError: when the ledger has no such account.

    """
    balance = await balance_of(connection, account_id, as_of)
    rows = await connection.fetch(_LINES, account_id, balance.as_of, last)
    count = len(rows) if last is None else await connection.fetchval(_COUNT, account_id, balance.as_of)
    return Statement(**_members(balance), lines=tuple(StatementLine(**row) for row in reversed(rows)), line_count=count)


read_statement: Final = by_account(statement_of)


def write_csv(statement: Statement) -> str:
    """Return the statement's lines as CSV (RFC 4180), after a line of column names."""
    text = io.StringIO(newline="")
    writer = csv.writer(text)
    writer.writerow(_COLUMNS)
    for line in statement.lines:
        members = _members(line) | {"account_id": statement.account_id, "reason": line.reason}
        writer.writerow([_cell(members[name]) for name in _COLUMNS])
    return text.getvalue()


def _members(record: Any) -> dict[str, Any]:  # noqa: ANN401 - any dataclass
    return {field.name: getattr(record, field.name) for field in fields(record)}


def _cell(value: object) -> object:
    return value.isoformat().replace("+00:00", "Z") if isinstance(value, datetime) else value
