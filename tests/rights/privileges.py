"""Privileges in Postgres that commands need beside reading, each of which can be taken away for a while."""

from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import asynccontextmanager
from typing import Final, NamedTuple

import asyncpg

from tests.rights.database import DatabaseUser, database_user_of
from tests.rights.site import Site
from tests.workers.command import Said, run
from workers.commands.running import Exit

__all__ = ["PRIVILEGES", "Privilege", "lacks_without", "names_privilege", "run_with_all"]


class Privilege(NamedTuple):
    """What may be done with a table, or with the database."""

    name: str
    place: str  # as `grant ... on` has it

    def __str__(self) -> str:
        return f"{self.name.upper()} on {self.place}"


class _Command(NamedTuple):
    """A command, what makes that it has something to do, and the privileges that it needs."""

    arguments: tuple[str, ...]
    arrangement: str
    privileges: Sequence[Privilege]
    good: Sequence[int] = (Exit.DONE,)  # with which it ends where it lacks nothing


_WHO: Final = ("--because", "tests", "--yes")
_WRITTEN: Final = ("insert", "update", "delete")
_RECORDED: Final = (Privilege("insert", "operations"), Privilege("update", "operations"))
_HELD: Final = """
update lanes set held = 'a test', held_offset = next_offset, held_time = now() + interval '1 day'
where topic = 'inmail.send-requests' and partition = 0
"""
_AHEAD: Final = """
update lanes set as_of = now() + interval '1 day' where topic = 'inmail.send-requests' and partition = 0
"""
_DECIDES: Final = (Privilege("select", "lanes"), *_RECORDED, Privilege("insert", "clock_decisions"))
_MARKS: Final = (Privilege("insert", "audits"), *(Privilege(each, "audited_accounts") for each in _WRITTEN))
_DECIDES_AGAIN: Final = (*_RECORDED, Privilege("create", "database site"))  # the owner reads as the workers' role

# The replays into a schema of the ledger's own database come as its owner; what they find is no matter here.
PRIVILEGES: Final[Mapping[str, _Command]] = {
    "clock show": _Command(("clock", "show"), "", (Privilege("select", "lanes"),)),
    "clock accept": _Command(("clock", "accept", "send", "0", *_WHO), _HELD, _DECIDES),
    "clock set-aside": _Command(("clock", "set-aside", "send", "0", *_WHO), _HELD, _DECIDES),
    "clock set-back": _Command(
        ("clock", "set-back", *_WHO),
        _AHEAD,
        (
            *(Privilege("select", "lanes"), *_RECORDED, Privilege("update", "lanes")),
            *(Privilege("insert", "clock_set_backs"), *(Privilege(each, "clock_decisions") for each in _WRITTEN[1:])),
        ),
    ),
    "dead-letters redrive": _Command(
        ("dead-letters", "redrive", "--anyway", "--again", *_WHO),
        "",
        (*_RECORDED, Privilege("insert", "redriven"), Privilege("update", "redriven")),
    ),
    "audit": _Command(("audit", "--mark"), "", _MARKS),
    "replay rebuild": _Command(
        ("replay", "rebuild", "--schema", "rebuilt", *_WHO), "", _DECIDES_AGAIN, (Exit.DONE, Exit.NO)
    ),
    "replay shadow": _Command(("replay", "shadow", "--schema", "shadow", *_WHO), "", _DECIDES_AGAIN),
}


async def run_with_all(site: Site, command: str) -> Said:
    """Run a command with its documented rights and privileges."""
    if PRIVILEGES[command].arrangement:
        await _as_owner(site, PRIVILEGES[command].arrangement)
    return await run(site.user(command), *PRIVILEGES[command].arguments, folder=site.folder)


async def lacks_without(site: Site, command: str, privilege: Privilege) -> Said:
    """Run a command while its user lacks a privilege."""
    async with _without(site, command, privilege):
        return await run_with_all(site, command)


def names_privilege(command: str, privilege: Privilege, said: Said) -> bool:
    """Tell whether a command that lacked a privilege named it, with what it is on and its user, and failed."""
    user = database_user_of(command)
    named = f"does not let user {user} " in said.err and f": `grant {privilege} to {user}`" in said.err
    return said.code == Exit.UNREACHABLE and named


@asynccontextmanager
async def _without(site: Site, command: str, privilege: Privilege) -> AsyncIterator[None]:
    user = database_user_of(command)
    # An operator has what it reads of the readers' role.
    role = DatabaseUser.READER if privilege.name == "select" and user is DatabaseUser.OPERATOR else user
    name, place = privilege
    await _as_owner(site, f"revoke {name} on {place} from {role}")
    try:
        yield
    finally:
        await _as_owner(site, f"grant {name} on {place} to {role}")


async def _as_owner(site: Site, statement: str) -> None:
    owner = site.as_database_user(site.administrator, DatabaseUser.OWNER)
    connection = await asyncpg.connect(owner.database_url.get_secret_value())
    await connection.execute(statement)
    await connection.close()
