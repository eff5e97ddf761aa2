"""The audit of what is new finds what the whole audit finds in new rows, and nothing in sound books."""

import asyncio
import json
import os
from collections.abc import Sequence
from dataclasses import asdict
from datetime import datetime, timedelta
from typing import Any
from uuid import uuid4

import click.testing
import pytest
from typer.testing import CliRunner

from infra.clock import utc_now
from infra.postgres import Connection
from infra.settings import Settings
from schemas.billing import PromotionGranted
from schemas.catalogue import fingerprint
from tests.conftest import Connect
from tests.ledger.scenario import FOLDER, read_file
from tests.ledger.scenario_events import Input
from tests.ledger.scenario_run import play_unchecked
from tests.ledger.scenario_sql import SqlBooks
from tests.whole import whole, whole_but
from tests.workers.books_sound import all_is_read, write_story
from tests.workers.ops.books.test_audit_finds import CORRUPTIONS, LIFT_EVERYTHING, Corruption, corrupt
from workers.cli import app
from workers.commands.running import Exit
from workers.jobs.billing import BillingJob
from workers.jobs.job import Batch
from workers.ledger.model import Request
from workers.ledger.plans import load_catalogue
from workers.ops.books.audit import Audit, audit, audit_books
from workers.ops.books.audit_mark import LOCK, AuditUnderWayError, read_audited_at, save_whole_mark
from workers.ops.books.audit_new import audit_and_mark, audit_new, audit_new_books


async def _mark(connection: Connection) -> None:
    found = await audit_books(connection)
    assert found.passed
    await save_whole_mark(connection, found, 0.0)


def _places(found: Audit) -> dict[str, list[tuple[str, str]]]:
    return {each.name: [(example.account, example.place) for example in each.examples] for each in found.failures()}


@pytest.fixture(scope="module")
async def story(shared: Connection) -> Connection:
    """A database with the story in its books, all of it after the mark."""
    await _write_story_after_mark(shared)
    return shared


@pytest.fixture(scope="module")
async def unprotected_story(other_shared: Connection) -> Connection:
    """One more, without constraints and keys."""
    await _write_story_after_mark(other_shared)
    await other_shared.execute(LIFT_EVERYTHING)
    return other_shared


async def _write_story_after_mark(connection: Connection) -> None:
    async with connection.transaction():
        await _mark(connection)
    await write_story(connection)


async def test_a_sound_story_raises_no_suspicion_and_has_the_whole_audits_totals(books: Connection) -> None:
    """Or a nightly audit would examine every account, and what it finds below would prove little."""
    found = await audit_new_books(books)

    whole = await audit_books(books)
    assert found.new is not None
    assert (found.passed, found.new.examined, found.new.rows) == (True, 0, whole.totals.rows)
    assert (found.totals, [each.name for each in found.findings]) == (
        whole.totals,
        [*(each.name for each in whole.findings), "account_reaches_its_mark"],
    )


def _one_of_each_check() -> list[Any]:
    """Return the corruptions as a test's cases; `make test` has the first of those that one check finds."""
    first = {each.check: each for each in reversed(CORRUPTIONS)}
    return [each if each is first[each.check] else whole(each) for each in CORRUPTIONS]


@pytest.mark.parametrize("corruption", _one_of_each_check(), ids=lambda each: f"{each.check} {each.place}")
async def test_a_corruption_of_new_rows_is_found_by_its_check_and_in_its_place(
    unprotected: Connection, corruption: Corruption
) -> None:
    """All that the whole audit is known to find, it finds where the rows are new, and does not move the mark."""
    expected = await corrupt(unprotected, corruption)

    found = await audit_new_books(unprotected)

    assert not found.passed
    assert expected in _places(found).get(corruption.check, []), _places(found)
    assert await unprotected.fetchval("select count(*) from audits") == 1


class _AuditedBooks(SqlBooks):
    """Books of which an audit of what is new is made after every so many batches."""

    def __init__(self, connection: Connection, every: int) -> None:
        super().__init__(connection)
        self.every, self.batches = every, 0
        self.suspected = 0
        self.alarms: list[dict[str, list[tuple[str, str]]]] = []

    async def decide(self, inputs: Sequence[Input]) -> list[list[dict[str, Any]]]:
        """Decide a batch, and audit what is new."""
        rows = await super().decide(inputs)
        self.batches += 1
        if self.batches % self.every == 0:
            await self.audit()
        return rows

    async def tick(self, tick: Input, read_to: datetime | None) -> list[dict[str, Any]]:
        """Decide a tick, and audit what is new."""
        rows = await super().tick(tick, read_to)
        self.batches += 1
        if self.batches % self.every == 0:
            await self.audit()
        return rows

    async def audit(self) -> None:
        """Audit what is new, and note what was found or suspected."""
        await self.connection.execute("delete from lanes")
        await all_is_read(self.connection)
        found = await audit_new_books(self.connection)
        assert found.new is not None
        self.suspected += found.new.examined
        if not found.passed:
            self.alarms.append(_places(found))


_TABLES = sorted(path.stem for path in FOLDER.glob("*.txt"))
# In which lots end and change the most.
_SOME_TABLES = ("allotments", "cancels", "caps", "expiry", "plan_changes", "reversals")


@pytest.mark.parametrize("table", whole_but(_TABLES, *_SOME_TABLES))
async def test_no_scenario_alarms_it_whatever_was_audited_before(database: Connection, table: str) -> None:
    """Audited again and again, tables of the ledger's tests give no finding, and the whole audit's totals.

    Nor a suspicion: `examined` stays 0. `SCENARIOS=all` plays all of each file, audited after every batch.
    """
    count, every = (None, 1) if os.environ.get("SCENARIOS") == "all" else (1, 8)
    for scenario in read_file(FOLDER / f"{table}.txt")[:count]:
        transaction = database.transaction()
        await transaction.start()
        await _mark(database)
        books = _AuditedBooks(database, every)
        await play_unchecked(scenario, books)
        await books.audit()
        newest = await database.fetchval("select totals from audits order by audit desc limit 1")
        whole = asdict((await audit_books(database)).totals)
        await transaction.rollback()
        assert ([], 0) == (books.alarms, books.suspected), scenario
        assert newest == whole


async def _decide(connection: Connection, request: Request[Any]) -> None:
    await BillingJob(load_catalogue()).decide(connection, Batch([request]))


def _promotion(account: str, as_of: datetime, offset: int) -> Request[Any]:
    event = PromotionGranted.create(
        id=uuid4(), source="/test", subject=account, time=as_of, data={"promotion_id": "welcome", "credits": 3}
    )
    return Request(event, account, event.id, fingerprint(event), as_of, 0, offset)


async def test_a_row_that_is_committed_after_the_mark_is_read_however_old_its_time_is(
    settings: Settings, connect: Connect
) -> None:
    """A transaction is open while the mark is set, and its rows are of a time before it.

    A mark by time, which is the naive one, passes over them: what it would read is asked beside.
    """
    now = utc_now()
    slow, fast = await connect(settings), await connect(settings)
    transaction = slow.transaction()
    await transaction.start()
    await _decide(slow, _promotion("slow", now - timedelta(minutes=5), 0))
    async with fast.transaction():
        await _decide(fast, _promotion("fast", now, 1))
    await all_is_read(fast)
    marked = await audit_and_mark(settings)
    naive_mark = await fast.fetchval("select max(as_of) from journal")
    await transaction.commit()
    await fast.execute(
        "update lots set remaining = 2 where account = (select account from accounts where account_id = 'slow')"
    )

    found = await audit_new(settings)

    naive = await fast.fetchval("select count(*) from journal where as_of > $1", naive_mark)
    assert (True, 1, 0) == (marked.passed, marked.totals.rows, naive)
    assert found.new is not None
    assert (found.new.rows, [("slow", "lot 1")]) == (1, _places(found)["lot_is_its_journal"])


async def test_a_fault_in_old_rows_is_the_whole_audits_to_find(settings: Settings, database: Connection) -> None:
    """The mark stands for what was good then; `inmail audit` reads it again."""
    await write_story(database)
    await audit_and_mark(settings)
    await database.execute("update journal set recipient_id = null where code = 'charged' and sequence = 2")

    assert (await audit_new(settings)).passed
    assert "charge_takes_one_credit" in _places(await audit(settings))


async def test_an_audit_that_finds_something_leaves_the_mark_where_it_was(
    settings: Settings, database: Connection
) -> None:
    """So the next one finds it again, until it is mended; and without a mark everything is read."""
    await write_story(database)
    first = await audit_new(settings)
    await database.execute("update accounts set sequence = sequence + 1 where account_id = 'alice'")
    failed = [_places(await audit_new(settings))["sequence_is_gap_free"] for _ in range(2)]
    await database.execute("update accounts set sequence = sequence - 1 where account_id = 'alice'")
    mended = await audit_new(settings)

    kinds = [row["kind"] for row in await database.fetch("select kind from audits order by audit")]
    assert (first.new, failed) == (None, [[("alice", "sequence 23")]] * 2)
    assert (mended.passed, kinds) == (True, ["whole", "new"])


async def test_a_row_of_no_account_is_found_though_no_account_counts_it(
    settings: Settings, database: Connection
) -> None:
    """Rows since the time of the mark are looked through for those that no account's sequence covers."""
    await write_story(database)
    await audit_and_mark(settings)
    await database.execute(
        "create temp table stray as select * from journal where code = 'free' limit 1;"
        "update stray set account = 999, request_id = gen_random_uuid(); insert into journal select * from stray"
    )

    assert _places(await audit_new(settings))["row_has_its_account"] == [("#999", "sequence 3")]


async def test_only_one_audit_moves_the_mark_at_a_time(settings: Settings, database: Connection) -> None:
    """The other is refused and says so, by an exit code that is not that of a finding: it is to be tried again."""
    await database.fetchval("select pg_advisory_lock($1, hashtext(current_schema()))", LOCK)
    environment = {"INMAIL_DATABASE_URL": settings.database_url.get_secret_value()}

    with pytest.raises(AuditUnderWayError, match=r"another audit.* or an `inmail shards` command"):
        await audit_new(settings)
    said = await asyncio.to_thread(CliRunner().invoke, app, ["audit", "--new", "--json"], env=environment)

    assert (Exit.TRY_LATER, "under_way") == (said.exit_code, json.loads(said.stderr)["code"])


async def test_the_command_says_what_it_read(settings: Settings, database: Connection) -> None:
    """Exit codes are those of `inmail audit`; the metrics tell when it passed."""
    await write_story(database)
    url = settings.database_url.get_secret_value()

    def inmail(*arguments: str) -> click.testing.Result:
        return CliRunner().invoke(app, ["audit", *arguments], env={"INMAIL_DATABASE_URL": url})

    both = await asyncio.to_thread(inmail, "--new", "--mark")
    whole = await asyncio.to_thread(inmail, "--mark", "--json")
    new = await asyncio.to_thread(inmail, "--new")
    await database.execute("update accounts set sequence = sequence + 1 where account_id = 'alice'")
    broken = await asyncio.to_thread(inmail, "--new", "--json")
    audited_at = await read_audited_at(database)

    assert [2, 0, 0, 1] == [done.exit_code for done in (both, whole, new, broken)]
    assert (json.loads(whole.stdout)["new"], json.loads(broken.stdout)["new"]["examined"]) == (None, 1)
    assert new.stdout.splitlines()[2].startswith("read: 0 rows of 0 accounts, new since ")
    assert audited_at["whole"] < audited_at["new"]
