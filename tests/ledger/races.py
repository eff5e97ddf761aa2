"""Races on one ledger: lanes with a connection each, and someone who sees them wait for each other.

Nothing here sleeps. Two batches are made to overlap by keeping the first one's transaction open until Postgres says
that the second waits for it, or the second is through without waiting. What is run so is run in the same way on the
ledger's functions as they are and on forms known to be broken.
"""

import asyncio
import shlex
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from datetime import datetime
from itertools import count
from typing import Any

import asyncpg

from infra.postgres import Connection, connect_database
from infra.settings import Settings
from schemas.catalogue import SEND_REQUESTS, fingerprint
from tests.ledger.scenario_events import TICK, Input, Names, Words, read_event, read_instant
from tests.ledger.scenario_sql import EVENTS, event_of
from workers.jobs.billing import BillingJob
from workers.jobs.bisection import decide_bisected
from workers.jobs.job import Batch, Job
from workers.jobs.send import SendJob
from workers.ledger.model import Request
from workers.ledger.plans import Catalogue
from workers.ledger.ticks import expire_step, tick_terms

__all__ = ["Batches", "Lane", "Race", "open_race", "read_batch", "wrong_in_books"]

ACCOUNT = "alice"
WAIT_SECONDS = 20.0
OFFSETS_OF_A_LANE = 1_000_000
NAMES = Names()

Batches = Sequence[str]

# All that the books say but for the numbers that differ from run to run though nothing happened differently.
_DIGEST = """
select jsonb_build_array(
    (select jsonb_agg(to_jsonb(a) - 'account' order by a.account_id) from accounts as a),
    (select jsonb_agg(to_jsonb(s) - 'account' order by a.account_id, s.subscription_id)
        from subscriptions as s join accounts as a using (account)),
    (select jsonb_agg(to_jsonb(l) - 'account' order by a.account_id, l.lot)
        from lots as l join accounts as a using (account)),
    (select jsonb_agg(to_jsonb(j) - 'account' - 'source_offset' order by a.account_id, j.sequence)
        from journal as j join accounts as a using (account)),
    (select jsonb_agg(to_jsonb(t) - '{source_offset,ended,cut,announced}'::text[] order by t.request_id, t.fingerprint)
        from ticks as t)
)::text
"""

# What must hold of the books whatever ran, without asking the functions or the CHECKs (rules 11, 13, 14, 18, 19).
_WRONG = """
select 'account ' || a.account_id || ': rows 1 to ' || coalesce(max(j.sequence), 0) || ', ' || count(j.sequence)
    || ' there, ' || a.sequence || ' counted'
from accounts as a left join journal as j using (account)
group by a.account having coalesce(max(j.sequence), 0) <> count(j.sequence) or a.sequence <> count(j.sequence)
union all
select 'lot ' || l.lot || ' of ' || a.account_id || ': ' || l.granted || ' granted, ' || l.remaining || ' remain, '
    || coalesce(sum(j.amount), 0) || ' by its rows'
from lots as l join accounts as a using (account) left join journal as j using (account, lot)
group by a.account_id, l.account, l.lot
having coalesce(sum(j.amount), 0) <> l.remaining
    or coalesce(sum(j.amount) filter (where j.code = 'granted'), 0) <> l.granted
    or l.remaining not between 0 and l.granted
    or not l.open and l.remaining > 0
union all
select 'send ' || j.reverses || ' of ' || a.account_id || ': taken back ' || count(*) || ' times'
from journal as j join accounts as a using (account)
where j.reverses is not null group by a.account_id, j.reverses having count(*) > 1
union all
select 'period ' || l.period_start || ' of ' || l.subscription_id || ' of ' || a.account_id || ': ' || count(*)
    || ' lots'
from lots as l join accounts as a using (account)
where l.subscription_id is not null and not l.freed and l.tops_up is null
group by a.account_id, l.subscription_id, l.period_start having count(*) > 1
union all
select 'request ' || j.request_id || ' of ' || a.account_id || ': ' || count(*) || ' outcomes'
from journal as j join accounts as a using (account)
where j.is_answer and j.code <> 'key_conflict' group by a.account_id, j.request_id having count(*) > 1
"""


def read_batch(text: str) -> list[Input]:
    """Return a batch written as an instant and its events: `2030-01-20 send zoe as first; send bob`.

    Events are written as in scenario tables, all of one account. One without a name has its own words as its name: the
    same words at the same instant are the same request.
    """
    instant, _, events = text.partition(" ")
    return [_read_input(words.strip(), read_instant(instant)) for words in events.split(";")]


def _read_input(text: str, now: datetime) -> Input:
    words = Words(shlex.split(text))
    type_, data = read_event(words, NAMES)
    if type_ == TICK:
        data.setdefault("as_of", now)
    name = words.take("a name") if words.take_if("as") else f"{now} {text}"
    words.end()
    return Input(type_, "" if type_ == TICK else ACCOUNT, NAMES.id_of(name), data, now)


class Lane:
    """A connection that decides batches, each in a transaction, as a worker's lane does."""

    def __init__(self, number: int, connection: Connection, catalogue: Catalogue, step_lots: int) -> None:
        self.connection = connection
        self._catalogue = catalogue
        self._terms = tick_terms(catalogue, step_lots, 100)
        self._offsets = count(number * OFFSETS_OF_A_LANE)

    async def decide(self, inputs: Sequence[Input]) -> None:
        """Decide a batch of one topic, or a tick, each of whose steps is a transaction of its own."""
        requests = [self._request(input_) for input_ in inputs]
        if inputs[0].type == TICK:
            await self._tick(requests[0])
            return
        async with self.connection.transaction():
            topic = EVENTS[inputs[0].type].topic
            job = SendJob(self._catalogue) if topic == SEND_REQUESTS else BillingJob(self._catalogue)
            await job.decide(self.connection, Batch(requests))

    async def decide_bisected(self, inputs: Sequence[Input], job: Job) -> None:
        """Decide a batch by a job, as a worker's lane does once the database has refused the batch."""
        async with self.connection.transaction():
            await decide_bisected(job, self.connection, Batch([self._request(input_) for input_ in inputs]))

    async def _tick(self, request: Request[Any]) -> None:
        code = "booking"
        while code == "booking":
            async with self.connection.transaction():
                tick = await expire_step(self.connection, request, request.event.data.as_of, self._terms)
            code = tick.code

    def _request(self, input_: Input) -> Request[Any]:
        event = event_of(input_)
        return Request(event, input_.account, event.id, fingerprint(event), input_.as_of, 0, next(self._offsets))


class Race:
    """Several lanes on the same books, and a connection that watches them."""

    def __init__(self, watcher: Connection, lanes: Sequence[Lane]) -> None:
        self.watcher = watcher
        self.lanes = lanes

    async def clear(self) -> None:
        """Begin again with empty books."""
        for table in ("journal", "lots", "subscriptions", "accounts", "ticks"):
            await self.watcher.execute(f"delete from {table}")  # noqa: S608

    async def digest(self) -> str:
        """Return what the books say, to compare with other runs of the same requests."""
        return await self.watcher.fetchval(_DIGEST)

    async def in_turn(self, *batches: str) -> None:
        """Decide batches one after the other."""
        for batch in batches:
            await self.lanes[0].decide(read_batch(batch))

    async def at_once(self, *batches: str) -> list[str]:
        """Decide batches at the same time, on a lane each; return the errors."""
        lanes = self.lanes[: len(batches)]
        decided = [lane.decide(read_batch(batch)) for lane, batch in zip(lanes, batches, strict=True)]
        return _errors(await asyncio.gather(*decided, return_exceptions=True))

    async def overlapping(self, first: str, second: str) -> list[str]:
        """Decide one batch and, before that is committed, let another lane begin the second; return the errors."""
        return await self.interleaved([read_batch(first)], read_batch(second))

    async def interleaved(self, parts: Sequence[list[Input]], second: list[Input]) -> list[str]:
        """Decide parts in one transaction, and let another lane begin a batch after the first; return the errors.

        The next part is decided once the other lane waits for a lock, or is through.
        """
        ahead, behind = self.lanes[:2]
        waiting: list[asyncio.Task[None]] = []
        errors: list[str] = []
        try:
            async with ahead.connection.transaction():
                await ahead.decide(parts[0])
                waiting = [asyncio.create_task(behind.decide(second))]
                await self.until_it_waits(behind, waiting[0])
                for part in parts[1:]:
                    await ahead.decide(part)
        except asyncpg.PostgresError as error:
            errors = [type(error).__name__]
        return errors + _errors(await asyncio.gather(*waiting, return_exceptions=True))

    async def until_it_waits(self, lane: Lane, task: "asyncio.Task[None]") -> None:
        """Return when a lane waits for a lock of another one, or is through."""
        pid = lane.connection.get_server_pid()
        async with asyncio.timeout(WAIT_SECONDS):
            while not task.done() and not await self.watcher.fetchval("select pg_blocking_pids($1) <> '{}'", pid):
                pass


def _errors(results: Sequence[object]) -> list[str]:
    """Return the kinds of database errors among results. A broken form may end in the net: a CHECK, a unique key.

    Raises:
        BaseException: any other one among them.

    """
    for result in results:
        if isinstance(result, BaseException) and not isinstance(result, asyncpg.PostgresError):
            raise result
    return [type(result).__name__ for result in results if result is not None]


async def wrong_in_books(connection: Connection) -> list[str]:
    """Return where credits were made or lost, a sequence has a gap, or something that happens once happened twice."""
    return [row[0] for row in await connection.fetch(_WRONG)]


@asynccontextmanager
async def open_race(
    settings: Settings, catalogue: Catalogue, *, lanes: int = 6, step_lots: int = 1_000
) -> AsyncIterator[Race]:
    """Connect so many lanes, and their watcher, to the books of one database."""
    connections = [await connect_database(settings) for _ in range(lanes + 1)]
    try:
        for connection in connections:
            # Lock cycles are looked for at once, and no disk is waited for.
            await connection.execute("set deadlock_timeout = '20ms'; set synchronous_commit = off")
        opened = [Lane(number, each, catalogue, step_lots) for number, each in enumerate(connections[1:], 1)]
        yield Race(connections[0], opened)
    finally:
        for connection in connections:
            await connection.close()
