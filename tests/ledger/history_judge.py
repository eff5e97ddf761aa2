"""Plays a history that the oracle decided on other books, compares everything, and writes a difference as a table."""

from collections import defaultdict
from dataclasses import dataclass, field
from typing import Any

from asyncpg import PostgresError

from tests.ledger.histories import ACCOUNTS, Entry, History, batches
from tests.ledger.scenario import ACCOUNT, BASE_CATALOGUE, START
from tests.ledger.scenario_books import Books, check_conservation
from tests.ledger.scenario_events import TICK, write_event, write_instant
from tests.ledger.scenario_rows import ALIASES, ExpectedRow, value_of, write_lot, write_value

__all__ = ["judge", "write_table"]

COLUMNS = ("lot", "before", "after", "next", "limit", "retry")  # of a row in a printed table, where not null
NAMES = {column: name for name, column in ALIASES.items()}
OF_A_LOT = {"expires_at": "until", "granted_at": "from", "full_expires_at": "full"}
NOT_IN_TABLES = {"fingerprint", "request_id", "account"}  # a table has names for requests


@dataclass
class Differences:
    """Where other books say otherwise than the oracle."""

    problems: list[str] = field(default_factory=list)
    columns: dict[int, set[str]] = field(default_factory=lambda: defaultdict(set))  # of rows, by entry
    checks: list[str] = field(default_factory=list)  # of lots and levels at the end


async def judge(history: History, books: Books) -> None:
    """See that other books decide a history as the oracle did.

    Raises:
        AssertionError: with the history as a scenario that these books fail, where they do not.

    """
    found = Differences()
    index = 0
    for batch in batches(history):
        try:
            decided = await _decide(batch, books)
        except (PostgresError, AssertionError) as problem:
            found.problems.append(f"deciding the last batch: {type(problem).__name__}: {problem}")
            index += len(batch)
            break
        for entry, rows in zip(batch, decided, strict=True):
            if not found.problems:
                _compare_rows(found, index, entry.rows, rows)
            index += 1
        if found.problems:
            break  # whatever comes after it follows from it
    if not found.problems:
        for account in ACCOUNTS:
            await _compare_account(found, account, history.books, books)
    if found.problems:
        problems = "\n".join(f"# {line}" for problem in found.problems for line in problem.splitlines())
        raise AssertionError(
            f"the books say otherwise than the oracle:\n\n{write_table(history, found, index)}{problems}\n"
        )


async def _decide(batch: list[Entry], books: Books) -> list[list[dict[str, Any]]]:
    first = batch[0]
    if first.catalogue:
        await books.use(first.catalogue)
        return [[]]
    if first.input and first.input.type == TICK:
        return [await books.tick(first.input, first.read_to)]
    return await books.decide([entry.input for entry in batch if entry.input])


def _compare_rows(found: Differences, index: int, expected: list[dict[str, Any]], actual: list[dict[str, Any]]) -> None:
    """Compare all rows of one record, all columns of each."""
    for number, (right, other) in enumerate(zip(expected, actual, strict=False)):
        details = {*(right.get("details") or {}), *(other.get("details") or {})}
        names = {name for name in right if name != "details" and right[name] != other.get(name)}
        names |= {name for name in details if value_of(right, name) != value_of(other, name)}
        if names or right.get("details") != other.get("details"):
            found.columns[index] |= names
            columns = [
                f"{name} {write_value(value_of(right, name))}, not {write_value(value_of(other, name))}"
                for name in sorted(names)
            ]
            found.problems.append(
                f"row {number + 1} of the last line, {right['code']}: {'; '.join(columns) or 'details null or not'}"
            )
    if len(expected) != len(actual):
        rows = "; ".join(f"{row['code']} {row.get('amount', '')}" for row in actual)
        found.problems.append(f"the last line: {len(expected)} rows, not {len(actual)}: {rows}")


async def _compare_account(found: Differences, account: str, oracle: Books, books: Books) -> None:
    """Compare level, sequence and lots, and that no credit was made or lost."""
    right, other = await oracle.account(account), await books.account(account)
    if right != other:
        found.problems.append(f"{account}: {right}, not {other}")
        found.checks += [f"{account}: level {right['level']}", f"{account}: erased {write_value(right['erased'])}"]
    lots = list(zip(await oracle.lots(account), await books.lots(account), strict=False))
    for right, other in lots:
        names = [name for name in right if right[name] != other[name]]
        if names:
            words = write_lot(right, [OF_A_LOT.get(name, name) for name in names if name != "request_id"])
            others = write_lot(other, [OF_A_LOT.get(name, name) for name in names])
            found.problems.append(f"{account}: lot {right['lot']} has {' '.join(words)}, not {' '.join(others)}")
            found.checks.append(f"{account}: lot {right['lot']} {' '.join(words)}")
    try:
        await check_conservation(books, account)
    except AssertionError as problem:
        found.problems.append(f"{account}: {problem}")


# -- writing ----------------------------------------------------------------------------------------------------------


def write_table(history: History, found: Differences, count: int) -> str:
    """Return the first entries of a history as a scenario, with what the oracle booked."""
    lines = ["scenario: found by a random history"]
    now = START
    for index, entry in enumerate(history.entries[:count]):
        if entry.catalogue:
            lines += _catalogue_lines(entry.catalogue)
            continue
        assert entry.input
        if entry.input.as_of != now:
            now = entry.input.as_of
            lines.append(f"at {write_instant(now)}")
        lines.append(_line(history, entry, found.columns.get(index, set())))
    lines += [f"at {write_instant(now)} | {check}" for check in found.checks]
    return "\n".join(lines) + "\n"


def _catalogue_lines(catalogue: dict[str, Any]) -> list[str]:
    """Return the lines that lead to a catalogue from the one that every scenario starts with."""
    lines = ["catalogue reset"]
    for name, value in catalogue.items():
        before = BASE_CATALOGUE[name]
        if isinstance(value, dict):
            lines += [f"catalogue {name}.{key} = {_toml(v)}" for key, v in value.items() if before.get(key) != v]
        elif before != value:
            lines.append(f"catalogue {name} = {_toml(value)}")
    return lines


def _toml(value: Any) -> str:
    if isinstance(value, dict):
        return "{ " + ", ".join(f"{name} = {_toml(inner)}" for name, inner in value.items()) + " }"
    return str(value).lower() if isinstance(value, bool) else f'"{value}"' if isinstance(value, str) else str(value)


def _line(history: History, entry: Entry, differing: set[str]) -> str:
    """Return one record as a line; it names its request, so that another line can speak of it."""
    input_ = entry.input
    assert input_
    who = f"{input_.account}: " if input_.account not in {"", ACCOUNT} else ""
    what = write_event(input_.type, input_.data, history.names)
    until = f" read-to {write_instant(entry.read_to)}" if entry.read_to else ""
    rows = entry.rows[:-1] if input_.type == TICK else entry.rows  # not a tick's answer
    written = "; ".join(_row(row, differing, named=input_.type == TICK) for row in rows) or "nothing"
    joins = "+ " if entry.joins else ""
    behind = " behind" if input_.behind and not entry.joins else ""
    return f"{joins}{who}{what}{until} as {history.names.name_of(input_.request_id)}{behind} -> {written}"


def _row(row: dict[str, Any], differing: set[str], *, named: bool) -> str:
    names = [name for name in COLUMNS if value_of(row, name) is not None]
    names += sorted(
        {NAMES.get(name, name) for name in differing - NOT_IN_TABLES} - {*names, "code", "amount", "repeat"}
    )
    columns = {name: write_value(value_of(row, name)) for name in names}
    return str(ExpectedRow(row["code"], row["amount"], row["repeat"], row["account"] if named else None, columns))
