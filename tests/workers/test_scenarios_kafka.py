"""Every scenario table holds for the workers: records in Kafka, real lanes, and one event for each row they book."""

import asyncio
import json
from collections import Counter
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack
from datetime import UTC, datetime, timedelta
from typing import Any
from uuid import UUID

import pytest

from infra.kafka.clients import create_producer, partitions_of, reader
from infra.local.stack import LocalStack
from infra.postgres import connect_database, create_pool
from infra.settings import RecordTime, Settings, load_settings
from schemas.catalogue import CREDIT_EVENTS, DEAD_LETTERS, SEND_RESULTS
from tests.conftest import HASTY
from tests.ledger.scenario import BASE_CATALOGUE, FOLDER, Scenario, read_file
from tests.ledger.scenario_events import TICK, Input
from tests.ledger.scenario_run import run
from tests.whole import ALL
from tests.workers.scenario_kafka import CYCLE, ByPartition, KafkaBooks, why_not
from tests.workers.wire import settled, working
from workers.jobs.billing import BillingJob
from workers.jobs.expiry import ExpiryJob
from workers.jobs.send import SendJob
from workers.ledger.plans import load_catalogue
from workers.local.up import prepare_stack

PARTITIONS = 24 if ALL else 6
START = datetime(2030, 1, 1, tzinfo=UTC)  # of all tables
OUTLIVED = timedelta(days=460)  # an annual term's last lot may end so long after a table's last line
CALENDAR_ENDS = datetime(2099, 1, 1, tzinfo=UTC)  # 2100 is no leap year
SCENARIOS = [scenario for path in sorted(FOLDER.glob("*.txt")) for scenario in read_file(path)]
FIT = [scenario for scenario in SCENARIOS if why_not(scenario) is None]


def _said(scenario: Scenario) -> set[tuple[str, ...]]:
    """Return what a scenario has: each kind of event with each code that it books, first or again."""
    return {
        (input_.type, row.code, "again" if row.repeat else "first")
        for step in scenario.steps
        for input_, rows in zip(step.inputs, step.rows, strict=True)
        for row in rows
    }


def _few(scenarios: list[Scenario]) -> list[Scenario]:
    """Return some scenarios that together have all that these have, each time the one that adds most."""
    said = [(each, _said(each)) for each in scenarios]
    left = set().union(*(each for _, each in said))
    found = []
    while left:
        best, its = max(said, key=lambda each: len(each[1] & left))
        found.append(best)
        left -= its
    return found


# That the rules are kept, each table shows on Postgres; here, that each kind of answer comes through the lanes.
PLAYED = FIT if ALL else _few(FIT)


@pytest.fixture(scope="module")
async def system() -> AsyncIterator[Settings]:
    """A stack of its own, whose topics take the time that a record says."""
    with LocalStack(postgres_settings=HASTY) as stack:
        settings = load_settings(
            kafka_bootstrap_servers=stack.kafka_bootstrap_servers,
            database_url=stack.database_url,
            topic_partitions=PARTITIONS,
            topic_record_time=RecordTime.CREATE,
            tick_grace_seconds=0,
        )
        await prepare_stack(settings)
        yield settings


@pytest.mark.timeout(300)
async def test_the_workers_do_what_the_tables_say_and_publish_each_row_once(system: Settings) -> None:
    """All rules through the lanes: rows and balances line by line; then the topics: an event a row, nothing else."""
    catalogues: dict[int, Any] = {}
    default = load_catalogue()
    async with AsyncExitStack() as clients:
        producer = await clients.enter_async_context(create_producer(system, "scenarios"))
        pool = await clients.enter_async_context(create_pool(system.model_copy(update={"database_connections": 20})))
        jobs = (
            ByPartition(SendJob, catalogues, default),
            ByPartition(BillingJob, catalogues, default),
            ByPartition(lambda catalogue: ExpiryJob(catalogue, system), catalogues, default),
        )
        played: list[KafkaBooks] = []

        async def play(partition: int, chain: list[tuple[int, Scenario]]) -> None:
            async with pool.acquire() as connection:
                for cycle, scenario in chain:
                    books = KafkaBooks(connection, producer, catalogues, (partition, cycle), PARTITIONS)
                    played.append(books)
                    await books.use(BASE_CATALOGUE)
                    await books.tick(_clearing(), None)
                    await run(scenario, books)

        async with working(system, *jobs), asyncio.TaskGroup() as group:  # which ends the others when one fails
            for chain in _chains(PLAYED).items():
                group.create_task(play(*chain))
    await settled(system)

    assert len(SCENARIOS) * 0.9 < len(FIT)
    assert len(PLAYED) == len(played)
    await _check_topics(system, played)


def _chains(scenarios: list[Scenario]) -> dict[int, list[tuple[int, Scenario]]]:
    """Deal scenarios to partitions, each with the number of four-year cycles by which it is moved."""
    chains: dict[int, list[tuple[int, Scenario]]] = {partition: [] for partition in range(PARTITIONS)}
    used = dict.fromkeys(chains, 0)
    for scenario in scenarios:
        partition = min(used, key=lambda each: used[each])
        chains[partition].append((used[partition], scenario))
        last = max((input_.as_of for step in scenario.steps for input_ in step.inputs), default=START)
        used[partition] += -(-(last - START + OUTLIVED) // CYCLE)
    assert START + max(used.values()) * CYCLE < CALENDAR_ENDS
    return chains


def _clearing() -> Input:
    """Return a tick just before a scenario begins, which books what the one before it in the partition left."""
    just_before = START - timedelta(milliseconds=1)
    return Input(TICK, "", UUID(int=1), {"as_of": just_before}, just_before)


async def _check_topics(system: Settings, played: list[KafkaBooks]) -> None:
    """Compare the topics with the books: each row is one event, each repeat its first answer, nothing else is there."""
    bodies = [json.loads(value) for value in await _read_all(system, SEND_RESULTS, CREDIT_EVENTS)]
    connection = await connect_database(system)
    rows = await connection.fetch("select account_id, j.sequence from journal as j join accounts using (account)")
    await connection.close()
    of_accounts = [body for body in bodies if "subject" in body]
    first = Counter((b["subject"], b["data"]["sequence"]) for b in of_accounts if not b["data"]["repeat"])
    ticks = len(bodies) - len(of_accounts)
    repeats = sum(body["data"]["repeat"] for body in bodies)

    assert Counter(map(tuple, rows)) == first
    assert sum(books.repeats for books in played) == repeats
    assert sum(books.ticks for books in played) == ticks
    assert sum(books.letters for books in played) == len(await _read_all(system, DEAD_LETTERS))


async def _read_all(system: Settings, *topics: str) -> list[bytes]:
    """Return the values of all committed records."""
    places = [tp for topic in topics for tp in partitions_of(topic, PARTITIONS)]
    found: list[bytes] = []
    async with reader(system) as consumer:
        consumer.assign(places)
        await consumer.seek_to_beginning(*places)
        end = await consumer.end_offsets(places)
        while any([await consumer.position(tp) < end[tp] for tp in places]):
            for records in (await consumer.getmany(timeout_ms=200)).values():
                found += [record.value for record in records]
    return found
