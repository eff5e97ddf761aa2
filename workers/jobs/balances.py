"""Publishes, with a worker's answers, what the accounts they are about have left: the compacted topic of balances.

**Which record is the newest.** Three workers change one account, each in Kafka transactions of its own. Their rows have
one order, the account's sequence, but their transactions may reach the topic in another, and compaction keeps the
record written last. With the account as the key it could keep an older balance for good, and no reader could know.
With the account and the worker it still could: records of an account that producers put on a wrong partition are
decided by two lanes of one worker, which two processes may own.

So the key is the account and the lane. A lane has one owner at a time, whose transactions follow one another; its next
owner begins after those are over. A balance is read in the Postgres transaction that decides, after its rows are
written, and the account's sequence never falls, but by a restore of Postgres, after which the topic is made anew
(docs/operate.md): under one key the record written last has the highest sequence. A reader takes of an account the
highest sequence, and compaction keeps it. Mostly three keys an account, in one partition: the account's own.

**What is read again** (after a crash, by a rewind, a request sent twice) has its first answer, and the balance as it is
now: never an older one than was published under the key before. The same sequence has the same bytes.

**Time.** No record is published when a lot starts or ends: the lots say when, and `changes_at` when first. The row that
books an ended lot comes later, with a record that has its sequence.

An erased account has a record like any other: a null value under one key would leave those of the other lanes, and a
reader could not tell which is newer.
"""

from collections.abc import Callable, Iterable, Sequence

from asyncpg import Record

from infra.postgres import Connection
from infra.settings import Settings
from schemas.balances import BALANCE_LOTS_AT_MOST, AccountBalanceData, BalanceLot, account_balance
from schemas.catalogue import BALANCES
from schemas.ids import balance_id
from workers.jobs.job import Batch, Decision, Job, Message, Place, Step, StoredRange
from workers.jobs.messages import event_message

__all__ = ["BalancePublisher", "balance_messages", "drop_superseded", "with_balances"]

_Key = Callable[[str, int], str]  # of a record, by account id and the account's partition


def with_balances(job: Job, settings: Settings) -> Job:
    """Return a job that publishes balances beside its answers where that is switched on, else the job itself."""
    return BalancePublisher(job) if settings.balances_topic else job


class BalancePublisher:
    """A job that adds the balances of the accounts that its answers are about."""

    def __init__(self, job: Job) -> None:
        self._job = job
        self.group, self.topic, self.gather_seconds = job.group, job.topic, job.gather_seconds

    @property
    def step(self) -> Step | None:
        """The job's own: what it books is published with the answers."""
        return self._job.step

    async def decide(self, connection: Connection, batch: Batch) -> Decision:
        """Decide as the job does; add one balance for each account that has an answer or a movement."""
        decision = await self._job.decide(connection, batch)
        balances = await self._balances(connection, decision.messages)
        return decision._replace(messages=decision.messages + balances)

    async def replay_answers(self, connection: Connection, partition: int, stored: StoredRange) -> list[Message]:
        """Return from the books what was decided for a range of records, and the balances as they are now."""
        messages = await self._job.replay_answers(connection, partition, stored)
        return messages + await self._balances(connection, messages, partition)

    async def _balances(
        self, connection: Connection, messages: Sequence[Message], partition: int | None = None
    ) -> list[Message]:
        # The place of the last record of each account; what a tick booked names none, and is of the account's own lane.
        origins = {message.key: message.origin for message in messages if message.key is not None}

        def key(account_id: str, own: int) -> str:
            origin = origins[account_id.encode()]
            lane = origin[0] if origin is not None else own if partition is None else partition
            return f"{account_id} {self.group} {lane}"

        return await balance_messages(connection, [each.decode() for each in origins], key, origins.get)


async def balance_messages(
    connection: Connection,
    account_ids: Iterable[str],
    key: _Key,
    origin: Callable[[bytes], Place | None] = lambda _: None,
) -> list[Message]:
    """Return accounts' balances after their newest journal rows, as the records to publish.

    Args:
        connection: in the transaction that wrote the newest rows, or in any other.
        account_ids: of the accounts; those unknown, or without a row, are left out.
        key: of a record. Whoever publishes under a key has to read and publish one balance after the other.
        origin: the place of the input record that a balance is published with, by the account id's bytes.

    """
    messages: list[Message] = []
    rows = await connection.fetch("select * from newest_balances($1, $2)", list(account_ids), BALANCE_LOTS_AT_MOST)
    lots: list[BalanceLot] = []
    for number, row in enumerate(rows, 1):
        if row["lot"] is not None:
            lots.append(
                {
                    "lot": row["lot"],
                    "remaining": row["remaining"],
                    "granted_at": row["granted_at"],
                    "expires_at": row["expires_at"],
                }
            )
        account_id, partition = row["account_id"], row["partition"]
        if number == len(rows) or rows[number]["account_id"] != account_id:  # its last lot
            data = _balance(row, lots)
            body = account_balance(balance_id(account_id, data["sequence"]), account_id, data["as_of"], data)
            place = origin(account_id.encode())
            messages.append(event_message(BALANCES, key(account_id, partition).encode(), body, partition, place))
            lots = []
    return messages


def _balance(row: Record, lots: list[BalanceLot]) -> AccountBalanceData:
    """Return a balance, of any of its rows and the first of its lots: none has ended by `as_of`."""
    return {
        "sequence": row["sequence"],
        "as_of": row["as_of"],
        "spendable": row["spendable"],
        "changes_at": row["changes_at"],
        "erased_at": row["erased_at"],
        "lot_count": row["lot_count"],
        "lots": lots,
    }


def drop_superseded(messages: Sequence[Message]) -> list[Message]:
    """Return messages without the balances that a later one with their key follows: of a batch decided in parts."""
    last = {message.key: number for number, message in enumerate(messages) if message.topic == BALANCES}
    return [
        message for number, message in enumerate(messages) if message.topic != BALANCES or last[message.key] == number
    ]
