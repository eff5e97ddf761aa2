"""Sends and reads as a service with each client would: `python clients.py CLIENT`, asked by JSON on standard input."""

import asyncio
import json
import sys
from typing import Any

import aiokafka
import confluent_kafka
import kafka
from cloudevents.core.bindings.kafka import KafkaMessage, from_kafka, to_binary_event, to_structured_event
from cloudevents.core.formats.json import JSONFormat
from cloudevents.core.v1.event import CloudEvent

Asked = dict[str, Any]


def send_confluent_kafka(asked: Asked) -> None:
    """Send a record for each key; end with an error unless Kafka has confirmed them all."""
    refused = []
    producer = confluent_kafka.Producer({"bootstrap.servers": asked["servers"], **asked["settings"]})
    for key in asked["keys"]:
        producer.produce(
            *(asked["topic"], asked["value"], key), on_delivery=lambda error, _: error and refused.append(error)
        )
    producer.flush()
    if refused:
        sys.exit(str(refused[0]))


def read_confluent_kafka(asked: Asked) -> list[str]:
    """Return the values of the records up to the one that is asked for."""
    found: list[str] = []
    consumer = confluent_kafka.Consumer(
        {"bootstrap.servers": asked["servers"], "group.id": "confluent-kafka", **asked["settings"]}
    )
    consumer.assign([confluent_kafka.TopicPartition(asked["topic"], 0, 0)])
    while asked["until"] not in found:
        if message := consumer.poll(1):
            found.append(message.value().decode())
    consumer.close()
    return found


def send_kafka_python(asked: Asked) -> None:
    """Send a record for each key; raise unless Kafka has confirmed them all."""
    producer = kafka.KafkaProducer(bootstrap_servers=asked["servers"], **asked["settings"])
    sent = [producer.send(asked["topic"], asked["value"].encode(), key.encode()) for key in asked["keys"]]
    for each in sent:
        each.get()
    producer.close()


def read_kafka_python(asked: Asked) -> list[str]:
    """Return the values of the records up to the one that is asked for."""
    found: list[str] = []
    consumer = kafka.KafkaConsumer(bootstrap_servers=asked["servers"], **asked["settings"])
    consumer.assign([kafka.TopicPartition(asked["topic"], 0)])
    consumer.seek_to_beginning()
    while asked["until"] not in found:
        found.append(next(consumer).value.decode())
    consumer.close()
    return found


async def _send_aiokafka(asked: Asked) -> None:
    async with aiokafka.AIOKafkaProducer(bootstrap_servers=asked["servers"], **asked["settings"]) as producer:
        sent = [await producer.send(asked["topic"], asked["value"].encode(), key.encode()) for key in asked["keys"]]
        await asyncio.gather(*sent)


def send_aiokafka(asked: Asked) -> None:
    """Send a record for each key; raise unless Kafka has confirmed them all."""
    asyncio.run(_send_aiokafka(asked))


async def _read_aiokafka(asked: Asked) -> list[str]:
    found: list[str] = []
    async with aiokafka.AIOKafkaConsumer(bootstrap_servers=asked["servers"], **asked["settings"]) as consumer:
        consumer.assign([aiokafka.TopicPartition(asked["topic"], 0)])
        await consumer.seek_to_beginning()
        while asked["until"] not in found:
            found.append((await consumer.getone()).value.decode())
    return found


def read_aiokafka(asked: Asked) -> list[str]:
    """Return the values of the records up to the one that is asked for."""
    return asyncio.run(_read_aiokafka(asked))


def send_cloudevents(asked: Asked) -> None:
    """Send a request of each account, in binary mode, the SDK's own default, or in structured mode."""
    write = {"": to_binary_event, "structured": to_structured_event}[asked["settings"].get("mode", "")]
    producer = kafka.KafkaProducer(bootstrap_servers=asked["servers"])
    for account in asked["keys"]:
        attributes = {
            "specversion": "1.0",
            "id": f"order-{account}",
            "source": "/shop",
            "type": "inmail.send.requested.v1",
            "subject": account,
            "datacontenttype": "application/json",
            "partitionkey": account,  # becomes the record's key
        }
        message = write(CloudEvent(attributes, {"recipient_id": "bob", "relationship": "none"}))
        key = message.key.encode() if isinstance(message.key, str) else message.key
        producer.send(asked["topic"], message.value, key, headers=list(message.headers.items())).get()
    producer.close()


def read_cloudevents(asked: Asked) -> list[str]:
    """Return the ids of the events up to the one that is asked for."""
    found: list[str] = []
    consumer = kafka.KafkaConsumer(bootstrap_servers=asked["servers"], isolation_level="read_committed")
    consumer.assign([kafka.TopicPartition(asked["topic"], 0)])
    consumer.seek_to_beginning()
    while asked["until"] not in found:
        record = next(consumer)
        found.append(from_kafka(KafkaMessage(dict(record.headers), record.key, record.value), JSONFormat()).get_id())
    consumer.close()
    return found


if __name__ == "__main__":
    asked = json.load(sys.stdin)
    done = globals()[f"{asked['do']}_{sys.argv[1].replace('-', '_')}"](asked)
    json.dump(done, sys.stdout)
