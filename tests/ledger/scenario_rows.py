"""Rows and checks of the scenario tables: how they are read, written, and compared with what the books say."""

import re
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any
from uuid import UUID

from tests.ledger.scenario_events import Names, read_instant, write_instant

__all__ = ["ExpectedRow", "read_checks", "read_rows", "value_of", "write_row", "write_value"]

# Columns that have shorter names in tables; any other column, or member of details, goes by its own.
ALIASES = {
    "until": "lot_expires_at",
    "next": "next_allotment_at",
    "before": "balance_before",
    "after": "balance_after",
    "retry": "retry_at",
    "to": "recipient_id",
    "by": "sender_id",
}
REQUESTS = {"grant_id", "send_id"}  # columns that hold a request id, which tables may have by its name
LOT_ALIASES = {"until": "expires_at", "full": "full_expires_at", "from": "granted_at"}
INSTANT = re.compile(r"\d{4}-\d\d-\d\d(T.*)?")


@dataclass
class ExpectedRow:
    """What a table says of one row."""

    code: str
    amount: int = 0
    repeat: bool = False
    account: str | None = None
    columns: dict[str, str] = field(default_factory=dict)

    def __str__(self) -> str:
        return _written(self.account, self.repeat, self.code, self.amount, self.columns)

    def as_this_row_would_be(self, row: dict[str, Any]) -> str:
        """Return a row of the books, written with the columns that this one names."""
        columns = {name: write_value(value_of(row, name)) for name in self.columns}
        account = row["account"] if self.account else None
        return _written(account, row["repeat"], row["code"], row["amount"], columns)


def write_row(row: dict[str, Any], *names: str) -> str:
    """Return a row of the books with some of its columns; those that are null are left out."""
    columns = {name: write_value(value_of(row, name)) for name in names if value_of(row, name) is not None}
    return _written(None, row["repeat"], row["code"], row["amount"], columns)


def _written(account: str | None, repeat: bool, code: str, amount: int, columns: dict[str, str]) -> str:  # noqa: FBT001
    words = [f"{account}:"] * bool(account) + ["repeat"] * repeat + [code] + [f"{amount:+}"] * bool(amount)
    return " ".join(words + [f"{name} {value}" for name, value in columns.items()])


def value_of(row: dict[str, Any], name: str) -> Any:
    """Return a column of a row by its name in tables."""
    column = ALIASES.get(name, name)
    if column in row:
        return row[column]
    return (row.get("details") or {}).get(column)


def write_value(value: Any) -> str:
    """Return a column's value as tables have it."""
    match value:
        case None:
            return "none"
        case bool():
            return "yes" if value else "no"
        case datetime():
            return write_instant(value)
        case [dict(), *_]:  # lots and their ends
            return ",".join(f"{each['lot']}:{write_instant(each['expires_at'])}" for each in value)
        case _:
            text = str(value)
            return text if re.fullmatch(r"[^\s;|\"#]+", text) else f'"{text}"'


def read_value(text: str) -> str:
    """Return a value of a table as `write_value` would write it."""
    return write_value(read_instant(text) if INSTANT.fullmatch(text) else text)


def _read_column(name: str, text: str) -> str:
    if name not in REQUESTS or text == "none":
        return read_value(text)
    try:
        return str(UUID(text))
    except ValueError:
        return str(Names().id_of(text))


def read_rows(words: list[str]) -> list[ExpectedRow]:
    """Return the rows that a line expects, from the words after its arrow."""
    rows: list[list[str]] = [[]]
    for word in words:
        if word == ";":
            rows.append([])
        else:
            rows[-1].append(word)
    if rows == [["nothing"]]:
        return []
    return [_read_row(row) for row in rows]


def _read_row(words: list[str]) -> ExpectedRow:
    account = words.pop(0).removesuffix(":") if words and words[0].endswith(":") else None
    repeat = words[:1] == ["repeat"]
    if repeat:
        words.pop(0)
    if not words:
        raise ValueError("expected the code of a row")
    code = words.pop(0)
    amount = int(words.pop(0)) if words and re.fullmatch(r"[+-]\d+", words[0]) else 0
    if len(words) % 2:
        raise ValueError(f"expected pairs of a column and its value after {code}, got {' '.join(words)!r}")
    columns = {name: _read_column(name, value) for name, value in zip(words[::2], words[1::2], strict=True)}
    return ExpectedRow(code, amount, repeat, account, columns)


def read_checks(groups: list[list[str]]) -> list[tuple[str | None, list[str]]]:
    """Return each check's account, if it names one, and its words."""
    checks = []
    for words in groups:
        account = words.pop(0).removesuffix(":") if words and words[0].endswith(":") else None
        if not words or words[0] not in {"balance", "lots", "lot", "level", "erased", "booked"}:
            raise ValueError(f"expected a check (balance, lots, lot, level, erased or booked), got {' '.join(words)!r}")
        checks.append((account, [words[0], *(read_value(word) for word in words[1:])]))
    return checks


def write_lot(lot: dict[str, Any], names: list[str]) -> list[str]:
    """Return some of a lot's columns as a check has them."""
    return [word for name in names for word in (name, write_value(lot[LOT_ALIASES.get(name, name)]))]
