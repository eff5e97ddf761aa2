"""Plans a rebuild: the offsets to decide again into a target database, and whether that is safe.

The target is a database or a schema of its own. It must be empty, or begun by the same verb with the same arguments:
then the rebuild resumes where the target's lanes are. Any other target is refused, above all the live ledger.
"""

import asyncio
import re
import secrets
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from dataclasses import asdict, dataclass
from datetime import datetime
from hashlib import sha256
from pathlib import Path
from typing import Any, Final, NamedTuple

import asyncpg
from aiokafka import TopicPartition
from pydantic import PostgresDsn, SecretStr

from infra.postgres import Connection, connect_database
from infra.settings import Settings
from infra.shards import number_ranges
from workers.jobs.record_times import TimePolicy, read_set_backs
from workers.ledger.plans import SHIPPED, Catalogue, load_catalogue
from workers.ops.books.snapshot import open_books
from workers.ops.numbers import require_one_server
from workers.ops.operations import RefusedError
from workers.ops.replay.merge_topics import PartitionCursor
from workers.ops.replay.rebuild_spans import (
    Positions,
    Span,
    plan_spans,
    read_ended,
    read_positions,
    read_topic_ids,
    refuse_lost,
    refuse_recreated,
    refuse_set_back,
)

__all__ = ["RebuildPlan", "RebuildRequest", "database_of", "plan_rebuild", "target_settings"]

_SCHEMA: Final = re.compile("(?!pg_)[a-z_][a-z0-9_]{0,62}")
USUAL_RATE = 1_500  # records a second, for the estimate of the duration


@dataclass(frozen=True, slots=True)
class RebuildRequest:
    """The records to decide again, and the rules to decide them by."""

    verb: str
    url: SecretStr | None = None  # of the target database; None: the live database, in another schema
    schema: str | None = None  # of the target database; None: the user's default schema
    catalogue: str | None = None  # file; None: the live catalogue
    changes: tuple[str, ...] = ()  # to values of the catalogue
    since: datetime | None = None  # the other catalogue applies from this time on, the live catalogue before
    start: datetime | None = None  # only records from this time on
    until: datetime | None = None  # only records before this time
    partial: bool = False  # also if retention has deleted the first records
    numbers: tuple[int, ...] = ()  # of one of several servers, whose live ledger has only these; empty: all

    def catalogues(self, settings: Settings) -> tuple[Catalogue, Catalogue]:
        """Return the catalogue before `since`, and the catalogue from `since` on.

        Raises:
            CatalogueError: when a file cannot be read, or a change names no value of the catalogue.

        """
        other = load_catalogue(self.catalogue or settings.plans_file, self.changes)
        return (other if self.since is None else load_catalogue(settings.plans_file)), other

    def arguments(self, settings: Settings) -> dict[str, Any]:
        """Return all that the result depends on, for the record: a target is resumed only with equal arguments."""
        files = [Path(self.catalogue or settings.plans_file or SHIPPED), Path(settings.plans_file or SHIPPED)]
        return {
            "database": database_of(settings, self),
            "catalogue": self.catalogue,
            "set": list(self.changes),
            "since": self.since and self.since.isoformat(),
            "from": self.start and self.start.isoformat(),
            "until": self.until and self.until.isoformat(),
            "catalogues_sha256": [sha256(file.read_bytes()).hexdigest() for file in files],
            **({"numbers": list(self.numbers)} if self.numbers else {}),
        }


@dataclass(frozen=True, slots=True)
class RebuildPlan:
    """The records to read, and the target."""

    database: str
    spans: tuple[Span, ...]
    begun: bool  # by an earlier run, which this run resumes

    @property
    def records(self) -> int:
        """The number of records to read, transaction markers included."""
        return sum(max(0, span.end - span.start) for span in self.spans)

    @property
    def lost(self) -> int:
        """The number of records that retention has deleted, or that are gone with topics that were created again."""
        return sum(span.lost for span in self.spans)

    def seconds(self, rate: float | None) -> float:
        """Return the estimated duration in seconds."""
        return self.records / min(rate or USUAL_RATE, USUAL_RATE)

    def cursors(
        self, partition: int, times: Mapping[TopicPartition, TimePolicy], until: datetime | None
    ) -> list[PartitionCursor]:
        """Return a cursor for each topic of a partition number."""
        return [
            PartitionCursor(
                place := TopicPartition(span.topic, partition), span.start, span.end, span.as_of, times[place], until
            )
            for span in self.spans
            if span.partition == partition
        ]

    def summary(self) -> dict[str, Any]:
        """Return the plan for JSON."""
        spans = [{k: v for k, v in asdict(span).items() if k != "as_of"} for span in self.spans]
        return {
            "database": self.database,
            "records": self.records,
            "goes_on": self.begun,
            "lost_to_retention": self.lost,
            "partitions": spans,
        }


def target_settings(settings: Settings, request: RebuildRequest) -> Settings:
    """Return the settings with the target database as the database."""
    url = (request.url or settings.database_url).get_secret_value()
    if request.schema is not None:
        # The search path has only this schema: a missing table is not found in the live ledger's schema.
        url += f"{'&' if '?' in url else '?'}search_path={request.schema}"
    return settings.model_copy(update={"database_url": SecretStr(url)})


def database_of(settings: Settings, request: RebuildRequest) -> str:
    """Return the target's host, port, database and schema, without user and password."""
    url = PostgresDsn(target_settings(settings, request).database_url.get_secret_value())
    hosts = ",".join(f"{host['host'] or ''}:{host['port'] or 5432}" for host in url.hosts())
    return f"{hosts}{url.path or ''}{f' schema {request.schema}' if request.schema else ''}"


async def plan_rebuild(settings: Settings, request: RebuildRequest) -> RebuildPlan:
    """Return the plan of a rebuild, without deciding anything: it reads up to the live lanes' next offsets.

    Raises:
        RefusedError: when the target cannot be used, or the topics no longer have the records.
        NotSetUpError: when the topics or the live ledger's tables do not exist.
        CatalogueError: when a catalogue cannot be read.
        KafkaError, OSError, asyncpg.PostgresError: when Kafka or Postgres cannot be reached or refuses.

    """
    if not request.numbers:
        require_one_server(settings, f"inmail {request.verb}", "run the command, which goes from server to server")
    request.catalogues(settings)
    if request.schema is not None and not _SCHEMA.fullmatch(request.schema):
        raise RefusedError(f"{request.schema} is not a valid schema name here: use a to z, digits and _, not pg_...")
    async with open_books(settings) as live:
        positions, ended = await read_positions(live), await read_ended(live, request.start)
        set_backs, ids = await read_set_backs(live), await read_topic_ids(live)
        target = await _inspect_target(settings, request, live)
    await refuse_recreated(settings, request.numbers, ids)
    spans = await plan_spans(
        settings, request.numbers, request.start, live=positions, ended=ended, target=target.positions
    )
    for span in spans:
        place = TopicPartition(span.topic, span.partition)
        if place in target.positions and span.ended != target.ended.get(place, 0):
            raise RefusedError(
                f"{span.topic} was created again since the target was begun, or has lost records: use another database"
                " or schema"
            )
    refuse_set_back(spans, set_backs)
    if not request.partial:
        refuse_lost(spans)
    return RebuildPlan(database_of(settings, request), spans, target.begun)


class _Target(NamedTuple):
    """What an earlier run with the same arguments has left in the target."""

    begun: bool
    positions: Positions  # of its lanes
    ended: Mapping[TopicPartition, int]  # records of topics that had ended before it was begun


async def _inspect_target(settings: Settings, request: RebuildRequest, live: Connection) -> _Target:
    """Return what an earlier run has left in the target.

    Raises:
        RefusedError: when the target is the live ledger, or holds anything else.

    """
    name = database_of(settings, request)
    async with _connect_target(settings, request) as target:
        await _refuse_live(live, target, request, name)
        tables = await target.fetchval(
            "select count(*) from pg_class as c join pg_namespace as n on n.oid = c.relnamespace where c.relkind in"
            " ('r', 'p') and n.nspname not like 'pg\\_%' and n.nspname <> 'information_schema'"
            " and ($1::text is null or n.nspname = $1)",
            request.schema,
        )
        if not tables:
            return _Target(begun=False, positions={}, ended={})
        if await target.fetchval("select to_regclass('lanes') is null or to_regclass('operations') is null"):
            raise RefusedError(f"{name} holds tables of another application: use an empty database")
        others = await target.fetchval(
            "select count(*) from operations where verb <> $1 or arguments <> $2",
            request.verb,
            request.arguments(settings),
        )
        own = await target.fetchval("select count(*) from operations") > 0 and not others
        if not own and await target.fetchval(
            "select exists (select from accounts) or exists (select from ticks) or exists (select from lanes)"
            " or exists (select from operations)"
        ):
            await _refuse_moved(target, request, request.arguments(settings), name)
            raise RefusedError(
                f"{name} is not empty, and was not begun by this verb with these options and catalogues: use"
                " an empty database, or the options and catalogues it was begun with"
            )
        plan = await target.fetchval("select plan from operations order by operation limit 1") if own else None
        spans = plan["partitions"] if plan else ()
        ended = {TopicPartition(each["topic"], each["partition"]): each.get("ended", 0) for each in spans}
        return _Target(own, await read_positions(target), ended)


async def _refuse_moved(target: Connection, request: RebuildRequest, arguments: dict[str, Any], name: str) -> None:
    """Refuse a target that was begun with the same options, for other numbers: these have moved since."""
    row = await target.fetchrow(
        "select arguments -> 'numbers' as numbers from operations"
        " where verb = $1 and arguments - 'numbers' = $2::jsonb - 'numbers' limit 1",
        request.verb,
        arguments,
    )
    if row is not None:
        before, now = (number_ranges(each) if each else "all" for each in (row["numbers"], request.numbers))
        raise RefusedError(
            f"{name} was begun for the partition numbers that the server held then ({before}; now {now}): numbers have"
            " moved since, so use another --schema"
        )


async def _refuse_live(live: Connection, target: Connection, request: RebuildRequest, name: str) -> None:
    """Refuse the live ledger under any URL: a lock taken in the live database is held in the same database only."""
    number = secrets.randbits(62)
    await live.execute("select pg_advisory_lock($1)", number)
    try:
        if await target.fetchval("select pg_try_advisory_lock($1)", number):
            await target.execute("select pg_advisory_unlock($1)", number)
            return
    finally:
        await live.execute("select pg_advisory_unlock($1)", number)
    if request.schema is None:
        raise RefusedError(f"{name} is the live database: use an empty database, or a schema of its own (--schema)")
    if request.schema == await live.fetchval("select current_schema()"):
        raise RefusedError(f"{name} is the schema of the live ledger: use another schema")


@asynccontextmanager
async def _connect_target(settings: Settings, request: RebuildRequest) -> AsyncIterator[Connection]:
    try:
        async with asyncio.timeout(settings.database_timeout_seconds):
            connection = await connect_database(target_settings(settings, request))
    except asyncpg.InvalidCatalogNameError as error:
        name = database_of(settings, request)
        raise RefusedError(f"{name}: {error}: create the database first, with `createdb`") from error
    try:
        yield connection
    finally:
        await connection.close()
