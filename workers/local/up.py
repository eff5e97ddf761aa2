"""`inmail up`: the stack and the workers in the foreground, their data kept, until Ctrl-C."""

import asyncio
from pathlib import Path

from infra.local.stack import LocalStack
from infra.migrate import migrate
from infra.postgres import connect_database
from infra.settings import Settings, load_settings
from workers.commands.terminal import console
from workers.ledger.store import FUNCTIONS
from workers.local.processes import Workers
from workers.ops.topics import apply_topics, plan_topics
from workers.worker import stop_requested

__all__ = ["prepare", "run_up", "stack_settings"]

_CHECK_SECONDS = 0.5


def stack_settings(stack: LocalStack, **more: object) -> Settings:
    """Return the settings of this environment, with the stack's addresses."""
    return load_settings(kafka_bootstrap_servers=stack.kafka_bootstrap_servers, database_url=stack.database_url, **more)


async def prepare(settings: Settings) -> list[str]:
    """Migrate and make the topics; return what was done, a line each."""
    connection = await connect_database(settings)
    try:
        migrated = await migrate(connection, [FUNCTIONS])
    finally:
        await connection.close()
    changes = await plan_topics(settings)
    await apply_topics(settings, changes)
    done = [f"{len(migrated.applied)} migrations applied, {migrated.functions} functions in place"]
    return done + [f"{change.topic}: {change.text}" for change in changes]


async def run_up(data_dir: Path, kafka_port: int | None, postgres_port: int | None) -> None:
    """Run until SIGINT or SIGTERM, then drain the workers and stop the stack.

    Raises:
        LocalStackError: when the stack cannot be started; the message says what to do.
        ChildError: when a worker ended by itself.

    """
    out = console()
    stop = stop_requested()
    stack = LocalStack(data_dir, kafka_port, postgres_port, report=out.print)
    await asyncio.to_thread(stack.start)
    try:
        settings = stack_settings(stack)
        for line in await prepare(settings):
            out.print(f"  {line}")
        workers = Workers(settings, data_dir / "logs")
        workers.start()
        try:
            out.print(f"\nKafka      {stack.kafka_bootstrap_servers}\nPostgres   {stack.database_url}")
            out.print(f"Logs       {data_dir / 'logs'}\n\nIn another terminal:\n")
            out.print(f"  export INMAIL_KAFKA_BOOTSTRAP_SERVERS={stack.kafka_bootstrap_servers}")
            out.print(f"  export INMAIL_DATABASE_URL={stack.database_url}\n")
            out.print("Ctrl-C drains the workers and stops everything; the data stays.")
            while not stop.is_set():
                workers.check()
                try:
                    await asyncio.wait_for(stop.wait(), _CHECK_SECONDS)
                except TimeoutError:
                    continue
            out.print("\ndraining the workers ...")
        finally:
            codes = await asyncio.to_thread(workers.stop)
        out.print(", ".join(f"{name} ended with {code}" for name, code in codes.items()))
    finally:
        await asyncio.to_thread(stack.stop)
        out.print("stopped")
