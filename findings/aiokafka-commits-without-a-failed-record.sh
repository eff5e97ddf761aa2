#!/usr/bin/env bash
# aiokafka commits a transaction of which the broker has refused a record, and says nothing. librdkafka and kafka-python
# refuse to.
#
# Version: aiokafka 0.14.0 beside confluent-kafka 2.16.1 (librdkafka) and kafka-python 3.0.12, broker Apache Kafka 4.2.1.
# Behaviour: two records in one transaction, the second larger than its topic takes. Nobody awaits the futures that
#   `send()` gave, as with any producer that sends first and commits after. aiokafka's `commit_transaction()` returns,
#   a read_committed reader sees the first record alone, and only the second's future knows the error. The other
#   two note that the transaction has to be aborted, and their commit raises. So what "all or nothing" means is the caller's
#   to see to: await each future before the commit.
# Source: aiokafka/producer/sender.py lines 861-868: a refused batch fails its futures and does not tell the transaction
#   manager, whose `error_transaction` is called for the answers on offsets and on added partitions (547, 602, 681).
# Seen:
#   as before: aiokafka: committed, the record's future says MessageSizeTooLargeError
#   as before: librdkafka: refused, MSG_SIZE_TOO_LARGE, to be aborted: True
#   as before: kafka-python: refused, MessageSizeTooLargeError
#   as before: read_committed sees of the two topics: ['from aiokafka'] []
. "$(dirname "$0")/lib/workspace.sh"
. "$(dirname "$0")/lib/kafka.sh"

kafka_install 4.2.1 aiokafka==0.14.0 confluent-kafka==2.16.1 kafka-python==3.0.12
kafka_format
kafka_start
cat >"$WORK/run.py" <<'PY'
import asyncio
import sys

from aiokafka import AIOKafkaConsumer, AIOKafkaProducer, TopicPartition
from aiokafka.admin import AIOKafkaAdminClient, NewTopic
from confluent_kafka import KafkaException, Producer
from kafka import KafkaProducer
from kafka.errors import MessageSizeTooLargeError

BROKER = sys.argv[1]
TOO_LARGE = b"x" * 5_000


async def make_topics():
    admin = AIOKafkaAdminClient(bootstrap_servers=BROKER)
    await admin.start()
    small = NewTopic("small", 1, 1, topic_configs={"max.message.bytes": "1000"})
    await admin.create_topics([NewTopic("ordinary", 1, 1), small])
    await admin.close()


async def with_aiokafka():
    producer = AIOKafkaProducer(bootstrap_servers=BROKER, transactional_id="aiokafka")
    await producer.start()
    await producer.begin_transaction()
    await producer.send("ordinary", b"from aiokafka")
    refused = await producer.send("small", TOO_LARGE)
    await asyncio.wait_for(producer.commit_transaction(), 20)
    await producer.stop()
    return f"committed, the record's future says {type(refused.exception()).__name__}"


def with_librdkafka():
    producer = Producer({"bootstrap.servers": BROKER, "transactional.id": "librdkafka", "log_level": 0})
    producer.init_transactions(20)
    producer.begin_transaction()
    producer.produce("ordinary", b"from librdkafka")
    producer.produce("small", TOO_LARGE)
    try:
        producer.commit_transaction(20)
    except KafkaException as raised:
        error = raised.args[0]
        producer.abort_transaction(20)
        return f"refused, {error.name()}, to be aborted: {error.txn_requires_abort()}"
    return "committed"


def with_kafka_python():
    producer = KafkaProducer(bootstrap_servers=BROKER, transactional_id="kafka-python")
    producer.init_transactions()
    producer.begin_transaction()
    producer.send("ordinary", b"from kafka-python")
    producer.send("small", TOO_LARGE)
    try:
        producer.commit_transaction()
    except MessageSizeTooLargeError as error:
        producer.abort_transaction()
        return f"refused, {type(error).__name__}"
    finally:
        producer.close(20)
    return "committed"


async def read(topic):
    consumer = AIOKafkaConsumer(bootstrap_servers=BROKER, isolation_level="read_committed")
    await consumer.start()
    try:
        partition = TopicPartition(topic, 0)
        consumer.assign([partition])
        await consumer.seek_to_beginning(partition)
        end = (await consumer.end_offsets([partition]))[partition]
        seen = []
        async with asyncio.timeout(20):
            while await consumer.position(partition) < end:
                for records in (await consumer.getmany(timeout_ms=100)).values():
                    seen += [record.value.decode() for record in records]
        return seen
    finally:
        await consumer.stop()


asyncio.run(make_topics())
print(asyncio.run(with_aiokafka()))
print(with_librdkafka())
print(with_kafka_python())
print(asyncio.run(read("ordinary")), asyncio.run(read("small")))
PY
"$PYTHON" "$WORK/run.py" "$BOOTSTRAP" >"$WORK/seen"
expect aiokafka "committed, the record's future says MessageSizeTooLargeError" "$(sed -n 1p "$WORK/seen")"
expect librdkafka 'refused, MSG_SIZE_TOO_LARGE, to be aborted: True' "$(sed -n 2p "$WORK/seen")"
expect kafka-python 'refused, MessageSizeTooLargeError' "$(sed -n 3p "$WORK/seen")"
expect 'read_committed sees of the two topics' "['from aiokafka'] []" "$(sed -n 4p "$WORK/seen")"
