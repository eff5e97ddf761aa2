"""Who keeps the ledger's sessions waiting in Postgres: one question that the console, lag, workers and commands share.

Every user may see which session waits for which. What a session does and since when, Postgres shows only to its own
role and to members of `pg_read_all_stats`: where it is hidden, the answer says what is missing.
"""

import asyncio
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from datetime import datetime
from time import monotonic
from typing import Any, Final

import asyncpg

from infra.lock_holder import LockHolder
from infra.postgres import Connection, connect_database
from infra.postgres_statements import slow_statement
from infra.retry import SERVER_ERRORS
from infra.settings import Settings, SettingsError

__all__ = [
    "LockMemory",
    "LockedError",
    "ask_lock_holders",
    "explain_lock",
    "find_holders",
    "read_lock_holders",
]

_WAIT_SECONDS: Final = 1.0  # of a session of ours
_TABLE_SECONDS: Final = 1.0  # of a transaction with a lock on a whole table
_ASK_SECONDS: Final = 5.0  # for the answer
_WORK_SECONDS: Final = 4.0  # of the waiting for one of ours that is at work: it lets go sooner, or is named
_ROWS_SECONDS: Final = 4.0  # of a transaction that keeps rows; of one of ours, without doing anything
_SHARED_SECONDS: Final = 1.0  # for which an answer serves whoever else asks
_REMEMBERED_SECONDS: Final = 15.0  # after a session of ours was seen to wait: workers give up after 2 s, and try again
_OURS: Final = "inmail"  # how names of our applications begin (infra/postgres.py)
_READ: Final = """
with here as (
    select l.pid, l.granted, l.mode, l.locktype, l.waitstart, c.relname
    from pg_locks as l
    left join pg_class as c
        on l.locktype = 'relation' and c.oid = l.relation and c.relkind in ('r', 'p')
        and c.relnamespace = any(array(select to_regnamespace(quote_ident(s)) from unnest(current_schemas(false)) as s))
    where l.database is null or l.database = 0
        or l.database = (select oid from pg_database where datname = current_database())
),
sessions as (
    select h.pid, bool_or(not h.granted) as waits, min(h.waitstart) filter (where not h.granted) as waits_since,
        array_agg(distinct h.relname::text) filter (
            where h.granted and h.mode in ('ShareLock', 'ShareRowExclusiveLock', 'ExclusiveLock', 'AccessExclusiveLock')
        ) as tables,
        array_agg(distinct h.relname::text) filter (
            where h.granted and h.mode in ('RowShareLock', 'RowExclusiveLock')
        ) as rows
    from here as h
    where h.pid is not null and h.pid <> pg_backend_pid()
    group by h.pid
)
select s.pid, a.usename::text as user_name, coalesce(a.application_name, '') as application,
    host(a.client_addr) as client, a.state, coalesce(a.backend_type, '') as backend, a.xact_start, a.state_change,
    a.wait_event_type, a.wait_event, s.waits_since, clock_timestamp() as now, current_user::text as reader,
    case when s.waits then pg_blocking_pids(s.pid) else '{}' end as blocked_by,
    array_remove(coalesce(s.tables, '{}'), null) as tables, array_remove(coalesce(s.rows, '{}'), null) as rows
from sessions as s
join pg_stat_activity as a using (pid)
where (a.datname is null or a.datname = current_database())
    and (s.waits or array_remove(s.tables, null) <> '{}' or array_remove(s.rows, null) <> '{}')
order by s.pid
"""


class LockedError(asyncpg.LockNotAvailableError):
    """A statement gave up waiting for a lock. The message names who holds it."""


@dataclass(slots=True)
class _Waiters:
    count: int = 0
    seconds: float = 0.0


@dataclass(slots=True)
class _WaitedFor:
    """A holder that sessions of ours were seen to wait for."""

    since: float  # by the observer's clock, when the first of them began to
    last_seen: float
    sessions: int  # when it was last seen


@dataclass(slots=True)
class LockMemory:
    """What an observer knows of holders by having looked before: who was waited for is the cause until it lets go.

    And for how long the ledger waits: each session gives up after 2 s and tries again, which begins its own wait anew.
    """

    clock: Callable[[], float] = monotonic
    _waited_for: dict[tuple[int, datetime | None], _WaitedFor] = field(default_factory=dict)
    _turn: asyncio.Lock = field(default_factory=asyncio.Lock)
    _read_at: float | None = None
    _holders: list[LockHolder] = field(default_factory=list)
    statement: str | None = None  # of the ledger, which takes Postgres long, in words

    async def read(self, connection: Connection) -> list[LockHolder]:
        """Return the holders of now, as `recall` does. Whoever asks within a second of another gets its answer."""
        async with self._turn:
            if self._read_at is None or self.clock() - self._read_at >= _SHARED_SECONDS:
                sessions = await _read_sessions(connection)
                self._holders, self.statement = self.recall(find_holders(sessions)), slow_statement(sessions)
                self._read_at = self.clock()
            return self._holders

    def recall(self, holders: Sequence[LockHolder]) -> list[LockHolder]:
        """Return the holders of a sample, the worst first, with who waited a moment ago where nobody does just now."""
        now = self.clock()
        for each in holders:
            if each.waiting:
                began = now - each.waiting_seconds
                known = self._waited_for.setdefault((each.pid, each.since), _WaitedFor(began, now, each.waiting))
                known.last_seen, known.sessions = now, each.waiting
        self._waited_for = {
            key: known for key, known in self._waited_for.items() if now - known.last_seen <= _REMEMBERED_SECONDS
        }
        return sorted((self._as_known(each, now) for each in holders), key=_worst_first)

    def _as_known(self, holder: LockHolder, now: float) -> LockHolder:
        if (known := self._waited_for.get((holder.pid, holder.since))) is None:
            return holder
        return replace(holder, waiting=known.sessions, waiting_seconds=now - known.since)


async def read_lock_holders(
    connection: Connection, ours: str = _OURS, wait_seconds: float = _WAIT_SECONDS
) -> list[LockHolder]:
    """Return who keeps sessions of the ledger waiting, or keeps what they need, the worst first.

    Reads no table of the ledger, so that it answers whatever is locked there. `find_holders` describes the arguments.
    """
    return find_holders(await _read_sessions(connection), ours, wait_seconds)


async def _read_sessions(connection: Connection) -> list[dict[str, Any]]:
    return [dict(row) for row in await connection.fetch(_READ)]


async def ask_lock_holders(
    settings: Settings, ours: str = _OURS, wait_seconds: float = _WAIT_SECONDS
) -> list[LockHolder]:
    """Return the same over a connection of its own, as the user of the settings; nothing where nobody answers in time.

    It is asked to explain another error, or silence: one of its own would hide that.
    """
    try:
        async with asyncio.timeout(_ASK_SECONDS):
            connection = await connect_database(settings)
            try:
                return await read_lock_holders(connection, ours, wait_seconds)
            finally:
                connection.terminate()
    except (SettingsError, *SERVER_ERRORS):  # a pooler between drops what the session needs
        return []


async def explain_lock(settings: Settings, error: asyncpg.LockNotAvailableError) -> LockedError:
    """Return the error of a statement that gave up waiting for a lock, with who holds it."""
    holders = await ask_lock_holders(settings)
    blocking = [each for each in holders if each.blocks] or holders
    if not blocking:
        return LockedError(f"{error}: whoever held it is gone by now, or cannot be seen: try again")
    return LockedError("; ".join(f"{each.text}: {each.do}" for each in blocking))


def find_holders(
    sessions: Sequence[Mapping[str, Any]], ours: str = _OURS, wait_seconds: float = _WAIT_SECONDS
) -> list[LockHolder]:
    """Return the holders among sessions with locks, which are rows of the question.

    A holder waits for nobody itself. One of ours that is at work is none: it lets go when it is done; but an audit
    keeps whoever wants a whole table waiting for minutes, and all others behind. Who keeps a whole table, or rows for
    longer than our own work takes, is told also when nobody waits at this moment: workers give up after 2 s, and try
    again later.

    Args:
        sessions: the rows.
        ours: how the names of the applications begin whose waiting counts.
        wait_seconds: how long they have waited at least: lanes keep each other for a moment.

    """
    by_pid = {row["pid"]: row for row in sessions}
    waiters: dict[int, _Waiters] = {}
    for row in sessions:
        if row["blocked_by"] and row["application"].startswith(ours) and _age(row, "waits_since") >= wait_seconds:
            for root in _roots(row["pid"], by_pid):
                found = waiters.setdefault(root, _Waiters())
                found.count, found.seconds = found.count + 1, max(found.seconds, _age(row, "waits_since"))
    told = {row["pid"] for row in sessions if not row["blocked_by"] and _keeps(row)} | waiters.keys()
    holders = [_holder(pid, by_pid.get(pid), waiters.get(pid, _Waiters())) for pid in told]
    holders = [each for each in holders if not _is_at_work(each)]
    return sorted(holders, key=_worst_first)


def _worst_first(holder: LockHolder) -> tuple[int, bool, float, int]:
    return -holder.waiting, not holder.tables, -(holder.seconds or 0.0), holder.pid


def _roots(pid: int, by_pid: Mapping[int, Mapping[str, Any]]) -> set[int]:
    """Return the sessions at the head of the queue in which a session waits."""
    roots, seen, left = set[int](), {pid}, set(by_pid[pid]["blocked_by"])
    while left:
        each = left.pop()
        seen.add(each)
        further = set(by_pid[each]["blocked_by"]) if each in by_pid else set()
        if further:
            left |= further - seen
        else:
            roots.add(each)
    return roots


def _keeps(row: Mapping[str, Any]) -> bool:
    """Tell whether a session keeps a whole table, or rows, for longer than our own work takes."""
    if row["tables"] and (row["state"] is None or _age(row, "xact_start") >= _TABLE_SECONDS):
        return bool(row["backend"] in ("", "client backend"))
    if not row["rows"] or row["state"] is None:
        return False
    if row["application"].startswith(_OURS):
        return row["state"] != "active" and _age(row, "state_change") >= _ROWS_SECONDS
    return _age(row, "xact_start") >= _ROWS_SECONDS


def _is_at_work(holder: LockHolder) -> bool:
    ours = holder.application.startswith(_OURS) and holder.state == "active" and not holder.tables
    return ours and holder.waiting_seconds < _WORK_SECONDS


def _age(row: Mapping[str, Any], name: str) -> float:
    since, now = row[name], row["now"]
    return 0.0 if since is None else max(0.0, float((now - since).total_seconds()))


def _holder(pid: int, row: Mapping[str, Any] | None, waiters: _Waiters) -> LockHolder:
    if row is None:
        return LockHolder(pid, waiting=waiters.count, waiting_seconds=waiters.seconds)
    missing = "" if row["state"] is not None else f"`grant pg_read_all_stats to {row['reader']}` shows it"
    return LockHolder(
        pid,
        row["user_name"],
        row["application"],
        row["client"],
        row["state"],
        row["xact_start"],
        None if row["xact_start"] is None else _age(row, "xact_start"),
        tuple(sorted(row["tables"])),
        tuple(sorted(row["rows"])),
        waiters.count,
        waiters.seconds,
        missing,
    )
