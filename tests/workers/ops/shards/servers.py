"""Two servers of one set of books: the first has decided a simulated history, the second is prepared and empty."""

import asyncio
from collections import Counter
from dataclasses import dataclass
from typing import Any
from uuid import uuid4

import asyncpg
from pydantic import SecretStr

from infra.kafka.clients import partition_of
from infra.postgres import Connection, connect_database
from infra.settings import Settings
from infra.shards import Shard, read_shard
from tests.workers.history_books import Placed, decide_one_by_one
from workers.ops.operations import OngoingOperation, Operator
from workers.ops.shards.add import add_server, plan_add
from workers.ops.shards.move import MoveReport, move_numbers
from workers.ops.shards.move_plan import plan_moves
from workers.ops.shards.tables import MOVED, columns_of, rows_of
from workers.simulate.history import simulate_records
from workers.simulate.population import Population

__all__ = [
    "WHO",
    "Servers",
    "both_servers",
    "content_of",
    "copy_database",
    "decide_history",
    "open_servers",
    "place_history",
    "shards_of",
    "with_shards",
]

WHO = Operator("ops-1", "a test")
_POPULATION = Population(
    accounts=9, days=95, sends_per_day=0.15, turbulence=8, duplicates=0.03, conflicts=0.02, tick_hours=300, annual=0.1
)


@dataclass(frozen=True, slots=True)
class Servers:
    """Settings for each of two servers; both name the two in INMAIL_DATABASE_SHARDS."""

    first: Settings
    second: Settings

    @property
    def second_url(self) -> str:
        """The address of the second."""
        return self.second.database_url.get_secret_value()

    @property
    def first_url(self) -> str:
        """The address of the first."""
        return self.first.database_url.get_secret_value()


def place_history(partitions: int) -> list[Placed]:
    """Return the records of a simulated history, with where Kafka would have them."""
    offsets: Counter[tuple[str, int]] = Counter()
    placed = []
    for record in simulate_records(_POPULATION):
        for partition in range(partitions) if record.key is None else [partition_of(record.key, partitions)]:
            placed.append(Placed(record, partition, offsets[record.topic, partition]))
            offsets[record.topic, partition] += 1
    return placed


async def decide_history(settings: Settings) -> None:
    """Decide a simulated history, as if Kafka had it; its operators decided about clocks, and made audits."""
    await decide_one_by_one(settings, place_history(settings.topic_partitions))
    connection = await connect_database(settings)
    await connection.execute(_BESIDE)
    await connection.close()


# What a history leaves empty. A lane of 0.1.0, one that was given back, and one that is worked.
_BESIDE = """
insert into operations (verb, actor, reason, arguments, plan, started_at, noted_at, ended_at, status, result)
values ('clock accept', 'ops-1', 'it was right', '{}', '{"a": 1}', now(), now(), now(), 'done', '{}'),
    ('replay reemit', 'ops-2', 'not of a number', '{}', '{}', now(), now(), now(), 'done', '{}');
insert into clock_decisions (operation, topic, partition, kind, first_offset, next_offset, time)
select 1, 'inmail.send-requests', n, 'accept', 5, 6, now() from generate_series(0, 3) as n;
insert into clock_set_backs
select 'inmail-send', 'inmail.send-requests', n, 5, now(), now() - interval '1 day' from generate_series(0, 3) as n;
insert into decided_ahead
select 'inmail-send', n, 'inmail-billing', 3, 4, 5, now() from generate_series(0, 3) as n;
insert into misplaced_records
select 'inmail.send-requests', n, '/a "source"', 3, now(), now(), 4 from generate_series(0, 3) as n;
insert into ended_topics
select 'inmail-send', 'inmail.send-requests', n, '1999-01-01Z', gen_random_uuid(), 7, null, now()
from generate_series(0, 3) as n;
insert into original_ids
select account, request_id, convert_to(E'it\\t''s\\\\n' || request_id, 'UTF8') from journal where code = 'charged';
insert into earlier_rows select account, 0 from accounts;
update lanes set published = next_offset;
update lanes set owner_epoch = 1 where consumer_group = 'inmail-send';
update lanes set owner_epoch = 1, owner = 'inmail-billing.one' where consumer_group = 'inmail-billing';
insert into audits (kind, taken_at, whole_at, seconds, rows_read, lanes, totals)
values ('whole', now(), now(), 1, 1, '[]', '{}');
"""


async def copy_database(settings: Settings, template: str) -> Settings:
    """Return settings for a new database of the same server, with what another one has."""
    base, _, _ = settings.database_url.get_secret_value().rpartition("/")
    name = f"shard_{uuid4().hex[:8]}"
    admin = await asyncpg.connect(f"{base}/postgres")
    await admin.execute(f"create database {name} template {template} strategy file_copy")
    await admin.close()
    return settings.model_copy(update={"database_url": SecretStr(f"{base}/{name}")})


def with_shards(settings: Settings, *urls: str) -> Settings:
    """Return the settings with several servers."""
    return settings.model_copy(update={"database_shards": SecretStr(" ".join(urls))})


async def open_servers(first: Settings, second: Settings) -> Servers:
    """Prepare the second server, and return both as a process that knows the two."""
    await add_server(first, await plan_add(first, second.database_url.get_secret_value()), WHO)
    return both_servers(first, second)


def both_servers(first: Settings, second: Settings) -> Servers:
    """Return two servers that were prepared as a process that knows the two."""
    url, other = first.database_url.get_secret_value(), second.database_url.get_secret_value()
    return Servers(with_shards(first, url, other), with_shards(second, url, other))


async def shards_of(servers: Servers) -> tuple[Shard, Shard]:
    """Return what both servers say that they hold."""
    found = []
    for each in (servers.first, servers.second):
        connection = await connect_database(each)
        found.append(await read_shard(connection))
        await connection.close()
    return found[0], found[1]


async def content_of(settings: Settings, number: int) -> dict[str, list[Any]]:
    """Return every row of a number that a server has, by table, row by row."""
    connection = await connect_database(settings)
    found = {table: await _rows(connection, table, number) for table in MOVED}
    await connection.close()
    return found


async def _rows(connection: Connection, table: str, number: int) -> list[str]:
    columns = await columns_of(connection, table)
    query = f"select x::text as line from ({rows_of(table, columns, number)}) as x order by 1"  # noqa: S608
    return [row["line"] for row in await connection.fetch(query)]


async def move(servers: Servers, numbers: list[int], to: str, report: MoveReport | None = None) -> OngoingOperation:
    """Plan and move numbers as an operator does."""
    plan = await plan_moves(servers.first, numbers, to)
    return await move_numbers(servers.first, plan, WHO, keep=False, stop=asyncio.Event(), report=report)
