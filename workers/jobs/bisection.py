"""Decides a batch that the database refuses by halving it, so that one bad request does not block the others."""

from collections import Counter
from collections.abc import Sequence
from dataclasses import replace

import asyncpg
import structlog

from infra.postgres import Connection, is_refusal
from schemas.catalogue import Undecodable
from schemas.dead_letters import DeadLetterReason
from workers.jobs.balances import drop_superseded
from workers.jobs.job import Batch, Decision, Job, Message
from workers.ledger.accounts import lock_accounts
from workers.ledger.model import Place, Request

__all__ = ["decide_bisected"]


async def decide_bisected(job: Job, connection: Connection, batch: Batch) -> Decision:
    """Decide a batch in the order of its records, each part behind a savepoint, halving each part that is refused.

    A request that is refused alone becomes a dead letter and leaves no outcome in the database, so that it can be sent
    again once the cause is mended. Its account may stay there, opened and without a row.

    Raises:
        asyncpg.PostgresError: when an error is not the refusal of a request.

    """
    messages: list[Message] = []
    refused: dict[Place, Undecodable] = {}
    codes: Counter[str] = Counter()
    await _lock_in_order(connection, batch.requests)
    parts = [batch.requests]
    while parts:
        part = parts.pop()
        try:
            async with connection.transaction():
                decision = await job.decide(connection, replace(batch, requests=part))
        except asyncpg.PostgresError as error:
            if not is_refusal(error):
                raise
            if len(part) > 1:
                middle = len(part) // 2
                parts += [part[middle:], part[:middle]]
            else:
                refused[part[0].place] = _refusal(part[0], error)
        else:
            messages += decision.messages
            refused |= decision.refused
            codes += decision.codes
    return Decision(drop_superseded(messages), refused, codes)


async def _lock_in_order(connection: Connection, requests: Sequence[Request[object]]) -> None:
    """Lock the accounts of all parts at once, in the order in which every batch locks its own.

    The locks of a part that was decided are kept until the transaction ends. Locked part by part, two batches could
    wait for each other in a circle.
    """
    of_accounts = [request for request in requests if request.account_id]  # a tick has none
    if not of_accounts:
        return
    try:
        async with connection.transaction():
            await lock_accounts(connection, of_accounts)
    except asyncpg.PostgresError as error:
        if not is_refusal(error):  # what is refused here is refused again in its own part
            raise


def _refusal(request: Request[object], error: asyncpg.PostgresError) -> Undecodable:
    """Return the reason for the dead letter. The error's details show rows, so they go to the log only."""
    structlog.get_logger("inmail.lane").error(
        "refused_by_database",
        partition=request.partition,
        offset=request.offset,
        sqlstate=error.sqlstate,
        error=str(error),
    )
    constraint = getattr(error, "constraint_name", None)
    reason = f"the database refuses it (SQLSTATE {error.sqlstate}"
    reason += f", constraint {constraint})" if constraint else ")"
    return Undecodable(DeadLetterReason.REFUSED_BY_DATABASE, f"{reason}: {getattr(error, 'message', error)}")
