"""Publishes accounts' balances as they are now to the topic of balances: for accounts that nothing changes.

No worker is stopped. A balance has a key of its own beside those of the lanes (`workers/jobs/balances.py`), so that it
replaces none of theirs; a reader takes the highest sequence. One run at a time publishes under that key, a page of
accounts after the other: a row that comes between a page's reading and its sending is published by its own lane. Of
several servers that hold the books each publishes its own accounts' balances, one server after the other.
"""

import asyncio
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import timedelta
from typing import Any, Final
from uuid import UUID

from infra.kafka.chunk_sender import ChunkResult, ChunkSender
from infra.kafka.clients import admin_client, count_partitions
from infra.kafka.sender import Outgoing
from infra.kafka.topic_ids import topic_ids
from infra.postgres import Connection
from infra.settings import Settings
from schemas.catalogue import BALANCES
from workers.jobs.balances import balance_messages
from workers.jobs.job import Message
from workers.ops.books.balance import UnknownAccountError
from workers.ops.books.shards import Holdings, ServerError
from workers.ops.books.whole_books import check_whole_books
from workers.ops.numbers import one_server_of_account
from workers.ops.operations import Intent, OngoingOperation, Operator, RefusedError
from workers.ops.replay.server_parts import Resumption, ServerParts, Unfinished, plan_parts
from workers.ops.replay.server_runs import Progress, run_parts

__all__ = ["VERB", "BalancesPlan", "plan_balances", "publish_balances"]

VERB: Final = "replay balances"
_PAGE: Final = 500
_COUNT_SECONDS: Final = 600.0
# An older run's balances may be of before the topic was off for a while, or of books that were restored since.
_RESUMED_FOR: Final = timedelta(days=1)
# Accounts without a row have no balance to tell.
_COUNT: Final = (
    "select count(*) from accounts where account > $1 and sequence > 0 and account_id = coalesce($2, account_id)"
    " and ($3::integer[] is null or partition = any($3))"
)
_READ: Final = (
    "select account, account_id from accounts"
    " where account > $1 and sequence > 0 and account_id = coalesce($2, account_id)"
    " and ($3::integer[] is null or partition = any($3)) order by account limit $4"
)


@dataclass(frozen=True, slots=True)
class BalancesPlan:
    """The balances to publish."""

    rate: float  # records a second
    account: str | None  # None: of all accounts
    topic_id: UUID  # of the topic that is there now
    accounts: int  # number of accounts after `start`
    start: int = 0  # number of the account published last
    resumes: int | None = None  # the operation to resume
    sent_before: int = 0  # by the resumed operations
    numbers: Sequence[int] | None = None  # of one of several servers, whose accounts are published; None: all
    servers: "ServerParts[BalancesPlan] | None" = None  # the plans of several servers, of which this one is the sum

    @property
    def silent(self) -> Sequence[ServerError]:
        """The errors of the servers that are left out, as they did not answer."""
        return () if self.servers is None else self.servers.silent

    @property
    def arguments(self) -> dict[str, Any]:
        """The arguments for JSON: a run with the same arguments resumes one that did not finish lately."""
        return _arguments(self.account, self.topic_id)

    def summary(self) -> dict[str, Any]:
        """Return the plan for JSON."""
        plan = {
            "accounts": self.accounts,
            "rate": self.rate,
            "seconds": round(self.accounts / self.rate, 3),
            "goes_on_with": self.resumes,
            "sent_before": self.sent_before,
        }
        return plan if self.servers is None else plan | {"servers": self.servers.summary()}


def _arguments(account: str | None, topic_id: UUID) -> dict[str, Any]:
    return {"account": account, "topic_id": str(topic_id)}


async def plan_balances(
    settings: Settings, account: str | None, rate: float, *, from_start: bool = False
) -> BalancesPlan:
    """Return the plan of a run, without sending anything.

    A run resumes one that did not finish, of the same arguments, on the same topic, and noted a day ago at most: what
    an older one has sent may be wrong by now.

    Args:
        settings: where Kafka and Postgres are.
        account: the account; None: all accounts.
        rate: records a second.
        from_start: begin at the first account, instead of resuming a run that did not finish.

    Raises:
        RefusedError, PartOfBooksError: when the topic is switched off, or the only server that is named has a part.
        UnknownAccountError, NotSetUpError: when there is no such account, no topic, or no tables of this version.
        NotHeldError, ServerError: of several servers, as `plan_parts` and `settings_of_account` raise them.
        KafkaError, OSError, asyncpg.PostgresError: when Kafka or Postgres cannot be reached or refuses.

    """
    if not settings.balances_topic:
        raise RefusedError(
            f"INMAIL_BALANCES_TOPIC is off: switch {BALANCES} on for the workers first, and here, or a balance that is"
            " published now is wrong after the account's next change"
        )
    await check_whole_books(settings)
    if account is not None:
        settings = await one_server_of_account(settings, account)
    topic_id = await _read_topic_id(settings)

    async def plan(connection: Connection, holdings: Holdings, earlier: Unfinished | None) -> BalancesPlan:
        numbers = holdings.counted
        if account is not None and not await connection.fetchval(_COUNT, 0, account, numbers):
            raise UnknownAccountError(account)
        start, resumes, sent = 0, None, 0
        if earlier is not None and "position" in earlier.result:
            done = earlier.result
            start, resumes, sent = done["position"], earlier.operation, done["sent"] + done["sent_before"]
        count = await connection.fetchval(_COUNT, start, account, numbers, timeout=_COUNT_SECONDS)
        return BalancesPlan(rate, account, topic_id, count, start, resumes, sent, numbers)

    resumption = None if from_start else Resumption(VERB, _arguments(account, topic_id), _RESUMED_FOR)
    found = await plan_parts(settings, resumption, plan)
    if isinstance(found, BalancesPlan):
        return found
    accounts = sum(part.accounts for part in found.plans)
    return BalancesPlan(
        rate, account, topic_id, accounts, resumes=found.resumes, sent_before=found.sent_before, servers=found
    )


async def _read_topic_id(settings: Settings) -> UUID:
    async with admin_client(settings) as admin:
        await count_partitions(admin, [BALANCES])  # raises where there is none
        return (await topic_ids(admin, [BALANCES]))[BALANCES]


async def publish_balances(
    settings: Settings,
    plan: BalancesPlan,
    *,
    who: Operator,
    stop: asyncio.Event,
    progress: Progress = lambda _: None,
) -> OngoingOperation:
    """Publish the balances of a plan, account by account; return the operation and its result.

    Args:
        settings: where Kafka and Postgres are.
        plan: the accepted plan. Accounts that are opened during the run may be included.
        who: the operator.
        stop: ends the run between two chunks; the same command resumes it.
        progress: called with the number of balances sent.

    Raises:
        RefusedError: when another run is under way.
        KafkaError, OSError, asyncpg.PostgresError: when the run fails; the same command resumes it.

    """
    if plan.account is not None:
        settings = await one_server_of_account(settings, plan.account)

    async def work(operation: OngoingOperation, part: BalancesPlan, progress: Progress) -> None:
        publisher = _Publisher(settings, operation, part, stop, progress)
        try:
            await operation.save_progress()
            await _publish_pages(publisher, operation, part)
        finally:
            await publisher.close()

    intent = Intent(VERB, *who, plan.arguments, plan.summary())
    return await run_parts(settings, intent, plan, work, stop=stop, progress=progress)


async def _publish_pages(publisher: "_Publisher", operation: OngoingOperation, plan: BalancesPlan) -> None:
    """Publish the balances of one server, from the account after the position."""
    position = plan.start
    while rows := await operation.connection.fetch(_READ, position, plan.account, plan.numbers, _PAGE):
        numbers = {row["account_id"]: row["account"] for row in rows}
        messages = await balance_messages(operation.connection, numbers, lambda each, _: f"{each} operator")
        if await publisher.publish(messages, numbers):
            operation.stopped = True
            return
        position = rows[-1]["account"]


class _Publisher(ChunkSender[int]):
    """Sends balances at a rate; saves the position, an account's number, after each chunk."""

    def __init__(
        self,
        settings: Settings,
        operation: OngoingOperation,
        plan: BalancesPlan,
        stop: asyncio.Event,
        progress: Progress,
    ) -> None:
        super().__init__(settings, "inmail-balances", plan.rate, stop, chunk_size=_PAGE)
        self._operation = operation
        self._progress = progress
        operation.result |= {"sent": 0, "sent_before": plan.sent_before, "refused": 0, "position": plan.start}

    async def publish(self, messages: Sequence[Message], numbers: dict[str, int]) -> bool:
        """Send a page of balances, in the order of their accounts' numbers; return whether a stop left some unsent."""
        return await self.send_all([(numbers[_account_of(each)], _outgoing(each)) for each in messages])

    async def after_chunk(self, result: ChunkResult[int]) -> None:
        """Count the balances and, if the brokers have answered all, save the number of the last account."""
        self._operation.result["sent"] += len(result.sent)
        self._operation.result["refused"] += len(result.refused)
        if result.failed:
            return
        if result.handed_over:
            self._operation.result["position"] = result.handed_over[-1]
        await self._operation.save_progress()
        self._progress(self._operation.result["sent"])


def _account_of(message: Message) -> str:
    return (message.key or b"").decode().partition(" ")[0]


def _outgoing(message: Message) -> Outgoing:
    headers = tuple(message.headers or ())
    return Outgoing(message.topic, message.key, message.value, None, headers, partition=message.partition)
