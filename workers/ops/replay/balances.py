"""Publishes accounts' balances as they are now to the topic of balances: for accounts that nothing changes.

No worker is stopped. A balance has a key of its own beside those of the lanes (`workers/jobs/balances.py`), so that it
replaces none of theirs; a reader takes the highest sequence. One run at a time publishes under that key, a page of
accounts after the other: a row that comes between a page's reading and its sending is published by its own lane.
"""

import asyncio
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import timedelta
from typing import Any, Final
from uuid import UUID

from infra.clock import utc_now
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
from workers.ops.books.snapshot import open_books
from workers.ops.numbers import one_server_of_account, require_one_server
from workers.ops.operations import Intent, OngoingOperation, Operator, RefusedError, recorded_operation

__all__ = ["VERB", "BalancesPlan", "plan_balances", "publish_balances"]

VERB: Final = "replay balances"
_PAGE: Final = 500
_COUNT_SECONDS: Final = 600.0
# An older run's balances may be of before the topic was off for a while, or of books that were restored since.
_RESUMED_FOR: Final = timedelta(days=1)
# Accounts without a row have no balance to tell.
_COUNT: Final = (
    "select count(*) from accounts where account > $1 and sequence > 0 and account_id = coalesce($2, account_id)"
)
_READ: Final = (
    "select account, account_id from accounts"
    " where account > $1 and sequence > 0 and account_id = coalesce($2, account_id) order by account limit $3"
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

    @property
    def arguments(self) -> dict[str, Any]:
        """The arguments for JSON: a run with the same arguments resumes one that did not finish lately."""
        return _arguments(self.account, self.topic_id)

    def summary(self) -> dict[str, Any]:
        """Return the plan for JSON."""
        return {
            "accounts": self.accounts,
            "rate": self.rate,
            "seconds": round(self.accounts / self.rate, 3),
            "goes_on_with": self.resumes,
            "sent_before": self.sent_before,
        }


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
        RefusedError: when the topic of balances is switched off.
        UnknownAccountError: when the ledger has no such account.
        NotSetUpError: when the topic does not exist, or the database was never migrated.
        KafkaError, OSError, asyncpg.PostgresError: when Kafka or Postgres cannot be reached or refuses.

    """
    if not settings.balances_topic:
        raise RefusedError(
            f"INMAIL_BALANCES_TOPIC is off: switch {BALANCES} on for the workers first, and here, or a balance that is"
            " published now is wrong after the account's next change"
        )
    settings = await _server_of(settings, account)
    topic_id = await _read_topic_id(settings)
    async with open_books(settings) as connection:
        if account is not None and not await connection.fetchval(_COUNT, 0, account):
            raise UnknownAccountError(account)
        arguments = _arguments(account, topic_id)
        start, resumes, sent = (0, None, 0) if from_start else await _find_unfinished(connection, arguments)
        count = await connection.fetchval(_COUNT, start, account, timeout=_COUNT_SECONDS)
    return BalancesPlan(rate, account, topic_id, count, start, resumes, sent)


async def _server_of(settings: Settings, account: str | None) -> Settings:
    """Return the settings of the server whose accounts are published: the only one, or that of the account."""
    if account is not None:
        return await one_server_of_account(settings, account)
    require_one_server(settings, "inmail replay balances", "give --account")
    return settings


async def _read_topic_id(settings: Settings) -> UUID:
    async with admin_client(settings) as admin:
        await count_partitions(admin, [BALANCES])  # raises where there is none
        return (await topic_ids(admin, [BALANCES]))[BALANCES]


async def _find_unfinished(connection: Connection, arguments: dict[str, Any]) -> tuple[int, int | None, int]:
    row = await connection.fetchrow(
        "select operation, status, result, noted_at from operations where verb = $1 and arguments = $2"
        " order by operation desc limit 1",
        VERB,
        arguments,
    )
    if row is None or row["status"] == "done" or "position" not in row["result"]:
        return 0, None, 0
    if utc_now() - row["noted_at"] > _RESUMED_FOR:
        return 0, None, 0
    result = row["result"]
    return result["position"], row["operation"], result["sent"] + result["sent_before"]


async def publish_balances(
    settings: Settings,
    plan: BalancesPlan,
    *,
    who: Operator,
    stop: asyncio.Event,
    progress: Callable[[int], None] = lambda _: None,
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
    settings = await _server_of(settings, plan.arguments["account"])
    async with recorded_operation(settings, Intent(VERB, *who, plan.arguments, plan.summary())) as operation:
        publisher = _Publisher(settings, operation, plan, stop, progress)
        try:
            await operation.save_progress()
            position = plan.start
            while rows := await operation.connection.fetch(_READ, position, plan.account, _PAGE):
                numbers = {row["account_id"]: row["account"] for row in rows}
                messages = await balance_messages(operation.connection, numbers, lambda each, _: f"{each} operator")
                if await publisher.publish(messages, numbers):
                    operation.stopped = True
                    break
                position = rows[-1]["account"]
        finally:
            await publisher.close()
    return operation


class _Publisher(ChunkSender[int]):
    """Sends balances at a rate; saves the position, an account's number, after each chunk."""

    def __init__(
        self,
        settings: Settings,
        operation: OngoingOperation,
        plan: BalancesPlan,
        stop: asyncio.Event,
        progress: Callable[[int], None],
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
