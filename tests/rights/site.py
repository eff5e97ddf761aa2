"""A site with users that have exactly the documented rights, where one right at a time can be taken away."""

import json
from collections.abc import AsyncIterator, Iterator, Mapping
from contextlib import asynccontextmanager, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Final
from urllib.parse import urlsplit

from infra.kafka.rights import Operation, Right, user_of
from infra.settings import Settings, load_settings
from tests.rights.certificates import make_certificates
from tests.rights.database import (
    DatabaseUser,
    as_database_user,
    database_user_of,
    grant_roles,
    make_roles,
    secure_settings,
)
from tests.rights.secured import ADMINISTRATOR, as_user, grant, make_user, revoke, secured_stack
from tests.rights.working import work_off
from tests.workers.command import Said, run
from workers.commands.running import Exit
from workers.rights import RIGHTS, rights_of

__all__ = ["COMMANDS", "GOOD", "WORKERS", "Site", "names", "open_site", "prepare"]

_DATABASE = "site"
_WHO = ("--because", "tests", "--yes")
_EVENT = {
    "specversion": "1.0",
    "source": "/test",
    "subject": "alice",
    "time": "2026-01-31T09:00:00Z",
}
GRANT = _EVENT | {
    "id": "0b5d6f0e-6d5c-4b1f-9a51-3f0f4c8f7a10",
    "type": "inmail.promotion.granted.v1",
    "data": {"credits": 10, "promotion_id": "welcome"},
}
SEND = _EVENT | {
    "id": "0b5d6f0e-6d5c-4b1f-9a51-3f0f4c8f7a11",
    "type": "inmail.send.requested.v1",
    "data": {"recipient_id": "bob", "relationship": "none"},
}
BAD = {"record": {"topic": "inmail.send-requests", "key": "alice", "value": "{oops"}}

# A run of each command of the table of rights that comes to its end by itself. The console and its operator ask over
# HTTP; a worker is started, and comes to its end where it lacks a right.
COMMANDS: Final[Mapping[str, tuple[str, ...]]] = {
    "topics plan": ("topics", "plan"),
    "topics apply": ("topics", "apply", "--yes"),
    "doctor": ("doctor", "--before-start"),
    "publish": ("publish", "--anyway", "events.ndjson"),
    "results": ("results",),
    "lag": ("lag",),
    "metrics": ("metrics",),
    "trace": ("trace", "--account", "alice"),
    "dead-letters list": ("dead-letters", "list"),
    "dead-letters show": ("dead-letters", "show", "0/0"),
    "dead-letters redrive": ("dead-letters", "redrive", "--anyway", "--again", *_WHO),
    "shards add": ("shards", "add", "--to", "postgresql://localhost:1/inmail", "--dry-run"),
    "shards move": ("shards", "move", "0", "--to", "0", *_WHO),
    "transactions list": ("transactions", "list"),
    "transactions end": ("transactions", "end", *_WHO),
    "replay rewind": ("replay", "rewind", "send", "--to-offset", "0", "--publish-again", *_WHO),
    "replay skip": ("replay", "skip", "send", *_WHO),
    "replay reemit": ("replay", "reemit", "--all", "--anew", *_WHO),
    "prune": ("prune", *_WHO),
    "replay balances": ("replay", "balances", "--all", "--anew", *_WHO),
    "replay rebuild": ("replay", "rebuild", "--schema", "again", "--dry-run"),
    "replay shadow": ("replay", "shadow", "--schema", "shadow", "--dry-run"),
}
GOOD: Final = {"shards add": Exit.UNREACHABLE}  # nobody listens there: its rights are looked at before
WORKERS: Final = {"worker": ("worker", "send"), "worker ticker": ("worker", "ticker")}


@dataclass(frozen=True, slots=True)
class Site:
    """Servers with topics, tables, and a user for each command, who has its documented rights."""

    administrator: Settings
    authority: Path
    database_port: int
    database_authority: Path | None  # None: without TLS
    folder: Path  # where commands run; it has the files that they read

    def user(self, command: str) -> Settings:
        """Return settings with which the user of a command comes."""
        return self.as_database_user(
            as_user(self.administrator, self.authority, command.replace(" ", "-")), database_user_of(command)
        )

    def as_database_user(self, settings: Settings, user: DatabaseUser) -> Settings:
        """Return settings with which a user comes to the ledger's database."""
        return as_database_user(settings, user, self.database_authority, (self.database_port, _DATABASE))

    async def add(self, command: str) -> Settings:
        """Make the user of a command; return settings with which it comes."""
        settings = self.user(command)
        name = settings.kafka_sasl_username or ""
        await make_user(self.administrator, name)
        await grant(self.administrator, name, rights_of(command, self.administrator))
        return settings

    @asynccontextmanager
    async def without(self, command: str, right: Right) -> AsyncIterator[Settings]:
        """Take a right away from the user of a command for a while; yield settings with which the user comes."""
        settings = self.user(command)
        await revoke(self.administrator, settings.kafka_sasl_username or "", [right])
        try:
            yield settings
        finally:
            await grant(self.administrator, settings.kafka_sasl_username or "", [right])

    async def run(self, command: str, settings: Settings) -> Said:
        """Run a command from its start to its end."""
        arguments = COMMANDS.get(command) or WORKERS[command]
        return await run(settings, *arguments, folder=self.folder)


@contextmanager
def open_site(folder: Path, postgres: Path | None = None) -> Iterator[Site]:
    """Start the servers of a site; `prepare` it then.

    Args:
        folder: for the files of the site, readable by anybody.
        postgres: where a Postgres is that can do TLS, which the wheel's cannot; None: the wheel's, without TLS.

    """
    certificates = make_certificates(folder)
    secure = secure_settings(certificates, folder) if postgres else {}
    options = {"postgres_settings": {"fsync": "off", **secure}, "postgres_folder": postgres}
    with secured_stack(certificates, **options) as stack:
        base = load_settings(
            kafka_bootstrap_servers=stack.kafka_bootstrap_servers,
            database_url=stack.database_url,
            topic_partitions=1,
            session_seconds=10,
            transaction_seconds=5,
            tick_seconds=1,
            balances_topic=True,
        )
        (folder / "events.ndjson").write_text("".join(json.dumps(each) + "\n" for each in (GRANT, SEND, BAD)))
        administrator = as_user(base, certificates.authority, ADMINISTRATOR)
        port = urlsplit(stack.database_url).port or 0
        yield Site(administrator, certificates.authority, port, certificates.authority if postgres else None, folder)


async def prepare(site: Site) -> None:
    """Make topics and tables, and put a dead letter and an account there, all by users with exactly their rights.

    The right to create topics is missed only where there are none yet.
    """
    await make_roles(site.administrator.database_url.get_secret_value(), _DATABASE)
    owner = site.as_database_user(site.administrator, DatabaseUser.OWNER)
    migrated = await run(owner, "migrate")
    assert migrated.code == 0, migrated
    await grant_roles(owner)
    settings = await site.add("topics apply")
    (create,) = [right for right in RIGHTS["topics apply"] if right.operation is Operation.CREATE]
    async with site.without("topics apply", create):
        said = await site.run("topics apply", settings)
        assert names("topics apply", create, settings, said), said
    said = await site.run("topics apply", settings)
    assert said.code == 0, said
    for command in (*WORKERS, "publish"):
        await site.add(command)
    said = await site.run("publish", site.user("publish"))
    assert said.code == 0, said
    await work_off(site.user("worker"), site.user("worker ticker"), owner)


def names(command: str, right: Right, settings: Settings, said: Said) -> bool:
    """Tell whether a command that lacked a right named it, what it is on and its user, and ended as one that failed."""
    if command == "doctor":
        return f"{right.place}: {user_of(settings)} lacks {right.operation.name}" in said.out and said.code == Exit.NO
    told = "has no topic" not in said.err and str(right) in said.err and user_of(settings) in said.err
    return told and said.code == Exit.UNREACHABLE
