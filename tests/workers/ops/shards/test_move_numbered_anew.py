"""A number whose accounts had another one once: before partitions were added, or before accounts went by murmur2."""

import asyncio
from collections.abc import AsyncIterator
from uuid import uuid4

import pytest

from infra.local.stack import LocalStack
from infra.postgres import connect_database
from infra.settings import Settings
from tests.conftest import Connect, _copy, finish
from tests.workers.ops.shards.servers import WHO, Servers, move, open_servers
from workers.ops.books.audit import audit
from workers.ops.books.audit_servers import audit_each_server
from workers.ops.prune import PrunePlan, prune

# Rows that a tick of number 1 of 4 has booked, of an account whose number is 5 of 8.
_BOOKED = """
select count(*) from journal as j inner join accounts as a on j.account = a.account
where j.worker = 'expiry' and j.source_partition = 1 and a.partition = 5
"""
# Of an account whose number is 5, the last send of number 1 has the offset that the first one had in the topic before.
_TWO_TOPICS = """
with sends as (
    select j.account, j.sequence, j.as_of, j.source_offset from journal as j inner join accounts as a using (account)
    where a.partition = 5 and j.source_partition = 1 and j.worker = 'send' and j.is_answer
),
first as (select * from sends order by source_offset limit 1),
ended as (
    insert into ended_topics (consumer_group, topic, partition, as_of, topic_id, next_offset, ended_at)
    select 'inmail-send', 'inmail.send-requests', 1, as_of, gen_random_uuid(), source_offset + 1, now() from first
)
update journal as j set source_offset = first.source_offset
from first
where (j.account, j.sequence) = (select account, sequence from sends order by source_offset desc limit 1)
"""


@pytest.fixture
async def numbered_anew(stack: LocalStack, decided: str, template: str) -> AsyncIterator[Servers]:
    """The first of two servers has a history of 4 partitions, to which 4 were added since."""
    first, second = [
        (await _copy(stack, each)).model_copy(update={"topic_partitions": 8}) for each in (decided, template)
    ]
    connection = await connect_database(first)
    await connection.execute("select number_accounts(8)")
    await connection.close()
    yield await open_servers(first, second)
    finish(first)
    finish(second)


async def _alarms(settings: Settings) -> list[tuple[str, str]]:
    found = await audit_each_server(settings, audit)
    assert not found.problems
    return [(finding.name, each.example.found) for finding, examples in found.findings() for each in examples]


@pytest.mark.parametrize("numbers", [[5], [1], [1, 5]])
async def test_ticks_that_stay_elsewhere_are_no_alarm(
    numbered_anew: Servers, connect: Connect, numbers: list[int]
) -> None:
    """The tick goes with its partition, and what it booked with the account."""
    first = await connect(numbered_anew.first)
    booked, before = await first.fetchval(_BOOKED), await _alarms(numbered_anew.first)

    await move(numbered_anew, numbers, "1")

    assert booked > 0
    assert [] == before == await _alarms(numbered_anew.first)


async def test_records_of_a_topic_that_has_ended_elsewhere_are_no_alarm(
    numbered_anew: Servers, connect: Connect
) -> None:
    """That it has, the server of its partition knows."""
    await (await connect(numbered_anew.first)).execute(_TWO_TOPICS)
    before = await _alarms(numbered_anew.first)

    await move(numbered_anew, [5], "1")

    assert [] == before == await _alarms(numbered_anew.first)


async def test_a_prune_keeps_a_tick_whose_rows_another_server_has(numbered_anew: Servers, connect: Connect) -> None:
    """The audit asks for it again once they are on one server."""
    first = await connect(numbered_anew.first)
    await move(numbered_anew, [5], "1")

    plan = PrunePlan(0, 0, uuid4(), dict.fromkeys(range(8), 1_000_000))
    done = await prune(numbered_anew.first, plan, who=WHO, stop=asyncio.Event())
    await move(numbered_anew, [5], "0")

    assert done.result["deleted"] > 0
    assert await first.fetchval(_BOOKED) > 0
    assert [] == await _alarms(numbered_anew.first)
