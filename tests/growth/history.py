"""Books of any size, made in bulk: the rows that the ledger's functions would have written, by `insert ... select`.

Every account lives the same story, moved by milliseconds: in each of four quarters a promotion, five sends (one of them
free, one of them the one after which few credits are left), the announcement of the lot's end and its expiry, which
leaves nothing; then a promotion that lives. `test_history.py` plays it through the ledger's own functions and compares
every table.
"""

from collections.abc import Callable
from datetime import datetime, timedelta
from hashlib import md5
from typing import Final, NamedTuple
from uuid import UUID

from infra.postgres import Connection
from schemas.billing import PromotionGranted
from schemas.catalogue import BILLING_EVENTS, EXPIRY_TICKS, SEND_REQUESTS, fingerprint
from schemas.sends import SendRequested
from schemas.ticks import ExpiryTick, ExpiryTickData
from workers.topology import GROUP_OF

__all__ = ["LOTS_EACH", "QUARTERS", "ROWS_EACH", "Story", "account_id", "make_books", "tick_of"]

QUARTERS: Final = 4
SENDS: Final = 5  # a quarter
FREE: Final = 4  # which of them goes to a connection
CREDITS: Final = 6  # of a lot that ends: four are spent, which leaves few, and two expire
LIVE_CREDITS: Final = 100
ROWS_EACH: Final = QUARTERS * 10 + 1
LOTS_EACH: Final = QUARTERS + 1

_RECIPIENTS = 1000
_SOURCE = "/growth"
_ANY_ID = UUID(int=0)

SEND_EVERY: Final = timedelta(days=10)
_FIRST = timedelta(milliseconds=1)  # the rank of the first account, counted from 1
_SECONDS = 7200.0  # for one statement


class Story(NamedTuple):
    """When it began, for how many accounts, by how many partitions, in ticks of so many lots a step."""

    began: datetime
    accounts: int
    partitions: int
    step_lots: int

    def quarter(self, number: int) -> datetime:
        """Return when a quarter begins; the one after the last is the present."""
        return self.began + timedelta(days=91) * number


def account_id(number: int) -> str:
    """Return the id of an account, from 1."""
    return f"member-{number - 1:08}"


def promotion(quarter: int, **fields: object) -> PromotionGranted:
    """Return the promotion of a quarter."""
    credits_ = CREDITS if quarter < QUARTERS else LIVE_CREDITS
    data = {"promotion_id": f"quarter-{quarter}", "credits": credits_}
    return PromotionGranted.create(source=_SOURCE, data=data, **fields)


def send(to: str, *, free: bool, **fields: object) -> SendRequested:
    """Return a send to a recipient."""
    data = {"recipient_id": to, "relationship": "connection" if free else "none"}
    return SendRequested.create(source=_SOURCE, data=data, **fields)


def tick_of(at: datetime) -> ExpiryTick:
    """Return the tick of an instant, the same for every partition."""
    return ExpiryTick.create(
        id=UUID(int=int(at.timestamp() * 1000) << 80 | 7 << 76 | 8 << 60),
        source=_SOURCE,
        time=at,
        data=ExpiryTickData(as_of=at),
    )


def ticks_at(story: Story, quarter: int) -> tuple[datetime, datetime]:
    """Return when a quarter's two ticks are: one that announces its lots' end, and one that books it."""
    return story.quarter(quarter) + timedelta(days=84), story.quarter(quarter) + timedelta(days=90, hours=12)


def request_id(account: str, at: datetime, slot: str) -> UUID:
    """Return the id of an account's request at an instant: as a UUIDv7, it grows with time. `_REQUEST` is the same."""
    digest = md5(f"{account}{slot}".encode(), usedforsecurity=False).hexdigest()
    return UUID(f"{round(at.timestamp() * 1000):012x}7{digest[:3]}8{digest[3:18]}")


def grant_slot(quarter: int) -> str:
    """Return what tells a quarter's promotion from an account's other requests."""
    return f"/g{quarter}"


def send_slot(quarter: int, number: int) -> str:
    """Return what tells one of a quarter's sends from an account's other requests."""
    return f"/s{quarter}.{number}"


_REQUEST = """(lpad(to_hex(round(extract(epoch from {at}) * 1000)::bigint), 12, '0') || '7'
|| substr(md5(m.account_id || '{slot}'), 1, 3) || '8' || substr(md5(m.account_id || '{slot}'), 4, 15))::uuid"""

# Sequence, lots and level are those of the story's end.
_ACCOUNTS = """
insert into accounts (account_id, partition, sequence, newest_lot, level, paid)
select x.id, account_number(x.id, $2), $3, $4, 0, 1
from (select 'member-' || lpad((n - 1)::text, 8, '0') as id from generate_series(1, $1::integer) as n) as x
order by x.id
"""
# Each account with its rank among those of its partition, in the order in which a lane reads them.
_MADE = """
create unlogged table made as
select a.account, a.partition, a.account_id, (a.rank - 1)::integer as rank,
    (count(*) over (partition by a.partition))::integer as n, a.rank * interval '1 ms' as late
from (select *, row_number() over (partition by partition order by account) as rank from accounts) as a
order by a.account
"""
_INTO = """
insert into journal (
    account, sequence, request_id, fingerprint, is_answer, worker, code, amount, lot, lot_expires_at, balance_before,
    balance_after, as_of, source_partition, source_offset, recipient_id, relationship, details
)
"""
_LIFE = "interval '2160 hours'"
_GRANTS = (
    _INTO
    + """
select m.account, {sequence}, {request}, $2, true, 'billing', 'granted', {credits}, {lot}, {at} + {life}, 0, {credits},
    {at}, m.partition, {quarter}::bigint * m.n + m.rank, null, null,
    jsonb_build_object('origin', 'promotion', 'source_id', 'quarter-{quarter}', 'granted_at', {at})
from made as m
order by m.account
"""
)
# With the notice after it, where it leaves few credits.
_SENDS = (
    _INTO
    + """
select m.account, {sequence} + o.notice, {request}, ($2::bigint[])[(m.account + {slot_number}) % {recipients} + 1],
    o.notice = 0, 'send', case o.notice when 1 then 'low' else '{code}' end, -{cost} * (1 - o.notice),
    case when {cost} = 1 and o.notice = 0 then {lot} end,
    case when {cost} = 1 and o.notice = 0 then {granted} + {life} end,
    {before} - {cost} * o.notice, {before} - {cost}, {at}, m.partition, {slot_number}::bigint * m.n + m.rank,
    case o.notice when 0 then 'recipient-' || lpad(((m.account + {slot_number}) % {recipients})::text, 4, '0') end,
    case o.notice when 0 then '{relationship}' end,
    case o.notice when 1 then jsonb_build_object('threshold', 2) end
from made as m
cross join generate_series(0, {notices}) as o (notice)
order by m.account, o.notice
"""
)
_SOON = (
    _INTO
    + """
select m.account, {sequence}, $2, $3, false, 'expiry', 'expiring_soon', 0, {lot}, {granted} + {life}, 2, 2, $4,
    m.partition, {offset}, null, null, jsonb_build_object('credits', 2)
from made as m
order by m.partition, m.account
"""
)
_EXPIRED = (
    _INTO
    + """
select m.account, {sequence} + o.notice, $2, $3, false, 'expiry',
    case o.notice when 0 then 'expired' else 'exhausted' end,
    case o.notice when 0 then -2 else 0 end, case o.notice when 0 then {lot} end,
    case o.notice when 0 then {granted} + {life} end, 0, 0, $4, m.partition, {offset}, null, null, null
from made as m
cross join generate_series(0, 1) as o (notice)
order by m.partition, m.account, o.notice
"""
)
_TICKS = """
insert into ticks (
    partition, request_id, fingerprint, code, source_offset, as_of, horizon, lots, credits, complete, steps, {done}
)
select m.partition, $2, $3, 'booked', {offset}, $4, $4, {lots}, {credits}, true, max(m.n) / $5 + 1,
    row(max($1::timestamptz + m.late) + {life}, max(m.account), {lot})::lot_place
from made as m
group by m.partition
"""
_LOTS = """
insert into lots (
    account, lot, partition, request_id, origin, priority, on_change, credit_back, granted, remaining, granted_at,
    expires_at, full_expires_at, open, cap_pending, warned, announced_ends
)
select m.account, {lot}, m.partition, {request}, 'promotion', 0, 'keep', false, {credits}, {remaining}, {at},
    {at} + {life}, {at} + {life}, {open}, false, not {open},
    case when {open} then '{{}}'::timestamptz[] else array[{at} + {life}] end
from made as m
order by m.account
"""
_PAID = "update accounts as a set paid_from = $1::timestamptz + m.late from made as m where a.account = m.account"
# As if the lanes had read all of it.
_LANES = """
insert into lanes (consumer_group, topic, partition, epoch, next_offset, as_of, owner_epoch)
select 'inmail-' || j.worker, x.topic, j.source_partition, 1, max(j.source_offset) + 1, max(j.as_of), 1
from journal as j
inner join unnest($1::text[], $2::text[]) as x (consumer_group, topic) on x.consumer_group = 'inmail-' || j.worker
group by j.worker, x.topic, j.source_partition
"""


def recipient(account: int, slot_number: int) -> str:
    """Return whom an account's send is for."""
    return f"recipient-{(account + slot_number) % _RECIPIENTS:04}"


async def make_books(connection: Connection, story: Story, report: Callable[[str], None]) -> None:
    """Fill a migrated, empty database in bulk. Indexes of the journal and of lots are built after their rows."""
    await connection.execute("insert into partitioning (partitions) values ($1)", story.partitions)
    await connection.execute(_ACCOUNTS, story.accounts, story.partitions, ROWS_EACH, LOTS_EACH, timeout=_SECONDS)
    await connection.execute(_MADE, timeout=_SECONDS)
    indexes = await _drop_indexes(connection)
    for quarter in range(QUARTERS + 1):
        report(f"quarter {quarter + 1} of {QUARTERS + 1}")
        await _write_quarter(connection, story, quarter)
    last_paid = story.quarter(QUARTERS - 1) + SEND_EVERY * SENDS
    await connection.execute(_PAID, last_paid - _FIRST, timeout=_SECONDS)
    for name, statement in indexes:
        report(f"index {name}")
        await connection.execute(statement, timeout=_SECONDS)
    await write_lanes(connection)
    await connection.execute("drop table made")
    report("vacuum analyze")
    await connection.execute("vacuum (analyze, freeze)", timeout=_SECONDS)
    await connection.execute("checkpoint", timeout=_SECONDS)


async def write_lanes(connection: Connection) -> None:
    """Write the lanes' rows as if they had read all that the journal has."""
    topics = (BILLING_EVENTS, EXPIRY_TICKS, SEND_REQUESTS)
    await connection.execute(_LANES, [GROUP_OF[topic] for topic in topics], list(topics), timeout=_SECONDS)


async def _write_quarter(connection: Connection, story: Story, quarter: int) -> None:
    start, lot, first = story.quarter(quarter) - _FIRST, quarter + 1, quarter * 10 + 1
    live = quarter == QUARTERS
    credits_ = LIVE_CREDITS if live else CREDITS
    at = "($1::timestamptz + m.late)"
    words = {
        "life": _LIFE, "lot": lot, "quarter": quarter, "recipients": _RECIPIENTS, "at": at, "credits": credits_,
        "granted": at, "remaining": credits_ if live else 0, "open": str(live).lower(),
        "request": _REQUEST.format(at=at, slot=grant_slot(quarter)),
    }  # fmt: skip
    granted = fingerprint(promotion(quarter, id=_ANY_ID, subject="x", time=story.began))
    await connection.execute(_GRANTS.format(sequence=first, **words), start, granted, timeout=_SECONDS)
    await connection.execute(_LOTS.format(**words), start, timeout=_SECONDS)
    if live:
        return
    before = CREDITS
    for number in range(1, SENDS + 1):
        free = number == FREE
        slot = quarter * SENDS + number - 1
        prints = [
            fingerprint(send(recipient(each, 0), free=free, id=_ANY_ID, subject="x", time=story.began))
            for each in range(_RECIPIENTS)
        ]
        of_send = {
            "sequence": first + number,
            "at": f"($1::timestamptz + interval '{number * SEND_EVERY.days} days' + m.late)",
            "slot_number": slot, "code": "free" if free else "charged", "cost": int(not free), "before": before,
            "relationship": "connection" if free else "none", "notices": int(number == SENDS),
        }  # fmt: skip
        of_send["request"] = _REQUEST.format(at=of_send["at"], slot=send_slot(quarter, number))
        await connection.execute(_SENDS.format(**words | of_send), start, prints, timeout=_SECONDS)
        before -= int(not free)
    for statement, sequence, each, lots, lost, done in (
        (_SOON, first + 7, 0, "0", "0", "announced"),
        (_EXPIRED, first + 8, 1, "max(m.n)", "2 * max(m.n)", "ended"),
    ):
        tick = tick_of(ticks_at(story, quarter)[each])
        of_tick = words | {
            "sequence": sequence,
            "offset": 2 * quarter + each,
            "lots": lots,
            "credits": lost,
            "done": done,
        }
        cause = (start, tick.id, fingerprint(tick), tick.time)
        await connection.execute(statement.format(**of_tick), *cause, timeout=_SECONDS)
        await connection.execute(_TICKS.format(**of_tick), *cause, story.step_lots, timeout=_SECONDS)


async def _drop_indexes(connection: Connection) -> list[tuple[str, str]]:
    """Drop the indexes of the journal and of lots; return the statements that build them as they were."""
    rows = await connection.fetch(
        "select i.indexrelid::regclass::text as name, i.indrelid::regclass::text as of,"
        " pg_get_indexdef(i.indexrelid) as built, pg_get_constraintdef(c.oid) as kept"
        " from pg_index as i left join pg_constraint as c on c.conindid = i.indexrelid"
        " and c.contype = 'p' where i.indrelid in ('journal'::regclass, 'lots'::regclass) order by 1"
    )
    statements = []
    for row in rows:
        if row["kept"] is None:
            await connection.execute(f"drop index {row['name']}")
            # Of a table in parts: built on each of them, too.
            statements.append((row["name"], row["built"].replace(" ON ONLY ", " ON ")))
        else:
            await connection.execute(f"alter table {row['of']} drop constraint {row['name']}")
            statements.append((row["name"], f"alter table {row['of']} add constraint {row['name']} {row['kept']}"))
    return statements
