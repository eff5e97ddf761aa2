"""The command `migrate`: updates the database to this version."""

import typer

from infra.migrate import Migrated, migrate
from infra.postgres import open_database
from infra.postgres_session import check_search_path, find_weak_settings
from infra.settings import Settings
from infra.shards import settings_of_shards
from infra.terminal import console, error_console
from workers.commands.running import run_command, tell_silent_servers
from workers.ledger.store import FUNCTIONS
from workers.ops.books.shards import ServerError, naming_server, server_name

__all__ = ["migrate_command"]


def migrate_command() -> None:
    """Update the database to this version: apply missing migrations, replace all functions.

    Where several servers hold the books: each of them.
    """
    done = run_command(_migrate_all)
    silent = [each for _, each in done if isinstance(each, ServerError)]
    for server, each in done:
        if isinstance(each, ServerError):
            continue
        if len(done) > 1:
            console().print(f"{server}:", soft_wrap=True)
        for name in each.applied:
            console().print(f"applied {name}")
        for notice in each.notices:
            console().print(notice, soft_wrap=True)
        console().print(f"{len(each.applied)} migrations applied, {each.functions} function files replaced")
    if exit_ := tell_silent_servers(silent):
        raise typer.Exit(exit_)


async def _migrate_all(settings: Settings) -> list[tuple[str, Migrated | ServerError]]:
    """Migrate every server in turn; one that does not answer keeps none of the others."""
    done: list[tuple[str, Migrated | ServerError]] = []
    for server in settings_of_shards(settings):
        try:
            with naming_server(server):
                done.append((server_name(server), await _migrate(server)))
        except ServerError as error:
            done.append((server_name(server), error))
    return done


async def _migrate(settings: Settings) -> Migrated:
    async with open_database(settings, patient=True) as connection:  # indexing a large journal takes minutes
        await check_search_path(connection)
        for weak in await find_weak_settings(connection):
            error_console().print(f"warning: {weak}", soft_wrap=True)
        return await migrate(connection, [FUNCTIONS], tell=lambda text: error_console().print(text, soft_wrap=True))
