"""`inmail clock` as an operator runs it: what it shows, what it decides, and what goes on record."""

import json
from datetime import timedelta
from typing import Any
from uuid import uuid4

import pytest

from infra.clock import utc_now
from infra.postgres import Connection
from infra.settings import Settings
from schemas.catalogue import BILLING_EVENTS, SEND_REQUESTS
from schemas.sends import SendUndeliverable
from tests.ledger.book import Book
from tests.workers.command import run
from workers.commands.running import Exit
from workers.ledger.model import WorkerName
from workers.ops.operations import Operator
from workers.ops.replay.skip import SkippedLane, SkipPlan, skip
from workers.ops.topics.ended import end_topic

OFFSET = 7


async def _lane(database: Connection, *, ahead: timedelta, held: timedelta | None = None) -> None:
    """Put a send lane of partition 1 so far ahead, holding a record so far ahead."""
    now = utc_now()
    await database.execute(
        "insert into lanes (consumer_group, topic, partition, epoch, next_offset, as_of, held, held_offset, held_time)"
        " values ('inmail-send', $1, 1, 4, $2, $3, $4, $5, $6)",
        SEND_REQUESTS,
        OFFSET,
        now + ahead,
        None if held is None else "the clock",
        None if held is None else OFFSET,
        None if held is None else now + held,
    )


async def _kept(database: Connection) -> list[Any]:
    return [tuple(row) for row in await database.fetch("select verb, actor, reason, status from operations order by 1")]


async def test_a_held_record_is_shown_and_set_aside(settings: Settings, database: Connection) -> None:
    """A dry run does nothing; without a reason nothing is done; the decision is kept with its operation."""
    await _lane(database, ahead=timedelta(), held=timedelta(days=400))

    shown = await run(settings, "clock", "show")
    dry = await run(settings, "clock", "set-aside", "send", "1", "--dry-run")
    unsaid = await run(settings, "clock", "set-aside", "send", "1", "--yes")
    nothing = await database.fetchval("select count(*) from clock_decisions")
    said = await run(settings, "clock", "set-aside", "send", "1", "--by", "ann", "--because", "bad clock", "--yes")

    assert [Exit.DONE, Exit.DONE, Exit.WRONG_USAGE, Exit.DONE] == [each.code for each in (shown, dry, unsaid, said)]
    assert f" {OFFSET} " in shown.out
    assert f"holds offset {OFFSET}" in dry.out
    assert "dead letter" in dry.out
    assert 0 == nothing
    row = await database.fetchrow("select kind, topic, partition, first_offset, next_offset from clock_decisions")
    assert ("set_aside", SEND_REQUESTS, 1, OFFSET, OFFSET + 1) == tuple(row or ())
    assert [("clock set-aside", "ann", "bad clock", "done")] == await _kept(database)


async def test_a_time_is_let_in_up_to_one_that_is_named(settings: Settings, database: Connection) -> None:
    """One before the record's own is refused, and so is a lane that holds nothing."""
    await _lane(database, ahead=timedelta(), held=timedelta(days=2))
    early, late = (f"{utc_now() + timedelta(days=days):%Y-%m-%dT%H:%M:%SZ}" for days in (1, 3))
    because = ("--by", "ann", "--because", "it is right", "--yes", "--json")

    refused = await run(settings, "clock", "accept", "send", "1", "--up-to", early, *because)
    none = await run(settings, "clock", "accept", "billing", "1", *because)
    said = await run(settings, "clock", "accept", "send", "1", "--up-to", late, *because)

    assert [Exit.NO, Exit.NO, Exit.DONE] == [each.code for each in (refused, none, said)]
    assert "before the time of the record" in refused.err
    assert "holds no record" in none.err
    answer = json.loads(said.out)
    assert ("accept", OFFSET) == (answer["plan"]["decision"], answer["plan"]["first_offset"])
    (row,) = await database.fetch("select kind, next_offset, time from clock_decisions")
    assert ("accept", 2**63 - 1) == (row["kind"], row["next_offset"])
    assert f"{row['time']:%Y-%m-%dT%H:%M:%SZ}" == late


async def test_lots_that_end_by_a_time_that_is_named_are_counted(settings: Settings, database: Connection) -> None:
    """All records up to then are let in unasked: those of the record's own time are not all that is at stake."""
    await _lane(database, ahead=timedelta(), held=timedelta(days=2))
    book = Book(database)
    book.now = utc_now() - timedelta(days=80)
    await book.decide(book.promotion(4))
    await database.execute("update lots set partition = 1")
    accept = ("clock", "accept", "send", "1", "--dry-run", "--json")

    own, named = [json.loads((await run(settings, *accept, *more)).out)["plan"] for more in ((), ("--up-to", "+30d"))]

    assert [(0, 0), (1, 4)] == [(each["lots_that_end"], each["credits_that_end"]) for each in (own, named)]


async def test_a_clock_that_was_carried_off_is_set_back(settings: Settings, database: Connection) -> None:
    """Its owner's epoch is over with it; a second time there is nothing to do."""
    await _lane(database, ahead=timedelta(days=400))
    because = ("--by", "ann", "--because", "the broker was wrong", "--yes")
    await database.execute(
        "insert into operations (operation, verb, actor, reason, arguments, plan, started_at, noted_at, ended_at,"
        " status, result) overriding system value"
        " values (-1, 'clock accept', 'ann', 'a mistake', '{}', '{}', now(), now(), now(), 'done', '{}');"
        "insert into clock_decisions (operation, topic, partition, kind, first_offset, next_offset, time)"
        " select -1, 'inmail.send-requests', 1, x.*, now() from (values ('accept', 2, 9223372036854775807),"
        " ('accept', 7, 8), ('set_aside', 3, 99)) as x"
    )

    dry = await run(settings, "clock", "set-back", "--dry-run")
    said = await run(settings, "clock", "set-back", *because)
    again = await run(settings, "clock", "set-back", *because)

    assert [Exit.DONE] * 3 == [each.code for each in (dry, said, again)]
    assert "1 lane set back" in said.out
    assert "Nothing to set" in again.out
    row = await database.fetchrow("select epoch, as_of from lanes")
    assert row is not None
    assert 5 == row["epoch"]
    left = await database.fetch("select kind, first_offset, next_offset from clock_decisions order by 1")
    assert [("accept", 2, OFFSET), ("set_aside", 3, 99)] == [
        tuple(each) for each in left
    ]  # none is let in from here on
    assert abs(row["as_of"] - utc_now()) < timedelta(minutes=5)
    assert ("clock set-back", "ann", "the broker was wrong", "done") == (await _kept(database))[1]


@pytest.mark.parametrize("way", ["another topic", "skip"])
async def test_a_lane_that_goes_on_elsewhere_holds_no_record(
    settings: Settings, database: Connection, way: str
) -> None:
    """No worker has opened it yet: a decision about that record would be one about another at its offset."""
    await _lane(database, ahead=timedelta(), held=timedelta(days=400))
    if way == "skip":
        lane = SkippedLane(1, OFFSET, OFFSET + 5, gone=5, left=0, answered=0)
        await skip(settings, SkipPlan(WorkerName.SEND, (lane,), ()), Operator("ann", "lost"))
    else:
        await end_topic(database, "inmail-send", SEND_REQUESTS, uuid4(), {1: 0})

    shown = await run(settings, "clock", "show", "--json")
    accepted = await run(settings, "clock", "accept", "send", "1", "--up-to", "+999d", "--dry-run")

    assert [None] == [each["held_offset"] for each in json.loads(shown.out)]
    assert Exit.NO == accepted.code


async def test_rows_after_a_set_back_are_of_the_topic_that_was_created_again_while_the_clock_was_ahead(
    settings: Settings, database: Connection
) -> None:
    """A row as early as the new clock counts: else what it moved is not published where its record is read again."""
    await _lane(database, ahead=timedelta(days=400))
    await database.execute("update lanes set topic_since = as_of - interval '1 millisecond'")

    await run(settings, "clock", "set-back", "--by", "ann", "--because", "the broker was wrong", "--yes")

    assert await database.fetchval("select as_of > topic_since and as_of < topic_since + interval '1 ms' from lanes")


async def test_what_a_time_far_ahead_has_left_to_be_given_back_is_counted(
    settings: Settings, database: Connection
) -> None:
    """A send that failed brings nothing back to a lot that has ended; what is given then begins then."""
    book = Book(database)
    book.now = utc_now()
    await book.decide(book.promotion(2))
    failed = book.send()
    await book.decide(failed)
    book.now += timedelta(days=400)
    report = SendUndeliverable.create(
        id=uuid4(), source="/test", subject="alice", time=book.now, data={"send_id": failed.id}
    )
    await book.decide(report)
    await book.decide(book.promotion(7))
    await database.executemany(
        "insert into lanes (consumer_group, topic, partition, epoch, next_offset, as_of) values ($1, $2, 0, 1, 9, $3)",
        [("inmail-send", SEND_REQUESTS, book.now), ("inmail-billing", BILLING_EVENTS, book.now)],
    )

    plan = await run(settings, "clock", "set-back", "--dry-run", "--json")

    lanes = {each["worker"]: each for each in json.loads(plan.out)["plan"]["lanes"]}
    assert (1, 0) == (lanes["send"]["not_returned"], lanes["send"]["later"])
    assert (0, 7) == (lanes["billing"]["not_returned"], lanes["billing"]["later"])
