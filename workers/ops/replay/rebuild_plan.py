"""What it would take to decide the topics again into other books: from where to where, and whether that is safe.

The other books are a database or a schema of their own. It is empty, or it was begun by the same verb asked in the same
way: then its lanes say where to go on. Everything else is refused, the live books above all.
"""

import asyncio
import re
import secrets
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import asynccontextmanager
from dataclasses import asdict, dataclass
from datetime import datetime
from hashlib import sha256
from pathlib import Path
from typing import Any, Final

import asyncpg
from aiokafka import TopicPartition
from pydantic import PostgresDsn, SecretStr

from infra.clock import EPOCH, to_milliseconds
from infra.kafka.clients import reader
from infra.kafka.records import partition_counts
from infra.postgres import Connection, connect_database
from infra.settings import Settings
from workers.jobs.record_times import TimePolicy
from workers.ledger.plans import SHIPPED, Catalogue, load_catalogue
from workers.ops.books.snapshot import open_books
from workers.ops.operations import RefusedError
from workers.ops.replay.merge_topics import PartitionCursor
from workers.topology import WORKER_OF

__all__ = ["RebuildPlan", "RebuildRequest", "database_of", "plan_rebuild", "target_settings"]

_SCHEMA: Final = re.compile("(?!pg_)[a-z_][a-z0-9_]{0,62}")
USUAL_RATE = 1_500  # records a second, for the first estimate of how long it takes


@dataclass(frozen=True, slots=True)
class RebuildRequest:
    """What is to be decided again, and by which rules."""

    verb: str
    url: SecretStr | None = None  # of the database for the other books; None: the live one, in a schema
    schema: str | None = None  # of that database; None: the user's own, as the server has it
    catalogue: str | None = None  # file; None: the live one
    changes: tuple[str, ...] = ()  # to its values
    since: datetime | None = None  # the other catalogue holds from then on, the live one before
    start: datetime | None = None  # only records from then on
    until: datetime | None = None  # only records before that
    partial: bool = False  # also where retention has taken the beginning

    def catalogues(self, settings: Settings) -> tuple[Catalogue, Catalogue]:
        """Return the catalogue that holds at first, and the one that holds from `since` on.

        Raises:
            CatalogueError: when a file cannot be read, or a change names nothing in it.

        """
        other = load_catalogue(self.catalogue or settings.plans_file, self.changes)
        return (other if self.since is None else load_catalogue(settings.plans_file)), other

    def arguments(self, settings: Settings) -> dict[str, Any]:
        """Return all that the result depends on, as it is kept: books begun with others are not gone on with."""
        files = [Path(self.catalogue or settings.plans_file or SHIPPED), Path(settings.plans_file or SHIPPED)]
        return {
            "database": database_of(settings, self),
            "catalogue": self.catalogue,
            "set": list(self.changes),
            "since": self.since and self.since.isoformat(),
            "from": self.start and self.start.isoformat(),
            "until": self.until and self.until.isoformat(),
            "catalogues_sha256": [sha256(file.read_bytes()).hexdigest() for file in files],
        }


@dataclass(frozen=True, slots=True)
class Span:
    """What is to be read of one input partition: the offsets [start, end)."""

    topic: str
    partition: int
    start: int
    end: int
    as_of: datetime  # the latest broker time read before
    lost: int  # records before the start that retention has taken, unread


@dataclass(frozen=True, slots=True)
class RebuildPlan:
    """What would be read, and into what."""

    database: str
    spans: tuple[Span, ...]
    begun: bool  # by an earlier run, which this one goes on with

    @property
    def records(self) -> int:
        """How many records are to be read; transactions' markers count too."""
        return sum(max(0, span.end - span.start) for span in self.spans)

    @property
    def lost(self) -> int:
        """How many records retention has taken."""
        return sum(span.lost for span in self.spans)

    def seconds(self, rate: float | None) -> float:
        """How long it takes, about."""
        return self.records / min(rate or USUAL_RATE, USUAL_RATE)

    def sources(
        self, partition: int, times: Mapping[TopicPartition, TimePolicy], until: datetime | None
    ) -> list[PartitionCursor]:
        """Return what is to be read together."""
        return [
            PartitionCursor(
                place := TopicPartition(span.topic, partition), span.start, span.end, span.as_of, times[place], until
            )
            for span in self.spans
            if span.partition == partition
        ]

    def summary(self) -> dict[str, Any]:
        """Return it for JSON."""
        spans = [{k: v for k, v in asdict(span).items() if k != "as_of"} for span in self.spans]
        return {
            "database": self.database,
            "records": self.records,
            "goes_on": self.begun,
            "lost_to_retention": self.lost,
            "partitions": spans,
        }


def target_settings(settings: Settings, asked: RebuildRequest) -> Settings:
    """Return the settings with the other books for the books."""
    url = (asked.url or settings.database_url).get_secret_value()
    if asked.schema is not None:
        # Nothing but this schema is looked into: what it lacks is not found in the live books.
        url += f"{'&' if '?' in url else '?'}search_path={asked.schema}"
    return settings.model_copy(update={"database_url": SecretStr(url)})


def database_of(settings: Settings, asked: RebuildRequest) -> str:
    """Return where the other books are, without who connects to them and how."""
    url = PostgresDsn(target_settings(settings, asked).database_url.get_secret_value())
    hosts = ",".join(f"{host['host'] or ''}:{host['port'] or 5432}" for host in url.hosts())
    return f"{hosts}{url.path or ''}{f' schema {asked.schema}' if asked.schema else ''}"


async def plan_rebuild(settings: Settings, asked: RebuildRequest) -> RebuildPlan:
    """Return what a rerun would do, without doing it: it reads as far as the live books have read.

    Raises:
        RefusedError: when the other database cannot be used for it, or the topics no longer hold what it takes.
        NotSetUpError: when the topics or the live books do not exist.
        CatalogueError: when a catalogue cannot be read.
        KafkaError, OSError, asyncpg.PostgresError: when Kafka or Postgres cannot be reached or refuses.

    """
    asked.catalogues(settings)
    if asked.schema is not None and not _SCHEMA.fullmatch(asked.schema):
        raise RefusedError(f"{asked.schema} is no name for a schema here: letters a to z, digits and _, not pg_...")
    async with open_books(settings) as live:
        ends = await _lanes(live)
        begun, read = await _inspect(settings, asked, live)
    counts = await partition_counts(settings, WORKER_OF)
    places = [TopicPartition(topic, number) for topic, count in counts.items() for number in range(count)]
    async with reader(settings) as consumer:
        oldest = await consumer.beginning_offsets(places)
        newest = await consumer.end_offsets(places)
        firsts = dict.fromkeys(places, 0) | (await _firsts(consumer, places, asked.start, newest))
    spans = []
    for place in places:
        end = ends.get(place, (0, EPOCH))[0]
        if end > newest[place]:
            raise RefusedError(
                f"the live books have read {place.topic}/{place.partition} up to offset {end}, but it ends at"
                f" {newest[place]}: was the topic made anew? What they decided cannot be read again"
            )
        first, as_of = read.get(place, (firsts[place], EPOCH))
        start = min(max(first, oldest[place]), end)
        spans.append(Span(place.topic, place.partition, start, end, as_of, max(0, start - first)))
    plan = RebuildPlan(database_of(settings, asked), tuple(spans), begun)
    if plan.lost and not asked.partial:
        worst = max(spans, key=lambda span: span.lost)
        raise RefusedError(
            f"retention has taken {plan.lost:,} records, {worst.topic}/{worst.partition} up to offset {worst.start}:"
            " the other books would lack what they did. To decide what is left all the same, say --partial"
        )
    return plan


async def _firsts(
    consumer: Any,  # noqa: ANN401 - aiokafka has no types
    places: Sequence[TopicPartition],
    start: datetime | None,
    newest: Mapping[TopicPartition, int],
) -> dict[TopicPartition, int]:
    """Return the first offset of a time or later, in each partition; nothing where all is meant."""
    if start is None:
        return {}
    found = await consumer.offsets_for_times(dict.fromkeys(places, to_milliseconds(start)))
    return {place: newest[place] if found[place] is None else found[place].offset for place in places}


async def _lanes(connection: Connection) -> dict[TopicPartition, tuple[int, datetime]]:
    rows = await connection.fetch(
        "select topic, partition, next_offset, as_of from lanes where next_offset is not null"
    )
    return {TopicPartition(row[0], row[1]): (row[2], row[3] or EPOCH) for row in rows}


async def _inspect(
    settings: Settings, asked: RebuildRequest, live: Connection
) -> tuple[bool, dict[TopicPartition, tuple[int, datetime]]]:
    """Tell whether the other database was begun by the same, and how far its lanes have read.

    Raises:
        RefusedError: when it is the live one, or holds anything else.

    """
    name = database_of(settings, asked)
    async with _connected(settings, asked) as target:
        await _refuse_live(live, target, asked, name)
        tables = await target.fetchval(
            "select count(*) from pg_class as c join pg_namespace as n on n.oid = c.relnamespace where c.relkind in"
            " ('r', 'p') and n.nspname not like 'pg\\_%' and n.nspname <> 'information_schema'"
            " and ($1::text is null or n.nspname = $1)",
            asked.schema,
        )
        if not tables:
            return False, {}
        if await target.fetchval("select to_regclass('lanes') is null or to_regclass('operations') is null"):
            raise RefusedError(f"{name} holds tables that are not of these books: take an empty database")
        others = await target.fetchval(
            "select count(*) from operations where verb <> $1 or arguments <> $2",
            asked.verb,
            asked.arguments(settings),
        )
        own = await target.fetchval("select count(*) from operations") > 0 and not others
        if not own and await target.fetchval(
            "select exists (select from accounts) or exists (select from ticks) or exists (select from lanes)"
            " or exists (select from operations)"
        ):
            raise RefusedError(
                f"{name} is not empty, and was not begun by this verb with these options and catalogues: take"
                " an empty database, or say what it was begun with"
            )
        return own, await _lanes(target)


async def _refuse_live(live: Connection, target: Connection, asked: RebuildRequest, name: str) -> None:
    """Refuse the live books, by whatever name they were called: a lock taken in their database is held in it."""
    number = secrets.randbits(62)
    await live.execute("select pg_advisory_lock($1)", number)
    try:
        if await target.fetchval("select pg_try_advisory_lock($1)", number):
            await target.execute("select pg_advisory_unlock($1)", number)
            return
    finally:
        await live.execute("select pg_advisory_unlock($1)", number)
    if asked.schema is None:
        raise RefusedError(f"{name} is the live database: take an empty one, or a schema of its own: --schema")
    if asked.schema == await live.fetchval("select current_schema()"):
        raise RefusedError(f"{name} is that of the live books: take another one")


@asynccontextmanager
async def _connected(settings: Settings, asked: RebuildRequest) -> AsyncIterator[Connection]:
    try:
        async with asyncio.timeout(settings.database_timeout_seconds):
            connection = await connect_database(target_settings(settings, asked))
    except asyncpg.InvalidCatalogNameError as error:
        name = database_of(settings, asked)
        raise RefusedError(f"{name}: {error}: make it first, `createdb` does") from error
    try:
        yield connection
    finally:
        await connection.close()
