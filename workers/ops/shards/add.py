"""Prepares an empty server for numbers of the books: its own id, and an ordinal by which its keys are told apart."""

from dataclasses import dataclass
from typing import Any, Final

from pydantic import SecretStr

from infra.postgres import Connection, open_database
from infra.settings import Settings
from workers.ops.operations import Intent, OngoingOperation, Operator, RefusedError, recorded_operation
from workers.ops.shards.members import check_members
from workers.ops.shards.privileges import require_owner
from workers.ops.shards.servers import ShardServer, books_partitions, open_session, read_server, read_servers

__all__ = ["ADD_VERB", "AddPlan", "add_server", "plan_add"]

ADD_VERB: Final = "shards add"
_KEYS: Final = 2**40  # of each server
_FILLED: Final = ("accounts", "lots", "journal", "ticks", "lanes", "original_ids", "operations", "audits")
_IDENTITIES: Final = """
select c.relname as table_name, a.attname as column_name
from pg_attribute as a
inner join pg_class as c on c.oid = a.attrelid
where a.attidentity <> '' and not a.attisdropped and c.relnamespace = current_schema()::regnamespace
order by 1, 2
"""
# A server that was prepared and is not in INMAIL_DATABASE_SHARDS yet has its ordinal all the same.
_LAST: Final = "select coalesce(max((plan ->> 'ordinal')::integer), 0) from operations where verb = $1"

_PLANNED: Final = "select count(*) from operations where verb = $1 and (plan ->> 'ordinal')::integer >= $2"


@dataclass(frozen=True, slots=True)
class AddPlan:
    """What preparing a server would do."""

    target: ShardServer
    ordinal: int
    partitions: int | None  # by which the books number accounts; None before the first lane

    def summary(self) -> dict[str, Any]:
        """Return it for JSON."""
        return {
            "server": self.target.address,
            "ordinal": self.ordinal,
            "first_key": self.ordinal * _KEYS,
            "partitions": self.partitions,
        }


async def plan_add(settings: Settings, to: str) -> AddPlan:
    """Return what preparing a server would do.

    Raises:
        RefusedError: when the server is one of the books, is not empty, was prepared, or has other migrations, or a
            worker knows of one server only.
        UnreachableServerError: when a server does not answer or is not set up.
        KafkaError, OSError, asyncpg.PostgresError: when a server fails.

    """
    servers = await read_servers(settings)
    target = await read_server(settings.model_copy(update={"database_url": SecretStr(to)}))
    home = await read_server(settings)
    if target.shard.ordinal or target.shard.numbers:
        raise RefusedError(
            f"{target.name} was prepared before: add it to INMAIL_DATABASE_SHARDS, then `inmail shards list`"
        )
    if target.migrations != home.migrations:
        raise RefusedError(
            f"{target.address} and {home.address} have other migrations: run `inmail migrate` of one version on both"
        )
    async with open_database(target.settings) as connection:
        await _check_empty(connection, target)
    async with open_database(settings) as connection:
        last = await connection.fetchval(_LAST, ADD_VERB)
    await check_members(settings)  # Kafka would refuse the new server's workers
    ordinal = max(last, *(each.shard.ordinal for each in servers)) + 1
    return AddPlan(target, ordinal, books_partitions(servers))


async def _check_empty(connection: Connection, target: ShardServer) -> None:
    for table in _FILLED:
        if await connection.fetchval(f"select exists (select from {table})"):  # noqa: S608 - our own names
            raise RefusedError(
                f"{target.address} is not empty: `{table}` has rows. Only a database that `inmail migrate` has made,"
                " and that no worker was ever started with, can be added"
            )


async def add_server(settings: Settings, plan: AddPlan, who: Operator) -> OngoingOperation:
    """Prepare a server as planned, all at once, on record; return the operation.

    Raises:
        RefusedError: when another `shards add` runs or has run since the plan, or the server is the one of
            INMAIL_DATABASE_URL, is not empty any more or was prepared meanwhile.
        MissingPrivilegesError: when the user does not own the server's tables.
        UnreachableServerError, OSError, asyncpg.PostgresError: when a server fails.

    """
    intent = Intent(ADD_VERB, *who, {"to": plan.target.address}, plan.summary())
    # The first session's lock keeps the second from the same database, by whatever address.
    async with (
        open_session(settings),
        open_session(plan.target.settings) as session,
        recorded_operation(settings, intent) as operation,
    ):
        await require_owner(session)
        if await operation.connection.fetchval(_PLANNED, ADD_VERB, plan.ordinal) > 1:  # this one is the first
            raise RefusedError(
                f"another server was added meanwhile, perhaps as server {plan.ordinal}: run the same command again"
            )
        if session.server.shard != plan.target.shard:
            raise RefusedError(f"{plan.target.address} was prepared meanwhile")
        connection = session.connection
        async with connection.transaction():
            await connection.execute("lock table shard, lanes, accounts in exclusive mode")
            await _check_empty(connection, plan.target)
            shard_id = await connection.fetchval(
                "update shard set shard_id = gen_random_uuid(), ordinal = $1, holds_all = false returning shard_id",
                plan.ordinal,
            )
            for table, column in await connection.fetch(_IDENTITIES):
                first = plan.ordinal * _KEYS
                await connection.execute(f'alter table "{table}" alter column "{column}" restart with {first}')
            if plan.partitions is not None:
                await connection.execute(
                    "insert into partitioning (partitions) values ($1) on conflict (one) do update"
                    " set partitions = excluded.partitions",
                    plan.partitions,
                )
        operation.result |= {"shard_id": str(shard_id), "ordinal": plan.ordinal}
    return operation
