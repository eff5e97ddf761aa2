"""A soak from its start to its verdict: load, restarts, looks, and at the end what is left and what the books say."""

import asyncio
import json
import signal
from collections.abc import AsyncIterator, Callable
from contextlib import aclosing, asynccontextmanager
from pathlib import Path
from time import monotonic
from typing import Any, Final, NamedTuple

from infra.clock import utc_now
from infra.kafka.clients import admin_client, committed_offsets, partitions_of, reader
from infra.kafka.records import all_partitions, read_records
from infra.local.stack import LocalStack
from infra.migrate import migrate
from infra.postgres import connect_database
from infra.settings import Settings, load_settings
from schemas.catalogue import EXPIRY_TICKS, decode
from schemas.ids import movement_id, tick_answer_id
from tests.soak.answers import Answers
from tests.soak.fleet import RESTARTED, Fleet
from tests.soak.load import PACES, Load
from tests.soak.samples import Samples
from tests.soak.visits import Visits
from tests.workers.wire import settled
from workers.ledger.plans import SHIPPED
from workers.ledger.store import FUNCTIONS
from workers.ops.books.audit import audit
from workers.ops.topics.plan import apply_topics, plan_topics
from workers.topology import GROUP_OF

__all__ = ["PARTITIONS", "SoakOrder", "soak"]

PARTITIONS: Final = 12
_LOOK_SECONDS: Final = 10.0
_MINUTE: Final = 60.0
_DRAIN_SECONDS: Final = 180.0
_SIGNALS: Final = (signal.SIGTERM, signal.SIGKILL)


class SoakOrder(NamedTuple):
    """What to run."""

    minutes: int
    restart_minutes: int  # between two restarts
    seed: int
    pace: float = 1.0  # times the load's own


async def soak(stack: LocalStack, order: SoakOrder, logs: Path, report: Callable[[str], None]) -> dict[str, Any]:
    """Run a soak on a new stack; return all that was measured and found, as JSON."""
    settings = _settings(stack, logs)
    await apply_topics(settings, await plan_topics(settings))
    connection = await connect_database(settings)
    await migrate(connection, [FUNCTIONS])
    await connection.close()
    answers = Answers()
    load = Load(settings, answers, order.seed, order.pace)
    fleet = Fleet(settings, logs)
    visits = Visits(fleet.ports, [f"member-{number:06}" for number in range(100)])
    samples = Samples(stack, fleet)
    began = utc_now()
    parts = _Parts(order, fleet, samples, load, answers, [], logs / "so-far.json")
    try:
        fleet.start()
        await fleet.ready()
        async with _beside(answers.run(settings)):
            async with _beside(visits.run()):
                async with _beside(load.run(), stop=load.stop):
                    await _minutes(parts, report)
                report("the load has ended; what is left is answered")
                await fleet.end("ticker")
                unread = await _drain(settings, answers)
            await fleet.stop()
            await settled(settings)
            await _expect_the_rest(settings, answers)
            await answers.complete(_DRAIN_SECONDS)
    finally:
        fleet.kill()
    report("the books are audited")
    audited = await audit(settings)
    return {
        "began": began.isoformat(timespec="minutes"),
        "minutes": parts.minutes,
        "order": order._asdict() | {"partitions": PARTITIONS},
        "processes": samples(),
        "published": load.published,
        "answered": answers.received,
        "codes": dict(answers.codes.most_common()),
        "lost": answers.lost,
        "unasked": answers.unasked,
        "gaps": answers.gaps,
        "unread": unread,
        "visits": visits.asked,
        "failed_visits": visits.failures,
        "server_errors": visits.server_errors,
        "bad_ends": fleet.bad_ends,
        "audit": [f"{each.name}: {each.count}" for each in audited.failures()],
        "audit_checks": len(audited.findings),
    }


def _settings(stack: LocalStack, logs: Path) -> Settings:
    """Return what a user would have, but for a hot account that may send more than a thousand a day."""
    plans = logs / "plans.toml"
    plans.write_text(SHIPPED.read_text().replace("paid_sends_per_day = 1000 ", "paid_sends_per_day = 1000000 "))
    return load_settings(
        kafka_bootstrap_servers=stack.kafka_bootstrap_servers,
        database_url=stack.database_url,
        topic_partitions=PARTITIONS,
        plans_file=str(plans),
        log_format="json",
    )


class _Parts(NamedTuple):
    order: SoakOrder
    fleet: Fleet
    samples: Samples
    load: Load
    answers: Answers
    minutes: list[dict[str, Any]]  # what was noted of each
    so_far: Path  # a file for them, should the run not come to its end


async def _minutes(parts: _Parts, report: Callable[[str], None]) -> None:
    """Look on for so many minutes, and restart a process every few of them."""
    order, fleet, samples, load, answers, minutes, so_far = parts
    began = monotonic()
    for minute in range(1, order.minutes + 1):
        published, skipped, restarted = load.published, load.skipped, ""
        if minute > order.restart_minutes and (minute - 1) % order.restart_minutes == 0 and minute < order.minutes:
            number = (minute - 1) // order.restart_minutes - 1
            name, by = RESTARTED[number % len(RESTARTED)], _SIGNALS[number // len(RESTARTED) % len(_SIGNALS)]
            await fleet.restart(name, by)
            restarted = f"{name} {by.name}"
        while (left := began + minute * _MINUTE - monotonic()) > 0:
            await asyncio.sleep(min(left, _LOOK_SECONDS))
            samples.look()
        samples.note_minute(minute)
        if ended := list(fleet.ended()):
            raise RuntimeError(f"a soak goes on with all of its processes only: {', '.join(ended)}")
        found = answers.take_minute()
        minutes.append(
            {
                "minute": minute,
                "pace": round(order.pace * PACES[(minute - 1) % len(PACES)]),
                "records": round((load.published - published) / _MINUTE, 1),
                "sends": round(found.answered / _MINUTE, 1),
                "p50_ms": found.p50,
                "p99_ms": found.p99,
                "unanswered": answers.outstanding,
                "skipped": round(load.skipped - skipped),
                "restarted": restarted,
            }
        )
        await asyncio.to_thread(so_far.write_text, json.dumps({"minutes": minutes, "processes": samples()}))
        report(_line(minutes[-1], samples))


def _line(minute: dict[str, Any], samples: Samples) -> str:
    memory = {name: each["lives"][-1][-1]["memory_kb"] / 1024 for name, each in samples().items() if each["lives"]}
    words = " ".join(f"{name} {megabytes:.1f}" for name, megabytes in memory.items())
    return (
        f"minute {minute['minute']}: {minute['records']:.0f} records/s, {minute['sends']:.0f} sends answered/s,"
        f" p50 {minute['p50_ms']} ms, p99 {minute['p99_ms']} ms, {minute['unanswered']} unanswered,"
        f" {minute['skipped']} skipped"
        f"{', restarted ' + minute['restarted'] if minute['restarted'] else ''}; MB: {words}"
    )


async def _drain(settings: Settings, answers: Answers) -> int:
    """Wait until the groups have read all input; return how many records they left."""
    unread = -1
    deadline = monotonic() + _DRAIN_SECONDS
    async with admin_client(settings) as admin, reader(settings) as consumer:
        while monotonic() < deadline and (unread or answers.outstanding):
            unread = 0
            for topic, group in GROUP_OF.items():
                places = partitions_of(topic, settings.topic_partitions)
                ends = await consumer.end_offsets(places)
                committed = await committed_offsets(admin, group, places)
                unread += sum(ends[place] - (committed[place] or 0) for place in places)
            await asyncio.sleep(0.5)
    return unread


async def _expect_the_rest(settings: Settings, answers: Answers) -> None:
    """Expect what the load could not: the answers to ticks, and the movements that answer no record."""
    ticks: set[tuple[int, Any]] = set()
    async with aclosing(read_records(settings, await all_partitions(settings, (EXPIRY_TICKS,)))) as records:
        async for record in records:
            tick = decode(EXPIRY_TICKS, record.key, record.value, record.headers)
            key = (record.partition, tick.id)
            answers.expect(tick_answer_id(*key), repeat=key in ticks)
            ticks.add(key)
    connection = await connect_database(settings)
    for row in await connection.fetch(
        "select a.account_id, j.sequence from journal as j join accounts as a using (account) where not j.is_answer"
    ):
        answers.expect(movement_id(row["account_id"], row["sequence"]))
    await connection.close()


@asynccontextmanager
async def _beside(work: Any, stop: Callable[[], None] | None = None) -> AsyncIterator[None]:
    """Run something meanwhile, until cancelled or told to stop; an error of it ends the block with that error."""
    this = asyncio.current_task()
    task = asyncio.ensure_future(work)
    failed = False

    def interrupt(done: "asyncio.Future[Any]") -> None:
        nonlocal failed
        if not done.cancelled() and done.exception() is not None and this is not None:
            failed = True
            this.cancel()

    task.add_done_callback(interrupt)
    try:
        yield
    except asyncio.CancelledError:
        if failed:
            await task
        raise
    finally:
        task.remove_done_callback(interrupt)
        if not failed:
            if stop is None:
                task.cancel()
            else:
                stop()
            await asyncio.wait([task])
