"""The database's roles as docs/operate.md makes them, with logins by password where the server wants TLS."""

import re
from collections.abc import Mapping
from enum import StrEnum
from pathlib import Path
from typing import Final

import asyncpg
from pydantic import SecretStr

from infra.settings import Settings
from tests.rights.certificates import Certificates
from tests.rights.table import DOCUMENT
from workers.rights import CHANGING

__all__ = ["DatabaseUser", "as_database_user", "database_user_of", "grant_roles", "make_roles", "secure_settings"]

_BLOCK: Final = re.compile(r"```sql\n(.*?)```", re.DOTALL)


class DatabaseUser(StrEnum):
    """The users of the database, by what they are for."""

    OWNER = "inmail_owner"
    WORKERS = "inmail_workers"
    READER = "inmail_reader"
    OPERATOR = "inmail_operator"


def database_user_of(command: str) -> DatabaseUser:
    """Return as which user of the database a command comes."""
    if command in ("topics plan", "topics apply", "migrate", "replay rebuild", "replay shadow"):
        return DatabaseUser.OWNER
    if command.startswith("worker") or command == "doctor":
        return DatabaseUser.WORKERS
    return DatabaseUser.OPERATOR if command in CHANGING else DatabaseUser.READER


def documented_statements() -> tuple[str, str]:
    """Return what an administrator runs once, and what the owner runs after the first migration."""
    administrator, owner = _BLOCK.findall(DOCUMENT.read_text(encoding="utf-8"))
    return administrator, owner


async def make_roles(administrator: str, database: str) -> None:
    """Run what docs/operate.md tells an administrator to run, and give each user a password.

    Args:
        administrator: the address of the server's own database, as a superuser.
        database: the name of the ledger's database.

    """
    statements, _ = documented_statements()
    connection = await asyncpg.connect(administrator)
    for statement in statements.replace("inmail owner", f"{database} owner").split(";"):
        if statement.strip():
            await connection.execute(statement)
    for user in DatabaseUser:
        await connection.execute(f"alter role {user} password 'of {user}'")
    await connection.close()


async def grant_roles(owner: Settings) -> None:
    """Run what docs/operate.md tells the owner to run."""
    _, statements = documented_statements()
    connection = await asyncpg.connect(owner.database_url.get_secret_value())
    await connection.execute(statements)
    await connection.close()


def as_database_user(
    settings: Settings, user: DatabaseUser, authority: Path | None, place: tuple[int, str]
) -> Settings:
    """Return settings with which a user comes to a database.

    Args:
        settings: all others.
        user: the user.
        authority: that of the server's certificate, whose name is checked; None: without TLS.
        place: the server's port, and the database.

    """
    port, name = place
    more = f"?sslmode=verify-full&sslrootcert={authority}" if authority else ""
    url = f"postgresql://{user}:of%20{user}@127.0.0.1:{port}/{name}{more}"
    return settings.model_copy(update={"database_url": SecretStr(url)})


def secure_settings(certificates: Certificates, folder: Path) -> Mapping[str, str]:
    """Return settings of a server that lets everybody in over TLS and by password only, except its superuser."""
    rules = folder / "pg_hba.conf"
    rules.write_text(
        "host all postgres 127.0.0.1/32 trust\nhostssl all all 127.0.0.1/32 scram-sha-256\nhost all all all reject\n"
    )
    return {
        "ssl": "on",
        "ssl_cert_file": str(certificates.certificate),
        "ssl_key_file": str(certificates.key),
        "hba_file": str(rules),
    }
