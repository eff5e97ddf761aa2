"""The command `migrate`: updates the database to this version."""

from infra.migrate import Migrated, migrate
from infra.postgres import connect_database
from infra.postgres_session import check_search_path, find_weak_settings
from infra.settings import Settings
from infra.terminal import console, error_console
from workers.commands.running import run_command
from workers.ledger.store import FUNCTIONS

__all__ = ["migrate_command"]


def migrate_command() -> None:
    """Update the database to this version: apply missing migrations, replace all functions."""

    async def run(settings: Settings) -> Migrated:
        connection = await connect_database(settings, patient=True)  # indexing a large journal takes minutes
        try:
            await check_search_path(connection)
            for weak in await find_weak_settings(connection):
                error_console().print(f"warning: {weak}", soft_wrap=True)
            return await migrate(connection, [FUNCTIONS])
        finally:
            await connection.close()

    done = run_command(run)
    for name in done.applied:
        console().print(f"applied {name}")
    for notice in done.notices:
        console().print(notice, soft_wrap=True)
    console().print(f"{len(done.applied)} migrations applied, {done.functions} function files replaced")
