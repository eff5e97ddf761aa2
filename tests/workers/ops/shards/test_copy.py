"""What was copied while the lanes went on is brought up to date when they have stopped."""

from collections.abc import Awaitable, Callable

from infra.settings import Settings
from tests.conftest import Connect
from tests.workers.history_books import decide_one_by_one
from tests.workers.ops.shards.servers import content_of, place_history
from workers.ops.shards.copy import copy_rows

# As producers that give their requests names of their own would have them.
_NAME = """
insert into original_ids (account, request_id, original)
select distinct j.account, j.request_id, convert_to('name of ' || j.request_id, 'UTF8') from journal as j
on conflict do nothing
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
    new = [
        sum(
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
