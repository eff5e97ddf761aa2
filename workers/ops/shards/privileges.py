"""What the user of a move or of a new server has to be allowed in Postgres, asked before anything changes."""

from collections.abc import Mapping, Sequence
from typing import Final

from infra.postgres_rights import MissingPrivilegesError, require_privileges
from workers.ops.shards.servers import ShardSession
from workers.ops.shards.tables import DROPPED, MOVED

__all__ = ["require_mover", "require_owner"]

_MOVED: Final = ("select", "insert", "delete")
# On both servers: a number may come back.
_NEEDED: Final[Mapping[str, Sequence[str]]] = {
    **dict.fromkeys(MOVED, _MOVED),
    "lanes": (*_MOVED, "update"),
    **dict.fromkeys(DROPPED, ("select", "delete")),
    "operations": ("select", "insert"),
    "partitioning": ("select", "insert", "update"),
    "shard_numbers": ("select", "insert", "update"),
}
_OWNS: Final = """
select pg_has_role(c.relowner, 'usage') as owns, current_user as me, pg_get_userbyid(c.relowner) as owner
from pg_class as c where c.oid = to_regclass('accounts')
"""


async def require_mover(session: ShardSession) -> None:
    """Check that the user may move numbers to and from a server.

    Raises:
        MissingPrivilegesError: naming what it lacks.

    """
    action = "move numbers (docs/shards.md#move-a-number)"
    await require_privileges(session.connection, _NEEDED, session.server.name, action)


async def require_owner(session: ShardSession) -> None:
    """Check that the user owns the tables of a server, as whoever makes their keys begin elsewhere has to.

    Raises:
        MissingPrivilegesError: when it does not.

    """
    row = await session.connection.fetchrow(_OWNS)
    if row is not None and not row["owns"]:
        raise MissingPrivilegesError(
            f"{session.server.address} can be prepared by {row['owner']}, who owns its tables, and not by {row['me']}"
        )
