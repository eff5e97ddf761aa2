"""What was copied while the lanes went on is brought up to date when they have stopped."""

from collections.abc import Awaitable, Callable

from infra.postgres import Connection
from infra.settings import Settings
from tests.conftest import Connect
from tests.workers.history_books import decide_one_by_one
from tests.workers.ops.shards.servers import content_of, place_history
from workers.ops.shards.copy import copy_rows

# As producers that give their requests names of their own would have them.
_NAME = """
insert into original_ids (account, request_id, original)
select distinct j.account, j.request_id, convert_to('name of ' || j.request_id, 'UTF8') from journal as j
where j.is_answer
on conflict do nothing
"""
# Answers of accounts, each with rows from one sequence to another.
_ROWS = """
insert into journal (account, sequence, request_id, fingerprint, is_answer, worker, code, amount, balance_before,
    balance_after, as_of, source_partition, source_offset, recipient_id, relationship)
select a.account, n, gen_random_uuid(), 1, true, 'send', 'free', 0, 0, 0, now(), 1, n, 'r', 'direct'
from accounts as a, generate_series($2::bigint, $3::bigint) as n
where a.account_id = any($1::text[])
"""
_NAME_SECOND = """
insert into original_ids (account, request_id, original)
select j.account, j.request_id, convert_to('name of ' || j.request_id, 'UTF8') from journal as j where j.sequence = 2
"""
# The same requests once more, with other bodies.
_CONFLICTS = """
insert into journal (account, sequence, request_id, fingerprint, is_answer, worker, code, amount, balance_before,
    balance_after, as_of, source_partition, source_offset, recipient_id, relationship)
select j.account, j.sequence + 2, j.request_id, 2, true, 'send', 'key_conflict', 0, 0, 0, now(), 1, j.sequence + 2, 'r',
    'direct'
from journal as j;
update accounts set sequence = 4
"""
_READ = """
select coalesce(sum(seq_tup_read + idx_tup_fetch), 0) from pg_stat_user_tables
where relname in ('journal', 'original_ids')
"""
# A movement that names an earlier request, whose name was written with its first row.
_NAME_EARLIER = """
update journal as j set request_id = e.request_id
from (
    select distinct on (n.account) n.account, n.sequence, o.request_id
    from journal as n
    inner join unnest($1::bigint[], $2::bigint[]) as c (account, sequence) on c.account = n.account
    inner join journal as o on o.account = n.account and o.sequence <= c.sequence and o.is_answer
    where n.sequence > c.sequence and not n.is_answer
) as e
where j.account = e.account and j.sequence = e.sequence
"""
# How many names of requests with an answer of both times there are, by number: nobody knows whether they are new.
_ANSWERED_AGAIN = """
select a.partition, count(distinct (j.account, j.request_id))
from journal as j
inner join unnest($1::bigint[], $2::bigint[]) as c (account, sequence) on c.account = j.account
inner join accounts as a on a.account = j.account
where j.is_answer and j.sequence > c.sequence and exists (
    select from journal as e
    where e.account = j.account and e.request_id = j.request_id and e.is_answer and e.sequence <= c.sequence
)
group by a.partition
"""


async def test_a_second_copy_brings_only_what_is_new(
    settings: Settings, other_books: Callable[[], Awaitable[Settings]], connect: Connect
) -> None:
    """Accounts that changed, that are new, and that stayed; requests with rows of both times; and nothing twice."""
    other = await other_books()
    first, second = await connect(settings), await connect(other)
    placed = sorted(place_history(settings.topic_partitions), key=lambda each: each.record.time)
    half = len(placed) // 2
    await decide_one_by_one(settings, placed[:half])
    await first.execute(_NAME)
    before = {row["account"]: row["sequence"] for row in await first.fetch("select account, sequence from accounts")}
    total: list[int] = []
    copied = [await copy_rows(first, second, number, lambda _, __: None) for number in range(4)]
    half_way = [await content_of(settings, number) for number in range(4)]
    early = half_way == [await content_of(other, number) for number in range(4)]
    await first.execute("delete from lanes")  # the driver writes them once
    await decide_one_by_one(settings, placed[half:])
    earlier = await first.execute(_NAME_EARLIER, list(before), list(before.values()))
    await first.execute(_NAME)

    for number in range(4):
        told = [0]
        await copy_rows(first, second, number, lambda done, _, told=told: told.append(done))  # type: ignore[misc]
        total.append(told[-1])

    whole = [await content_of(settings, number) for number in range(4)]
    again = dict(await first.fetch(_ANSWERED_AGAIN, list(before), list(before.values())))
    new = [
        again.get(number, 0)
        + sum(
            len(rows) - (len(half_way[number][table]) if table in ("journal", "original_ids") else 0)
            for table, rows in whole[number].items()
        )
        for number in range(4)
    ]
    assert early
    assert whole == [await content_of(other, number) for number in range(4)]
    assert earlier != "UPDATE 0"
    assert sum(copied) > 0
    assert total == new


async def _answer(connection: Connection, accounts: list[str], first: int, last: int) -> None:
    await connection.execute(
        "insert into accounts (account_id, partition, sequence) select each, 1, $2 from unnest($1::text[]) as each"
        " on conflict (account_id) do update set sequence = excluded.sequence",
        accounts,
        last,
    )
    await connection.execute(_ROWS, accounts, first, last)
    await connection.execute(_NAME)


async def _rows_read(*connections: Connection) -> int:
    """Return how many rows of histories these servers have read so far."""
    total = 0
    for each in connections:
        await each.fetchval("select pg_stat_force_next_flush()")
        total += int(await each.fetchval(_READ))
    return total


async def test_a_second_copy_reads_no_history(
    settings: Settings, other_books: Callable[[], Awaitable[Settings]], connect: Connect
) -> None:
    """The lanes stand meanwhile: of accounts with a history it reads what is new."""
    first, second = await connect(settings), await connect(await other_books())
    accounts = [f"busy-{number}" for number in range(30)]
    await _answer(first, accounts, 1, 200)
    await copy_rows(first, second, 1, lambda _, __: None)
    await _answer(first, accounts[:1], 201, 210)
    before = await _rows_read(first, second)

    copied = await copy_rows(first, second, 1, lambda _, __: None)

    read = await _rows_read(first, second) - before
    assert copied == 30 + 10 + 10
    assert 0 < read < 300


async def test_a_second_copy_brings_the_names_of_requests_that_were_known_by_derived_ids(
    settings: Settings, other_books: Callable[[], Awaitable[Settings]], connect: Connect
) -> None:
    """A producer sent one by its derived id first: its name came with the second answer, a conflict."""
    first, second = await connect(settings), await connect(await other_books())
    await first.execute("insert into accounts (account_id, partition, sequence) values ('known', 1, 2)")
    await first.execute(_ROWS, ["known"], 1, 2)
    named = "select array_agg(sequence order by sequence) from original_ids join journal using (account, request_id)"
    await first.execute(_NAME_SECOND)
    await copy_rows(first, second, 1, lambda _, __: None)
    await first.execute(_CONFLICTS)
    await first.execute(_NAME)

    await copy_rows(first, second, 1, lambda _, __: None)

    assert [1, 2, 3, 4] == await first.fetchval(named)
    assert [1, 2, 3, 4] == await second.fetchval(named)
