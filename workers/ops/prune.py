"""Deletes stored answers to ticks that nothing can ask for any more.

Each partition is sent a tick every INMAIL_TICK_SECONDS, and most of them book nothing: 25 million rows a year by the
defaults. A tick is deleted once all of this holds:

- it is answered, and its answer is published;
- retention has taken its record, or the topic that it was in is gone: no lane and no replay can read it again;
- it came to no lot, so that no row is of its record: the audit finds the tick of each expiry, cap and notice for good.
  That is the tick's own word: its rows go to another server with accounts that were numbered anew.

Of each partition the newest such tick stays: a rewind tells by its time from when on records are gone. Answers to
requests are kept for good (rule 14) and nothing here deletes one.
"""

import asyncio
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass
from typing import Any, Final
from uuid import UUID

from aiokafka import TopicPartition

from infra.kafka.clients import NotSetUpError, admin_client, committed_offsets, count_partitions
from infra.kafka.cluster_queries import EARLIEST, open_cluster_queries
from infra.kafka.topic_ids import topic_ids
from infra.postgres import Connection
from infra.settings import Settings
from schemas.catalogue import EXPIRY_TICKS
from workers.ops.books.shards import naming_server
from workers.ops.numbers import all_holdings, open_of_books
from workers.ops.operations import Intent, OngoingOperation, Operator, RefusedError, recorded_operation

__all__ = ["VERB", "PrunePlan", "plan_prune", "prune"]

VERB: Final = "prune"
GROUP: Final = "inmail-expiry"
_STEP: Final = 5_000  # ticks looked at in one transaction
_TIMEOUT: Final = 600.0  # seconds for a count: a year of ticks takes one
_RECREATED: Final = (
    "select partition from lanes where consumer_group = $1 and topic = $2 and topic_id <> $3"
    " and partition <> all($4::integer[]) order by 1 limit 1"
)
# Of each partition: up to `gone_until` ticks are gone with the topic that they were in, later ones below the offset
# `below`. A topic that lost records at its end, and was gone on with, is the same: what is left of it is read again.
_PRUNABLE: Final = """
with lane as (
    select
        p.partition, least(p.oldest, coalesce(l.published, 0)) as below,
        coalesce((
            select max(e.as_of) from ended_topics as e
            where
                e.consumer_group = l.consumer_group and e.topic = l.topic and e.partition = l.partition
                and e.topic_id <> l.topic_id
                and not exists ( -- ticks of the topic since may be as of earlier times than its end
                    select from clock_set_backs as s
                    where
                        s.consumer_group = l.consumer_group and s.topic = l.topic and s.partition = l.partition
                        and s.set_back_at > e.ended_at and e.as_of > s.set_back_to
                )
        ), '-infinity') as gone_until
    from unnest($1::integer[], $2::bigint[]) as p (partition, oldest)
    inner join lanes as l
        on l.consumer_group = 'inmail-expiry' and l.topic = 'inmail.expiry-ticks' and l.partition = p.partition
            and coalesce(l.topic_id = $5::uuid, true) -- the offsets are of the topic that was looked at
    where not exists (
        select from ended_topics as e
        where
            e.consumer_group = l.consumer_group and e.topic = l.topic and e.partition = l.partition
            and e.unpublished_from is not null
    )
),

place as (
    select l.*, (
        select max(t.source_offset) from ticks as t
        where t.partition = l.partition and t.source_offset < l.below and t.as_of > l.gone_until
    ) as newest
    from lane as l
),

prunable as (
    select t.ctid as row_id from place as p
    inner join ticks as t on t.partition = p.partition
    where
        t.code <> 'booking' and t.source_offset between $3 and $4
        and (t.as_of <= p.gone_until or (t.source_offset < p.below and t.source_offset <> p.newest))
        and (t.ended).lot + (t.cut).lot + (t.announced).lot = 0
)
"""
_COUNT: Final = _PRUNABLE + "select count(*) from prunable"  # noqa: S608 - constants
_DELETE: Final = _PRUNABLE + "delete from ticks where ctid = any(array(select row_id from prunable))"  # noqa: S608
_STEP_END: Final = """
select max(source_offset) from (
    select source_offset from ticks where partition = $1 and source_offset >= $2 order by source_offset limit $3
) as step
"""
_STORED: Final = "select count(*) from ticks where partition <> all($1::integer[])"
_LAST: Final = 2**63 - 1


@dataclass(frozen=True, slots=True)
class PrunePlan:
    """What there is to delete."""

    ticks: int  # answers to ticks that may go
    stored: int  # answers to ticks in the books
    topic_id: UUID  # of the topic as it was: where lanes read another one by now, nothing is deleted
    oldest: Mapping[int, int]  # offset in each partition from which on ticks may be asked for

    def summary(self) -> dict[str, Any]:
        """Return the plan for JSON."""
        return {"ticks": self.ticks, "stored": self.stored}


async def plan_prune(settings: Settings) -> PrunePlan:
    """Return what a run would delete, on all servers of the books together; copies that a move has left stay.

    Raises:
        RefusedError: when the topic of ticks is another one than the books have read.
        NotSetUpError: when there is no topic of ticks.
        ServerError: when one of several servers does not answer.
        KafkaError, OSError, asyncpg.PostgresError: when Kafka or Postgres cannot be reached or refuses.

    """
    oldest, topic_id = await _read_topic(settings)
    ticks = stored = 0
    for server, holdings in await all_holdings(settings):
        held = {number: offset for number, offset in oldest.items() if holdings.has_number(number)}
        async with open_of_books(server, patient=True) as connection:
            lane = await connection.fetchval(_RECREATED, GROUP, EXPIRY_TICKS, topic_id, holdings.foreign)
            if lane is not None:
                raise RefusedError(
                    f"{EXPIRY_TICKS} was deleted and created again since its partition {lane} was read: run `inmail"
                    " topics apply`, and let the expiry worker publish what it has stored"
                )
            ticks += await connection.fetchval(_COUNT, *_places(held), 0, _LAST, topic_id, timeout=_TIMEOUT)
            stored += await connection.fetchval(_STORED, holdings.foreign, timeout=_TIMEOUT)
    return PrunePlan(ticks, stored, topic_id, oldest)


async def _read_topic(settings: Settings) -> tuple[dict[int, int], UUID]:
    """Return from which offset on each partition's ticks may be asked for, and the id of their topic.

    That is the oldest record, or the group's offset: a lane's row says more than that while it is in doubt.
    """
    async with admin_client(settings) as admin:
        count = (await count_partitions(admin, [EXPIRY_TICKS]))[EXPIRY_TICKS]
        topic_id = (await topic_ids(admin, [EXPIRY_TICKS]))[EXPIRY_TICKS]
        places = [TopicPartition(EXPIRY_TICKS, number) for number in range(count)]
        committed = await committed_offsets(admin, GROUP, places)
    async with open_cluster_queries(settings) as queries:
        oldest = await queries.offsets(dict.fromkeys(places, EARLIEST))
    if missing := [place.partition for place in places if place not in oldest]:
        raise NotSetUpError(
            f"no broker tells the oldest record of {EXPIRY_TICKS}/{missing[0]}: try again once it has a leader"
        )
    return {place.partition: min(offset, committed[place] or 0) for place, offset in oldest.items()}, topic_id


async def prune(
    settings: Settings,
    plan: PrunePlan,
    *,
    who: Operator,
    stop: asyncio.Event,
    progress: Callable[[int], None] = lambda _: None,
) -> OngoingOperation:
    """Delete what a plan found, in steps; return the operation and its result. It may run beside the workers.

    Args:
        settings: where Kafka and Postgres are.
        plan: the accepted plan. What became prunable since stays for the next run.
        who: the operator.
        stop: ends the run between two steps; the same command goes on.
        progress: called with the number of ticks deleted.

    Raises:
        RefusedError: when another run is under way.
        ServerError: when one of several servers does not answer.
        OSError, asyncpg.PostgresError: when Postgres cannot be reached or refuses.

    """
    async with recorded_operation(settings, Intent(VERB, *who, {}, plan.summary())) as operation:
        operation.result["deleted"] = 0

        async def note(deleted: int) -> None:
            operation.result["deleted"] += deleted
            with naming_server(settings):
                await operation.save_progress()
            progress(operation.result["deleted"])

        for server, holdings in await all_holdings(settings):
            async with open_of_books(server, patient=True) as connection:
                for partition in filter(holdings.has_number, sorted(plan.oldest)):
                    await _prune_partition(connection, plan, partition, stop, note)
        operation.stopped = stop.is_set()
    return operation


async def _prune_partition(
    connection: Connection, plan: PrunePlan, partition: int, stop: asyncio.Event, note: Callable[[int], Awaitable[None]]
) -> None:
    first = 0
    while not stop.is_set():
        last = await connection.fetchval(_STEP_END, partition, first, _STEP)
        if last is None:
            return
        deleted = await connection.execute(_DELETE, [partition], [plan.oldest[partition]], first, last, plan.topic_id)
        await note(int(deleted.removeprefix("DELETE ")))
        first = last + 1


def _places(oldest: Mapping[int, int]) -> tuple[list[int], list[int]]:
    return list(oldest), list(oldest.values())
