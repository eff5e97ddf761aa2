"""Two servers that hold the books together: each with the accounts of its numbers, booked by the ledger's functions."""

from dataclasses import dataclass
from itertools import count
from typing import Any, Final
from urllib.parse import urlsplit

import pytest
from pydantic import SecretStr

from infra.kafka.clients import partition_of
from infra.postgres import Connection
from infra.settings import Settings
from infra.shards import read_shard
from schemas.catalogue import fingerprint
from schemas.envelope import Event
from tests.ledger.book import Book
from workers.api import server_reads
from workers.ledger.model import Request
from workers.ops.books import shards

__all__ = [
    "PARTITIONS",
    "SILENT",
    "PlacedBook",
    "TwoServers",
    "account_of",
    "ask_alone",
    "lanes_stand",
    "prepare_servers",
    "set_state",
]

PARTITIONS: Final = 4
SILENT: Final = "postgresql://localhost:1/inmail"  # nobody listens there

# As `inmail shards add` leaves a new server: its keys begin at 2^40.
_PREPARE: Final = """
update shard set shard_id = gen_random_uuid(), ordinal = 1, holds_all = false;
alter table accounts alter column account restart with 1099511627776;
alter table operations alter column operation restart with 1099511627776;
"""
_STATE: Final = """
insert into shard_numbers (number, state, other_shard, move)
values ($1, $2, $3, case when $3::uuid is null then null else gen_random_uuid() end)
on conflict (number) do update set state = excluded.state, other_shard = excluded.other_shard, move = excluded.move
"""


class PlacedBook(Book):
    """A ledger whose records come in on the partition of their account's number."""

    def _request(self, event: Event) -> Request[Any]:
        self.offset += 1
        account = event.subject or ""
        number = partition_of(account.encode(), PARTITIONS)
        return Request(event, account, event.id, fingerprint(event), self.now, number, self.offset - 1)


def account_of(number: int, name: str = "account") -> str:
    """Return an account id whose partition number is this one."""
    return next(each for each in (f"{name}-{i}" for i in count()) if partition_of(each.encode(), PARTITIONS) == number)


def ask_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let a server be asked as if there were no other: what both tell together is compared with what each tells."""

    async def is_whole(*_: object) -> None: ...

    for module in (shards, server_reads):
        monkeypatch.setattr(module, "check_whole", is_whole)


async def set_state(connection: Connection, number: int, state: str, other: Connection | None = None) -> None:
    """Write what a server has of a number."""
    shard_id = None if other is None else (await read_shard(other)).shard_id
    await connection.execute(_STATE, number, state, shard_id)


async def lanes_stand(connection: Connection, book: Book) -> None:
    """Note that all lanes of what the journal tells of have read as far as the book was written."""
    await connection.execute(
        "insert into lanes (consumer_group, topic, partition, epoch, next_offset) select distinct on (1, 3)"
        " 'inmail-' || worker, case worker when 'send' then 'inmail.send-requests' when 'billing' then"
        " 'inmail.billing-events' else 'inmail.expiry-ticks' end, source_partition, 1, $1::bigint from journal"
        " on conflict (consumer_group, topic, partition) do update set next_offset = $1",
        book.offset,
    )


@dataclass(frozen=True, slots=True)
class TwoServers:
    """The first server holds all numbers but 3, which the second holds."""

    both: Settings
    alone: tuple[Settings, Settings]  # of each without the other
    first: Connection
    second: Connection

    @property
    def accounts(self) -> tuple[str, str]:
        """One account of each server."""
        return account_of(0), account_of(3)

    def without_second(self) -> Settings:
        """Return settings in which nobody answers at the second server's address."""
        return _both(self.alone[0], SILENT)

    def repeated(self) -> Settings:
        """Return settings whose second URL leads to the first server by another name."""
        url = self.alone[0].database_url.get_secret_value()
        name = urlsplit(url).hostname or ""
        other = {"localhost": "127.0.0.1", "127.0.0.1": "localhost"}[name]
        return _both(self.alone[0], url.replace(f"@{name}:", f"@{other}:"))

    async def move_back(self, state: str = "arriving") -> None:
        """Write that number 3 is on its way from the second server to the first."""
        await set_state(self.first, 3, state, self.second)
        await set_state(self.second, 3, "leaving", self.first)


async def prepare_servers(first: Settings, second: Settings, one: Connection, other: Connection) -> TwoServers:
    """Return two migrated and empty databases as two servers."""
    await other.execute(_PREPARE)
    for each in (one, other):
        await each.execute("insert into partitioning (partitions) values ($1)", PARTITIONS)
    await set_state(one, 3, "left", other)
    await set_state(other, 3, "held")
    return TwoServers(_both(first, second.database_url.get_secret_value()), (first, second), one, other)


def _both(first: Settings, second: str) -> Settings:
    urls = f"{first.database_url.get_secret_value()} {second}"
    return first.model_copy(update={"database_shards": SecretStr(urls)})
