"""Asks whether an InMail may be sent, and waits for the final answer: python send_inmail.py ACCOUNT RECIPIENT [ID].

Prints a JSON line for each answer, and before it sends, on standard error, the ID. Run it again with the same ID after
any failure: the request is decided once.
"""

import asyncio
import json
import os
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from datetime import UTC, datetime
from typing import Any
from uuid import UUID, uuid4

from aiokafka import AIOKafkaConsumer, AIOKafkaProducer, TopicPartition

SERVERS = os.environ.get("KAFKA_BOOTSTRAP_SERVERS", "localhost:9092")
REQUESTS, RESULTS = "inmail.send-requests", "inmail.send-results"
HEADERS = [("content-type", b"application/cloudevents+json; charset=UTF-8")]
SEND_SECONDS = 120  # aiokafka goes on trying to deliver what an idempotent producer sends, for ever
STOP_SECONDS = 5
ANSWER_SECONDS = 330  # longer than the ledger itself waits for another of its lanes (INMAIL_ORDER_SECONDS: 300)


def make_request(account: str, recipient: str, id_: UUID) -> bytes:
    """Return the request as a CloudEvent in structured mode."""
    event = {
        "specversion": "1.0",
        "id": str(id_),
        "source": "/examples/python",
        "type": "inmail.send.requested.v1",
        "subject": account,
        "time": datetime.now(UTC).isoformat(),
        "datacontenttype": "application/json",
        "data": {"recipient_id": recipient, "relationship": "none"},
    }
    return json.dumps(event).encode()


@asynccontextmanager
async def started(producer: AIOKafkaProducer) -> AsyncIterator[None]:
    """Start a producer, and stop it in a bounded time: it waits for what it could not deliver."""
    await producer.start()
    try:
        yield
    finally:
        with suppress(TimeoutError):
            await asyncio.wait_for(producer.stop(), STOP_SECONDS)


async def send(producer: AIOKafkaProducer, account: str, id_: UUID, value: bytes) -> None:
    """Send a request, and return once Kafka has it."""
    try:
        await asyncio.wait_for(
            producer.send_and_wait(REQUESTS, value, key=account.encode(), headers=HEADERS), SEND_SECONDS
        )
    except TimeoutError as error:
        raise TimeoutError(f"Kafka has not confirmed the request, and may have it: send {id_} again") from error


async def wait_for_answer(consumer: AIOKafkaConsumer, account: str, id_: UUID) -> dict[str, Any]:
    """Return the data of the next answer to a request, which its account and its id name together."""
    async for record in consumer:
        event = json.loads(record.value)
        if event["type"] != "inmail.send.decided.v1":
            continue
        if event["subject"] == account and event["data"]["request_id"] == str(id_):
            data: dict[str, Any] = event["data"]
            return data
    raise RuntimeError("the consumer was stopped")


async def send_inmail(account: str, recipient: str, id_: UUID) -> None:
    """Send a request until its answer is final; print each answer."""
    value = make_request(account, recipient, id_)
    # aiokafka partitions by murmur2 of the key, as the ledger expects. Other clients: docs/producers.md.
    producer = AIOKafkaProducer(bootstrap_servers=SERVERS, acks="all", enable_idempotence=True)
    consumer = AIOKafkaConsumer(bootstrap_servers=SERVERS, isolation_level="read_committed")
    async with started(producer), consumer:
        # Where the answers begin has to be known before there can be one.
        partitions = await producer.partitions_for(RESULTS)
        consumer.assign([TopicPartition(RESULTS, partition) for partition in partitions])
        if not await consumer.seek_to_end():  # it raises nothing: the end would be looked for later, behind the answer
            raise TimeoutError("the end of the answers was not told in time: nothing was sent")
        print(f"request {id_}", file=sys.stderr, flush=True)  # whoever sends it again needs it
        while True:
            await send(producer, account, id_, value)
            try:
                answer = await asyncio.wait_for(wait_for_answer(consumer, account, id_), ANSWER_SECONDS)
            except TimeoutError as error:
                raise TimeoutError(f"no answer: send {id_} again, or look for it on inmail.dead-letters") from error
            print(json.dumps(answer), flush=True)
            if answer["code"] != "balance_not_current":
                return
            # Not final, and nothing was charged: the same event again, with the same id, once the ledger has caught up.
            await asyncio.sleep(float(os.environ.get("RETRY_SECONDS", answer["retry_after_seconds"])))


if __name__ == "__main__":
    account, recipient, *rest = sys.argv[1:]
    asyncio.run(send_inmail(account, recipient, UUID(rest[0]) if rest else uuid4()))
