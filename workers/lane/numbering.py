"""Accounts' numbers as a lane needs them: the books' and the topic's have to be of one kind.

An account's number is the partition that murmur2 of its id gives it, by the count of partitions that all input topics
have. The books keep that count (`partitioning`), since their numbers were computed with it. The first lane that opens
writes it, from its topic: there may be books before there are topics, and a setting could differ from both. Where it
differs later (partitions were added, or these are other books' topics) every lane holds: records that are still unread
belong to the old numbers, and only an operator knows when they are read. `inmail topics apply` numbers accounts anew.
"""

from datetime import UTC, datetime

from infra.postgres import Pool
from infra.shards import NumberState
from workers.errors import LaneError

__all__ = ["agree_on_partitions", "why_not_held"]

# The first one only: of books with accounts that nobody numbered, an operator has to say so.
_FIRST = (
    "insert into partitioning (partitions) select $1 where not exists (select from accounts) on conflict do nothing"
)


async def agree_on_partitions(pool: Pool, topic: str, partitions: int) -> None:
    """Check that the books number accounts by as many partitions as a topic has; of new books, write it down.

    Raises:
        LaneError: when they do not. The message says what an operator can do.

    """
    counted = await pool.fetchval("select partitions from partitioning")
    if counted is None:
        await pool.execute(_FIRST, partitions)
        counted = await pool.fetchval("select partitions from partitioning")
    if counted != partitions:
        by = "no partitions yet" if counted is None else f"{counted} partitions"
        raise LaneError(
            f"{topic} has {partitions} partitions, and the books number their accounts by {by}: is INMAIL_DATABASE_URL"
            " the right database, or were partitions added? Once all that came before is read, stop the workers, set"
            f" INMAIL_TOPIC_PARTITIONS to {partitions} and run `inmail topics apply`, which numbers the accounts anew"
        )


def why_not_held(number: int, state: str | None, since: datetime | None) -> str:
    """Return why a number's lanes are not for this server's workers, and what to do."""
    at = "" if since is None else f" since {since.astimezone(UTC):%Y-%m-%d %H:%M:%S} UTC"
    match state:
        case NumberState.LEFT:
            says = f"number {number} is held by another server, which it left this one for: it is gone{at}"
        case NumberState.LEAVING:
            says = f"number {number} is leaving this server{at}"
        case NumberState.ARRIVING:
            says = f"number {number} is arriving on this server{at}"
        case _:
            return f"this server does not hold number {number}: run `inmail shards`"
    return f"{says}. `inmail shards` shows how far the move is"
