"""The same story, played through the ledger's own functions: batch by batch, tick by tick."""

from datetime import datetime, timedelta

from infra.kafka.clients import partition_of
from infra.postgres import Connection
from schemas.catalogue import fingerprint
from schemas.envelope import AccountEvent
from tests.growth.history import (
    FREE,
    QUARTERS,
    SEND_EVERY,
    SENDS,
    Story,
    account_id,
    grant_slot,
    promotion,
    recipient,
    request_id,
    send,
    send_slot,
    tick_of,
    ticks_at,
    write_lanes,
)
from workers.ledger.model import Request, WorkerName
from workers.ledger.movements import decide
from workers.ledger.plans import load_catalogue
from workers.ledger.store import answer_all, open_batch
from workers.ledger.ticks import expire_step, tick_terms

__all__ = ["play"]

_CATALOGUE = load_catalogue()
_STEPS = 10_000


async def play(connection: Connection, story: Story) -> None:
    """Play a story into a migrated, empty database."""
    await connection.execute("insert into partitioning (partitions) values ($1)", story.partitions)
    ids = [account_id(number) for number in range(1, story.accounts + 1)]
    # Numbers follow from the order in which accounts are first seen: here, of their ids.
    await connection.fetch("select * from lock_accounts($1, $2)", ids, [0] * len(ids))
    lanes: list[list[tuple[int, str]]] = [[] for _ in range(story.partitions)]
    for number, each in enumerate(ids, 1):
        lanes[partition_of(each.encode(), story.partitions)].append((number, each))
    for quarter in range(QUARTERS + 1):
        start = story.quarter(quarter)
        for partition, members in enumerate(lanes):
            grants: list[Request[AccountEvent]] = []
            for rank, (_, each) in enumerate(members):
                at = start + timedelta(milliseconds=rank)
                event = promotion(quarter, id=request_id(each, at, grant_slot(quarter)), subject=each, time=at)
                grants.append(_request(event, at, partition, quarter * len(members) + rank))
            await _decide(connection, WorkerName.BILLING, grants)
        if quarter < QUARTERS:
            await _play_quarter(connection, story, quarter, lanes)
    await write_lanes(connection)


async def _play_quarter(connection: Connection, story: Story, quarter: int, lanes: list[list[tuple[int, str]]]) -> None:
    for number in range(1, SENDS + 1):
        slot = quarter * SENDS + number - 1
        for partition, members in enumerate(lanes):
            sends: list[Request[AccountEvent]] = []
            for rank, (account, each) in enumerate(members):
                at = story.quarter(quarter) + SEND_EVERY * number + timedelta(milliseconds=rank)
                event = send(
                    recipient(account, slot),
                    free=number == FREE,
                    id=request_id(each, at, send_slot(quarter, number)),
                    subject=each,
                    time=at,
                )
                sends.append(_request(event, at, partition, slot * len(members) + rank))
            await _decide(connection, WorkerName.SEND, sends)
    terms = tick_terms(_CATALOGUE, story.step_lots, _STEPS)
    for each_tick, at in enumerate(ticks_at(story, quarter)):
        tick = tick_of(at)
        for partition, members in enumerate(lanes):
            request = Request(tick, "", tick.id, fingerprint(tick), at, partition, 2 * quarter + each_tick)
            code = "booked" if not members else "booking"
            while code == "booking":
                async with connection.transaction():
                    code = (await expire_step(connection, request, at, terms)).code


def _request(event: AccountEvent, at: datetime, partition: int, offset: int) -> Request[AccountEvent]:
    return Request(event, event.subject, event.id, fingerprint(event), at, partition, offset)


async def _decide(connection: Connection, worker: WorkerName, requests: list[Request[AccountEvent]]) -> None:
    async with connection.transaction():
        opened = await open_batch(connection, worker, requests)
        answer_all(opened, requests, await decide(connection, opened, _CATALOGUE))
