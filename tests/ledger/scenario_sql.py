"""The ledger in Postgres as books for scenario tables: through the workers' own code, without Kafka."""

import json
from collections.abc import Sequence
from datetime import datetime
from functools import cache
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from infra.postgres import Connection
from schemas.catalogue import BILLING_EVENTS, CATALOGUE, SEND_REQUESTS, fingerprint
from schemas.envelope import Event
from tests.ledger.scenario_books import DEAD_LETTER, plain, waited_for
from tests.ledger.scenario_events import Input
from workers.jobs.balances import balance_messages
from workers.jobs.billing import BillingJob
from workers.jobs.job import Batch, Message
from workers.jobs.result_events import tick_messages
from workers.jobs.send import SendJob
from workers.ledger.model import Request
from workers.ledger.plans import Catalogue, load_catalogue
from workers.ledger.ticks import expire_step, tick_movements, tick_terms

__all__ = ["SqlBooks", "catalogue_of", "event_of", "fingerprint_of"]

EVENTS = {row.name: row for row in CATALOGUE}
STEP_LOTS = 1_000_000  # a tick in one step: the oracle knows of no others


def event_of(input_: Input) -> Event:
    """Return an input as the event that a producer would write."""
    subject = input_.account or None
    return EVENTS[input_.type].model.create(
        id=input_.request_id, source="/test", subject=subject, time=input_.as_of, data=input_.data
    )


def fingerprint_of(input_: Input) -> int:
    """Return the fingerprint that the ledger notes for an input."""
    return fingerprint(event_of(input_))


def catalogue_of(document: dict[str, Any]) -> Catalogue:
    """Return a catalogue read from its file's document by the workers' own reader."""
    return _read("\n".join(f"{name} = {_toml(value)}" for name, value in document.items()))


@cache
def _read(text: str) -> Catalogue:
    with TemporaryDirectory() as folder:
        path = Path(folder) / "plans.toml"
        path.write_text(text)
        return load_catalogue(path)


def _toml(value: Any) -> str:
    """Return a value as TOML: tables inline, everything else as JSON has it."""
    if isinstance(value, dict):
        return "{" + ", ".join(f"{name} = {_toml(inner)}" for name, inner in value.items()) + "}"
    return json.dumps(value)


class SqlBooks:
    """A partition of the ledger in a database."""

    def __init__(self, connection: Connection, *, with_balances: bool = False) -> None:
        self.connection = connection
        self.with_balances = with_balances  # whether the topic of balances is on
        self.requests: list[Request[Any]] = []  # in the order of their offsets
        self.messages: list[Message] = []  # that the workers would publish, of results
        self.balances: list[Message] = []  # that they would publish beside them; their keys are the accounts
        self.catalogue: Catalogue

    async def use(self, catalogue: dict[str, Any]) -> None:
        """Take a catalogue from now on."""
        self.catalogue = catalogue_of(catalogue)

    async def decide(self, inputs: Sequence[Input]) -> list[list[dict[str, Any]]]:
        """Decide a batch by the send or the billing worker's job, and look up what it booked."""
        requests = [self._request(input_) for input_ in inputs]
        topic = EVENTS[inputs[0].type].topic
        job = {SEND_REQUESTS: SendJob, BILLING_EVENTS: BillingJob}[topic](self.catalogue)
        async with self.connection.transaction():
            messages, refused, _ = await job.decide(self.connection, Batch(requests, waited_for(inputs[0])))
            await self._add_balances(messages)
        booked = await self._booked_at([request.offset for request in requests])
        rows = []
        for request in requests:
            if request.place in refused:
                rows.append([DEAD_LETTER])
            else:
                rows.append(booked[request.offset] or [await self._answer_to(request)])
        check_messages(messages, rows)
        self.messages += messages
        return rows

    async def tick(self, tick: Input, read_to: datetime | None) -> list[dict[str, Any]]:
        """Decide a tick as the expiry worker would, were its neighbours' progress this."""
        request = self._request(tick)
        horizon = min(tick.data["as_of"], tick.as_of, read_to or tick.as_of)
        terms = tick_terms(self.catalogue, STEP_LOTS, 1)
        async with self.connection.transaction():
            answer = await expire_step(self.connection, request, horizon, terms)
        repeat = answer.source_offset != request.offset
        booked = (await tick_movements(self.connection, [answer])).get(request.place, [])
        messages = tick_messages(answer, booked, request.offset)
        await self._add_balances(messages)
        self.messages += messages
        rows = (await self._booked_at([request.offset]))[request.offset]
        summary = {"account": None, "code": answer.code, "lots": answer.lots, "credits": answer.credits}
        return [*rows, summary | {"repeat": repeat}]

    async def balance(self, account: str, instant: datetime) -> int:
        """Return what an account can spend at an instant."""
        query = "select available(account, $2) from accounts where account_id = $1"
        return await self.connection.fetchval(query, account, instant) or 0

    async def account(self, account: str) -> dict[str, Any]:
        """Return level, sequence and erasure."""
        query = "select level, sequence, erased_at is not null as erased from accounts where account_id = $1"
        row = await self.connection.fetchrow(query, account)
        return dict(row) if row else {"level": 2, "sequence": 0, "erased": False}

    async def lots(self, account: str) -> list[dict[str, Any]]:
        """Return the lots in opening order."""
        query = "select l.* from lots as l join accounts as a using (account) where a.account_id = $1 order by l.lot"
        return [dict(row) for row in await self.connection.fetch(query, account)]

    async def journal(self, account: str) -> list[dict[str, Any]]:
        """Return the rows by sequence."""
        return await self._journal("a.account_id = $1", account)

    async def _add_balances(self, messages: Sequence[Message]) -> None:
        if self.with_balances:
            accounts = {message.key.decode() for message in messages if message.key is not None}
            self.balances += await balance_messages(self.connection, accounts, lambda account, _: account)

    def _request(self, input_: Input) -> Request[Any]:
        event = event_of(input_)
        offset = len(self.requests)
        self.requests.append(Request(event, input_.account, event.id, fingerprint(event), input_.as_of, 0, offset))
        return self.requests[-1]

    async def _booked_at(self, offsets: list[int]) -> dict[int, list[dict[str, Any]]]:
        """Return what was booked for each input record, by account and sequence."""
        booked: dict[int, list[dict[str, Any]]] = {offset: [] for offset in offsets}
        for row in await self._journal("j.source_offset = any($1)", offsets):
            booked[row["source_offset"]].append(row)
        return booked

    async def _answer_to(self, request: Request[Any]) -> dict[str, Any]:
        """Return the stored answer to a request that booked nothing: a repeat."""
        where = (
            "j.is_answer and j.code <> 'balance_not_current'"
            " and j.request_id = $1 and j.fingerprint = $2 and a.account_id = $3"
        )
        (row,) = await self._journal(where, request.request_id, request.fingerprint, request.account_id)
        return row | {"repeat": True}

    async def _journal(self, where: str, *arguments: Any) -> list[dict[str, Any]]:
        rows = await self.connection.fetch(
            "select a.account_id, j.* from journal as j join accounts as a using (account)"  # noqa: S608
            f" where {where} order by a.account_id, j.sequence",
            *arguments,
        )
        return [_as_dict(dict(row)) for row in rows]


def _as_dict(row: dict[str, Any]) -> dict[str, Any]:
    """Return a database row as the protocol has rows."""
    row["account"] = row.pop("account_id")
    return row | {"details": plain(row["details"]), "repeat": False}


def check_messages(messages: list[Message], rows: list[list[dict[str, Any]]]) -> None:
    """Rule 19: a batch publishes one event for each row that its records booked, and each repeat its first answer."""
    expected = [(row["account"], row["sequence"], row["repeat"]) for booked in rows for row in booked if row["account"]]
    bodies = [json.loads(message.value) for message in messages]
    published = [(body["subject"], body["data"]["sequence"], body["data"]["repeat"]) for body in bodies]
    assert expected == published, f"booked {expected}, published {published}"
