"""The ledger's calls: a batch of requests in, one stored answer for each out, in one database transaction.

The caller owns the transaction. Whatever is decided here is final for its request id: asking again, in the same
batch or years later, finds the first answer.
"""

from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any, NamedTuple, TypeVar
from uuid import UUID

from infra.postgres import Connection
from workers.ledger.model import Entry, Request

__all__ = ["FUNCTIONS", "Answer", "Opened", "answer_all", "call", "open_batch"]

FUNCTIONS = Path(__file__).parent / "sql"  # replaced on each `inmail migrate`

Event = TypeVar("Event")
Key = tuple[str, UUID]


class Answer(NamedTuple):
    """The answer to one request."""

    request: Request[Any]
    entry: Entry


class Opened(NamedTuple):
    """A batch whose accounts are locked, sorted into what is already answered and what is to decide."""

    accounts: dict[str, int]
    foreign: int  # accounts whose own partition is another one: their producer partitions differently
    fresh: list[tuple[Request[Any], bool]]  # in input order; True where the id was used with another body
    answers: dict[tuple[Key, int], Entry]  # by request and fingerprint


async def open_batch(connection: Connection, partition: int, requests: Sequence[Request[Event]]) -> Opened:
    """Lock the accounts of a batch and find what was answered before, in earlier batches or in this one."""
    rows = await connection.fetch(
        "select account_id, account, partition from open_accounts($1, $2)",
        list({request.account_id for request in requests}),
        partition,
    )
    accounts = {row[0]: row[1] for row in rows}
    account_ids = {row[1]: row[0] for row in rows}
    stored = await connection.fetch(
        "select * from stored_answers($1, $2)",
        [accounts[request.account_id] for request in requests],
        [request.request_id for request in requests],
    )
    answers: dict[tuple[Key, int], Entry] = {}
    first: dict[Key, int] = {}
    for row in stored:
        entry = Entry(*row)
        key = (account_ids[entry.account], entry.request_id)
        answers[key, entry.fingerprint] = entry
        if entry.code != "key_conflict":
            first[key] = entry.fingerprint

    fresh = []
    seen = set(answers)
    for request in requests:
        key = (request.account_id, request.request_id)
        if (key, request.fingerprint) not in seen:
            seen.add((key, request.fingerprint))
            fresh.append((request, first.setdefault(key, request.fingerprint) != request.fingerprint))
    return Opened(accounts, sum(row[2] != partition for row in rows), fresh, answers)


def answer_all(opened: Opened, requests: Iterable[Request[Event]], decided: Iterable[Entry]) -> list[Answer]:
    """Match every request of the batch with its answer, found or just decided."""
    by_account = {account: account_id for account_id, account in opened.accounts.items()}
    answers = opened.answers
    for entry in decided:
        answers[(by_account[entry.account], entry.request_id), entry.fingerprint] = entry
    return [Answer(r, answers[(r.account_id, r.request_id), r.fingerprint]) for r in requests]


async def call(connection: Connection, function: str, *arguments: object) -> list[Entry]:
    """Call one of the ledger's functions and return the journal rows it made."""
    places = ", ".join(f"${number}" for number in range(1, len(arguments) + 1))
    return [Entry(*row) for row in await connection.fetch(f"select * from {function}({places})", *arguments)]  # noqa: S608
