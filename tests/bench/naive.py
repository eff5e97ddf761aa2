"""What most people would write, as the baseline: one message, one transaction, one awaited result, one commit.

It decides on the same tables, and its books pass the same audit, but it spares itself limits and notices, to its
advantage. Run as a process: `python -m tests.bench.naive COUNT` decides so many requests and ends.
"""

import asyncio
import sys
from datetime import datetime

from aiokafka import AIOKafkaProducer, TopicPartition
from aiokafka.structs import ConsumerRecord

from infra.clock import from_milliseconds
from infra.kafka.clients import create_consumer
from infra.postgres import Connection, connect_database
from infra.settings import Settings, load_settings
from schemas.catalogue import SEND_REQUESTS, decode, fingerprint
from schemas.envelope import AccountEvent
from workers.jobs.result_events import decision_from
from workers.ledger.model import Entry, Request
from workers.ledger.plans import load_catalogue
from workers.ledger.store import Answer

__all__ = ["GROUP", "debit_one"]

GROUP = "naive-send"
_FREE = load_catalogue().free_relationships


async def debit_one(connection: Connection, request: Request[AccountEvent]) -> Entry:
    """Decide one send in one transaction."""
    data = request.event.data
    async with connection.transaction():
        account = await connection.fetchrow(
            "select account, sequence from accounts where account_id = $1 for update", request.account_id
        )
        if account is None:
            await connection.execute(
                "insert into accounts (account_id, partition) values ($1, $2)", request.account_id, request.partition
            )
            return await debit_one(connection, request)
        stored = await connection.fetch(
            "select * from journal where request_id = $1 and account = $2 and is_answer and code <> 'key_conflict'",
            request.request_id,
            account["account"],
        )
        for row in stored:
            if row["fingerprint"] == request.fingerprint:
                return Entry(*row)
        lots = await connection.fetch(
            "select * from lots where account = $1 and remaining > 0 and granted_at <= $2 and $2 < expires_at"
            " order by priority, expires_at, lot",
            account["account"],
            request.as_of,
        )
        balance = sum(row["remaining"] for row in lots)
        lot = None
        next_at: datetime | None = None
        if stored:
            code = "key_conflict"
        elif data.relationship in _FREE:
            code = "free"
        elif lots:
            code, lot = "charged", lots[0]
            await connection.execute(
                "update lots set remaining = remaining - 1 where account = $1 and lot = $2",
                account["account"],
                lot["lot"],
            )
        else:
            code = "insufficient_credits"
            next_at = await connection.fetchval("select next_allotment($1, $2)", account["account"], request.as_of)
        await connection.execute("update accounts set sequence = sequence + 1 where account = $1", account["account"])
        row = await connection.fetchrow(
            "insert into journal (account, sequence, request_id, fingerprint, is_answer, worker, code, amount, lot,"
            " lot_expires_at, balance_before, balance_after, as_of, source_partition, source_offset, recipient_id,"
            " relationship, next_allotment_at)"
            " values ($1, $2, $3, $4, true, 'send', $5, $6, $7, $8, $9, $10, $11, $12, $13, $14, $15, $16) returning *",
            account["account"],
            account["sequence"] + 1,
            request.request_id,
            request.fingerprint,
            code,
            -1 if lot else 0,
            lot["lot"] if lot else None,
            lot["expires_at"] if lot else None,
            balance,
            balance - (1 if lot else 0),
            request.as_of,
            request.partition,
            request.offset,
            data.recipient_id,
            data.relationship,
            next_at,
        )
    assert row is not None
    return Entry(*row)


async def _work(settings: Settings, count: int) -> None:
    connection = await connect_database(settings)
    consumer = create_consumer(settings, GROUP, 20)
    consumer.subscribe([SEND_REQUESTS])
    # As a client comes: every result is acknowledged by all replicas, and sent at once.
    producer = AIOKafkaProducer(**settings.kafka_client(), client_id=GROUP, acks="all", enable_idempotence=True)
    async with producer, consumer:
        for _ in range(count):
            record = await consumer.getone()
            request = _request(record)
            entry = await debit_one(connection, request)
            (message,) = decision_from([Answer(request, [entry])]).messages
            await producer.send_and_wait(message.topic, message.value, message.key)
            await consumer.commit({TopicPartition(record.topic, record.partition): record.offset + 1})
    await connection.close()


def _request(record: ConsumerRecord) -> Request[AccountEvent]:
    event = decode(record.topic, record.key, record.value)
    as_of = from_milliseconds(record.timestamp)
    return Request(event, event.subject or "", event.id, fingerprint(event), as_of, record.partition, record.offset)


if __name__ == "__main__":
    asyncio.run(_work(load_settings(), int(sys.argv[1])))
