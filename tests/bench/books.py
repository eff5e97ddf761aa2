"""The books and the load that the benches share: accounts with credits, and requests of theirs."""

import os
import random
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from uuid import UUID, uuid4

import asyncpg

from infra.clock import utc_now
from infra.kafka.clients import partition_of
from infra.local.stack import LocalStack
from infra.migrate import migrate
from infra.postgres import connect_database
from infra.settings import Settings, load_settings
from schemas.billing import PromotionGranted
from schemas.catalogue import fingerprint
from schemas.envelope import AccountEvent
from schemas.sends import SendRequested
from workers.jobs.billing import BillingJob
from workers.jobs.job import Batch
from workers.ledger.model import Request
from workers.ledger.plans import Catalogue, Limits, load_catalogue
from workers.ledger.store import FUNCTIONS

__all__ = [
    "ACCOUNTS",
    "PARTITIONS",
    "Databases",
    "account",
    "every_rule_on",
    "gift",
    "requests_of",
    "sends",
    "stack_settings",
]

PARTITIONS = int(os.environ.get("BENCH_PARTITIONS", "12"))  # the default of INMAIL_TOPIC_PARTITIONS
ACCOUNTS = 10_000
GRANTED = datetime.now(UTC) - timedelta(days=1)

_LOTS = 3  # of each account, as a monthly plan has
_CREDITS = 100  # of each lot
_TEMPLATE = "bench_template"


def stack_settings(stack: LocalStack, database: str, server: int = 1) -> Settings:
    """Return the settings for one of the databases of a stack's server. All else is as a user would have it."""
    base, _, _ = stack.database_urls[server - 1].rpartition("/")
    return load_settings(
        kafka_bootstrap_servers=stack.kafka_bootstrap_servers,
        database_url=f"{base}/{database}",
        topic_partitions=PARTITIONS,
        log_format="json",
    )


def account(number: int) -> str:
    """Return the id of one of the accounts."""
    return f"member-{number:06}"


def gift(account_id: str) -> PromotionGranted:
    """Return an event of now that gives an account one credit."""
    data = {"promotion_id": "bench", "credits": 1}
    return PromotionGranted.create(id=uuid4(), source="/bench", subject=account_id, time=utc_now(), data=data)


def sends(count: int, seed: int) -> list[SendRequested]:
    """Return requests of random accounts; one in ten goes to a connection. Seeded.

    Their ids grow with time, as UUIDv7 do, which the README asks of producers.
    """
    dice = random.Random(seed)  # noqa: S311 - a workload
    now = datetime.now(UTC)
    milliseconds = int(now.timestamp() * 1000)
    return [
        SendRequested.create(
            id=UUID(int=(milliseconds << 80) | dice.getrandbits(80) & ~(0xF << 76) | 0x7 << 76),
            source="/bench",
            subject=account(dice.randrange(ACCOUNTS)),
            time=now,
            data={
                "recipient_id": f"member-{dice.randrange(10**6):06}",
                "relationship": "connection" if dice.random() < 0.1 else "none",
            },
        )
        for _ in range(count)
    ]


def requests_of(
    events: Sequence[AccountEvent], as_of: datetime, partition: int, first_offset: int
) -> list[Request[AccountEvent]]:
    """Return events of a partition as a lane would hand them to the ledger."""
    return [
        Request(event, event.subject, event.id, fingerprint(event), as_of, partition, offset)
        for offset, event in enumerate(events, first_offset)
    ]


def every_rule_on() -> Catalogue:
    """Return the shipped catalogue with all that it leaves off switched on, limits that nobody reaches included."""
    shipped = load_catalogue()
    plans = {
        name: plan.model_copy(
            update={"on_change": "forfeit", "credit_back_on_response": True, "separate_purchase": True}
        )
        for name, plan in shipped.plans.items()
    }
    limits = Limits(paid_sends_per_day=1_000, seat_sends_per_day=1_000, recipient_cooldown_hours=24)
    return replace(shipped, plans=plans, apply_balance_caps=True, limits=limits)


class Databases:
    """Databases with the same books, as many as are wanted: each a copy of one whose accounts hold credits."""

    def __init__(self, stack: LocalStack, server: int = 1) -> None:
        self._stack, self._server = stack, server
        self._count = 0

    async def prepare(self) -> None:
        """Make the one that is copied."""
        await self._admin(f"create database {_TEMPLATE}")
        settings = stack_settings(self._stack, _TEMPLATE, self._server)
        connection = await connect_database(settings)
        await migrate(connection, [FUNCTIONS])
        await connection.execute("insert into partitioning (partitions) values ($1)", PARTITIONS)
        job = BillingJob(load_catalogue())
        offset = 0
        for _ in range(_LOTS):
            by_partition: dict[int, list[PromotionGranted]] = {}
            for number in range(ACCOUNTS):
                given = PromotionGranted.create(
                    id=UUID(int=random.getrandbits(128), version=4),
                    source="/bench",
                    subject=account(number),
                    time=GRANTED,
                    data={"promotion_id": "bench", "credits": _CREDITS},
                )
                by_partition.setdefault(partition_of(given.subject.encode(), PARTITIONS), []).append(given)
            for partition, gifts in by_partition.items():
                for at in range(0, len(gifts), 1_000):
                    batch = Batch(requests_of(gifts[at : at + 1_000], GRANTED, partition, offset))
                    offset += 1_000
                    async with connection.transaction():
                        await job.decide(connection, batch)
        # As if the billing lanes had read these grants.
        await connection.execute(
            "insert into lanes (consumer_group, topic, partition, epoch, next_offset, as_of, owner_epoch)"
            " select $1, $2, source_partition, 1, max(source_offset) + 1, max(as_of), 1 from journal group by 3",
            job.group,
            job.topic,
        )
        await connection.execute("vacuum analyze")
        await connection.close()

    @asynccontextmanager
    async def one(self) -> AsyncIterator[Settings]:
        """Open a copy, and drop it afterwards. Dirty pages of what came before are written first."""
        self._count += 1
        name = f"bench_{self._count}"
        await self._admin(f"create database {name} template {_TEMPLATE}")
        await self._admin("checkpoint")
        try:
            yield stack_settings(self._stack, name, self._server)
        finally:
            await self._admin(f"drop database {name} with (force)")

    async def _admin(self, statement: str) -> None:
        connection = await asyncpg.connect(self._stack.database_urls[self._server - 1])
        await connection.execute(statement)
        await connection.close()
