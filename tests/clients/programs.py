"""Programs that other people's clients run, each in an environment of its own, as a service of theirs would be written.

Each reads a JSON object from standard input: servers, topic, keys, settings. It sends one record for each key and
writes the partition that each key got, by key.
"""

__all__ = ["AIOKAFKA", "CLOUDEVENTS", "CONFLUENT_KAFKA", "KAFKA_PYTHON"]

_HEAD = """
import json, sys
asked = json.load(sys.stdin)
found = {}
"""
_TAIL = """
json.dump(found, sys.stdout)
"""

CONFLUENT_KAFKA = f"""{_HEAD}
from confluent_kafka import Producer

def note(error, message):
    assert error is None, error
    found[message.key().decode()] = message.partition()

producer = Producer({{"bootstrap.servers": asked["servers"], **asked["settings"]}})
for key in asked["keys"]:
    producer.produce(asked["topic"], b"{{}}", key.encode(), on_delivery=note)
assert producer.flush(60) == 0
{_TAIL}"""

KAFKA_PYTHON = f"""{_HEAD}
from kafka import KafkaProducer

producer = KafkaProducer(bootstrap_servers=asked["servers"], **asked["settings"])
sent = {{key: producer.send(asked["topic"], b"{{}}", key.encode()) for key in asked["keys"]}}
found = {{key: delivery.get(60).partition for key, delivery in sent.items()}}
producer.close()
{_TAIL}"""

AIOKAFKA = f"""{_HEAD}
import asyncio
from aiokafka import AIOKafkaProducer

async def main():
    async with AIOKafkaProducer(bootstrap_servers=asked["servers"], **asked["settings"]) as producer:
        for key in asked["keys"]:
            sent = await producer.send_and_wait(asked["topic"], b"{{}}", key.encode())
            found[key] = sent.partition

asyncio.run(main())
{_TAIL}"""

# The SDK's own default is binary mode. Its key is the event's `partitionkey`.
CLOUDEVENTS = f"""{_HEAD}
from cloudevents.core.bindings.kafka import to_binary_event, to_structured_event
from cloudevents.core.v1.event import CloudEvent
from kafka import KafkaProducer

producer = KafkaProducer(bootstrap_servers=asked["servers"])
for key in asked["keys"]:
    for form in (to_binary_event, to_structured_event):
        attributes = {{
            "specversion": "1.0", "id": f"order-{{key}}", "source": "/shop", "type": "inmail.send.requested.v1",
            "subject": key, "partitionkey": key, "datacontenttype": "application/json",
        }}
        message = form(CloudEvent(attributes, {{"recipient_id": "bob", "relationship": "none"}}))
        key_bytes = message.key.encode() if isinstance(message.key, str) else message.key
        sent = producer.send(asked["topic"], message.value, key_bytes, headers=list(message.headers.items())).get(60)
        found[f"{{key}} {{form.__name__}}"] = sent.partition
producer.close()
{_TAIL}"""
