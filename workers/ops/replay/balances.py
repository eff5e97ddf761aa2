"""Publishes accounts' balances as they are now to the topic of balances: for accounts that nothing changes.

No worker is stopped. A balance has a key of its own beside those of the lanes (`workers/jobs/balances.py`), so that it
replaces none of theirs; a reader takes the highest sequence. One run at a time publishes under that key, a page of
accounts after the other: a row that comes between a page's reading and its sending is published by its own lane. Of
several servers that hold the books each publishes its own accounts' balances, one server after the other.
"""

import asyncio
from collections.abc import AsyncGenerator
from dataclasses import dataclass
from datetime import timedelta
from typing import Any, Final
from uuid import UUID

from infra.kafka.clients import admin_client, count_partitions
from infra.kafka.sender import Outgoing
from infra.kafka.topic_ids import topic_ids
from infra.postgres import Connection
from infra.settings import Settings
from schemas.catalogue import BALANCES
from workers.jobs.balances import balance_messages
from workers.jobs.job import Message
from workers.ops.books.balance import UnknownAccountError
from workers.ops.books.shards import Holdings
from workers.ops.books.whole_books import check_whole_books
from workers.ops.numbers import naming_part, one_server_of
from workers.ops.operations import Intent, OngoingOperation, Operator, RefusedError
from workers.ops.replay.server_parts import PartPlan, Resumption, Unfinished, plan_parts
from workers.ops.replay.server_runs import Page, Progress, run_parts

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


@dataclass(slots=True, kw_only=True)
class BalancesPlan(PartPlan):
    """The balances to publish."""

    client_id = "inmail-balances"

    account: str | None  # None: of all accounts
    topic_id: UUID  # of the topic that is there now
    accounts: int = 0  # number of accounts after `position`
    position: int = 0  # number of the account published last

    @property
    def count(self) -> int:
        """The number of balances to publish."""
        return self.accounts

    @property
    def arguments(self) -> dict[str, Any]:
        """The arguments for JSON: a run with the same arguments resumes one that did not finish lately."""
        return _arguments(self.account, self.topic_id)

    def summary(self) -> dict[str, Any]:
        """Return the plan for JSON."""
        return {"accounts": self.accounts} | PartPlan.summary(self)


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
    own = await one_server_of(settings, account, None)
    topic_id = await _read_topic_id(settings)

    async def plan(connection: Connection, holdings: Holdings, earlier: Unfinished | None) -> BalancesPlan:
        numbers = holdings.counted
        if account is not None and not await connection.fetchval(_COUNT, 0, account, numbers):
            raise UnknownAccountError(account)
        plan = BalancesPlan(rate=rate, account=account, topic_id=topic_id, numbers=numbers)
        if earlier is not None and "position" in earlier.result:
            plan.resume(earlier)
        plan.accounts = await connection.fetchval(_COUNT, plan.position, account, numbers, timeout=_COUNT_SECONDS)
        return plan

    resumption = None if from_start else Resumption(VERB, _arguments(account, topic_id), _RESUMED_FOR)
    with naming_part(settings, own):
        found = await plan_parts(own, resumption, plan)
    if isinstance(found, BalancesPlan):
        return found
    accounts = sum(part.accounts for part in found.plans)
    return BalancesPlan(rate=rate, account=account, topic_id=topic_id, accounts=accounts, **found.sums())


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
        progress: called with the number of balances sent or refused.

    Raises:
        RefusedError: when another run is under way.
        KafkaError, OSError, asyncpg.PostgresError: when the run fails; the same command resumes it.

    """
    own = await one_server_of(settings, plan.account, None)
    intent = Intent(VERB, *who, plan.arguments, plan.summary())
    with naming_part(settings, own):
        return await run_parts(own, intent, plan, _pages, stop=stop, progress=progress)


async def _pages(connection: Connection, plan: BalancesPlan) -> AsyncGenerator[Page, None]:
    """Yield the balances of one server, from the account after the position, in the order of accounts' numbers."""
    position = plan.position
    while rows := await connection.fetch(_READ, position, plan.account, plan.numbers, _PAGE):
        numbers = {row["account_id"]: row["account"] for row in rows}
        messages = await balance_messages(connection, numbers, lambda each, _: f"{each} operator")
        yield [(numbers[_account_of(each)], _outgoing(each)) for each in messages]
        position = rows[-1]["account"]


def _account_of(message: Message) -> str:
    return (message.key or b"").decode().partition(" ")[0]


def _outgoing(message: Message) -> Outgoing:
    headers = tuple(message.headers or ())
    return Outgoing(message.topic, message.key, message.value, None, headers, partition=message.partition)
