"""An account's number: murmur2 of its id, in the books as in every client that partitions as the contract asks."""

import re
from pathlib import Path
from random import Random
from typing import Any
from uuid import uuid4

import pytest
from aiokafka.partitioner import murmur2

from infra.kafka.clients import partition_of
from infra.migrate import MIGRATIONS, migrate
from infra.postgres import Connection
from schemas.envelope import ID_PATTERN
from tests.ledger.book import Book
from workers.ledger.store import FUNCTIONS

DICE = Random(9)  # noqa: S311 - a workload
WORDS = ["", "a", "ab", "abc", "abcd", "alice", "Zoë", "日本語の口座", "🦄🦄", "x" * 999, "\u007f\u0080\u07ff\uffff"]
ID = re.compile(ID_PATTERN)
IDS = [f"a-{uuid4().hex}" for _ in range(200)]


async def test_murmur2_in_sql_is_that_of_the_clients(database: Connection) -> None:
    """For texts of every script, and for bytes of every length and value."""
    samples = [word.encode() for word in WORDS + IDS]
    samples += [DICE.randbytes(length) for length in range(65) for _ in range(20)]
    samples += [bytes([value]) * length for value in (0x00, 0x7F, 0x80, 0xFF) for length in range(9)]

    rows = await database.fetch(
        "select murmur2(bytes) from unnest($1::bytea[]) with ordinality as u (bytes, n) order by n", samples
    )

    assert [murmur2(sample) & 0x7FFFFFFF for sample in samples] == [row[0] for row in rows]


@pytest.mark.parametrize("partitions", [1, 4, 12, 1024])
async def test_an_account_has_the_number_of_the_partition_that_its_records_belong_to(
    database: Connection, partitions: int
) -> None:
    """Whatever partition its first record came in on: the books decide all as if on partition 0."""
    await database.execute("insert into partitioning (partitions) values ($1)", partitions)
    accounts = [word for word in [*WORDS, *IDS] if ID.fullmatch(word)]
    book = Book(database)
    await book.decide(*(book.promotion(1, account) for account in accounts))

    rows = await database.fetch(
        "select a.account_id, a.partition, l.partition as lot from accounts as a join lots as l using (account)"
    )

    wanted = {account: partition_of(account.encode(), partitions) for account in accounts}
    assert wanted == {row["account_id"]: row["partition"] for row in rows}
    assert wanted == {row["account_id"]: row["lot"] for row in rows}


# -- the migration ----------------------------------------------------------------------------------------------------


async def _old_books(database: Connection, path: Path) -> list[str]:
    """Empty the database and fill it as the version before did: every account where its first record was seen."""
    await database.execute("drop schema public cascade; create schema public")
    for file in MIGRATIONS.glob("*.sql"):
        if file.name < "0009":
            (path / file.name).write_text(file.read_text())
    await migrate(database, [], path)
    accounts = [f"a-{n}" for n in range(40)]
    await database.executemany(
        "insert into accounts (account_id, partition) values ($1, $2)",
        [(account, DICE.randrange(4)) for account in accounts],
    )
    await database.execute(
        "insert into lots (account, lot, partition, request_id, origin, priority, on_change, credit_back, granted,"
        " remaining, granted_at, expires_at, full_expires_at, cap_pending) select account, 1, partition,"
        " gen_random_uuid(), 'promotion', 0, 'keep', false, 1, 1, '2026-01-01', '2026-02-01', '2026-02-01', false"
        " from accounts"
    )
    return accounts


async def _numbers(database: Connection) -> list[Any]:
    rows = await database.fetch(
        "select a.account_id, a.partition, l.partition as lot from accounts as a join lots as l using (account)"
    )
    return sorted(map(tuple, rows))


async def test_a_migration_moves_accounts_to_their_own_number_and_says_how_many(
    database: Connection, tmp_path: Path
) -> None:
    """Each with its lots, by the partitions that the lanes of the books have."""
    accounts = await _old_books(database, tmp_path)
    await database.execute(
        "insert into lanes (consumer_group, topic, partition, epoch)"
        " select 'inmail-send', 'inmail.send-requests', n, 1 from generate_series(0, 3) as n"
    )
    wanted = [(account, *[partition_of(account.encode(), 4)] * 2) for account in sorted(accounts)]
    wrong = sum(before != after for before, after in zip(await _numbers(database), wanted, strict=True))

    done = await migrate(database, [FUNCTIONS])

    assert wrong
    assert wanted == await _numbers(database)
    (notice,) = done.notices
    assert notice.startswith(f"{wrong} of 40 accounts moved to their own number, by 4 partitions")
    assert 4 == await database.fetchval("select partitions from partitioning")
    assert () == (await migrate(database, [FUNCTIONS])).notices


async def test_books_that_no_lane_has_opened_are_left_as_they_are(database: Connection, tmp_path: Path) -> None:
    """Nobody knows yet how many partitions there are: `inmail topics apply` numbers them."""
    await _old_books(database, tmp_path)
    before = await _numbers(database)

    done = await migrate(database, [FUNCTIONS])

    assert ((), before) == (done.notices, await _numbers(database))
    assert None is await database.fetchval("select partitions from partitioning")
