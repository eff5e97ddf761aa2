"""Plans a rebuild of each server that holds the books: its numbers into a schema of its own database.

Every server has to answer: the comparison is of all books. What is decided into a server's target is of its numbers
only, and a record of another number is a dead letter there, as it is to the server's lanes.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from infra.settings import Settings
from workers.ops.books.shards import has_one_server, naming_server, server_name
from workers.ops.books.snapshot import open_books
from workers.ops.books.whole_books import check_whole_books
from workers.ops.numbers import numbers_beside, servers_of_numbers
from workers.ops.operations import RefusedError
from workers.ops.replay.rebuild_plan import RebuildPlan, RebuildRequest, plan_rebuild, target_settings

__all__ = ["ServerRebuild", "plan_each_server"]


@dataclass(frozen=True, slots=True)
class ServerRebuild:
    """The rebuild of one server."""

    server: Settings = field(repr=False)
    request: RebuildRequest
    plan: RebuildPlan

    @property
    def name(self) -> str | None:
        """The name of one of several servers; None: the only one."""
        return None if has_one_server(self.server) else server_name(self.server)

    @property
    def target(self) -> Settings:
        """The settings of the target database."""
        return target_settings(self.server, self.request)

    def summary(self) -> dict[str, Any]:
        """Return the server and the plan for JSON."""
        return {"server": self.name, "numbers": list(self.request.numbers), "plan": self.plan.summary()}


async def plan_each_server(settings: Settings, request: RebuildRequest) -> list[ServerRebuild]:
    """Return the rebuild of the only server, or one of each server that holds numbers, in their order.

    Raises:
        NotHeldError, ServerError: of several servers, as `servers_of_numbers` raises them.
        PartOfBooksError: when the only server that is named holds some of the numbers.
        RefusedError, NotSetUpError, CatalogueError, KafkaError, OSError, asyncpg.PostgresError: as `plan_rebuild` does.

    """
    if has_one_server(settings):
        await check_whole_books(settings)
        return [ServerRebuild(settings, request, await plan_rebuild(settings, request))]
    if request.url is not None:
        raise RefusedError(
            "--database names one database, and each of several servers (INMAIL_DATABASE_SHARDS) needs its own: give"
            " --schema alone, for a schema in each server's database"
        )
    found = []
    for server, numbers in await servers_of_numbers(settings, ()):
        own = replace(request, numbers=numbers)
        try:
            with naming_server(server):
                await _check_copies(server, numbers)
                found.append(ServerRebuild(server, own, await plan_rebuild(server, own)))
        except RefusedError as error:
            raise RefusedError(f"{server_name(server)}: {error}") from error
    return found


async def _check_copies(server: Settings, numbers: Sequence[int]) -> None:
    """Refuse a server that has rows of numbers that another one holds: the comparison would count them."""
    async with open_books(server) as connection:
        if await numbers_beside(connection, numbers):
            raise RefusedError(
                "it has rows of numbers that another server holds: finish the move first, or run the same"
                " `inmail shards move` without --keep, which deletes them"
            )
