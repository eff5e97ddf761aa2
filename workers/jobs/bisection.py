"""Deciding a batch that the database refuses: in parts, so that the request it cannot take stands in nobody's way."""

from collections import Counter
from dataclasses import replace

import asyncpg
import structlog

from infra.postgres import Connection, is_refusal
from schemas.catalogue import Undecodable
from schemas.results import DeadLetterReason
from workers.jobs.job import Batch, Decision, Job, Message
from workers.ledger.model import Request

__all__ = ["decide_bisected"]


async def decide_bisected(job: Job, connection: Connection, batch: Batch) -> Decision:
    """Decide a batch in the order of its records, each part behind a savepoint; halve a part that is refused.

    A single request that is refused has been refused twice, the second time alone: it becomes a dead letter and leaves
    no trace, so that it can be sent again once the cause is mended.
    """
    messages: list[Message] = []
    refused: dict[int, Undecodable] = {}
    codes: Counter[str] = Counter()
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
                refused[part[0].offset] = _refusal(part[0], error)
        else:
            messages += decision.messages
            refused |= decision.refused
            codes += decision.codes
    return Decision(messages, refused, codes)


def _refusal(request: Request[object], error: asyncpg.PostgresError) -> Undecodable:
    """Return what to say of it. The error's own details go to the log: they show rows."""
    structlog.get_logger("inmail.lane").error(
        "refused_by_database", offset=request.offset, sqlstate=error.sqlstate, error=str(error)
    )
    constraint = getattr(error, "constraint_name", None)
    told = f"the database refuses it (SQLSTATE {error.sqlstate}"
    told += f", constraint {constraint})" if constraint else ")"
    return Undecodable(DeadLetterReason.REFUSED_BY_DATABASE, f"{told}: {getattr(error, 'message', error)}")
