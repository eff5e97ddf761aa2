#!/usr/bin/env bash
# The first question of an aiokafka consumer for offsets waits 100 ms for each topic that it names.
#
# Version: aiokafka 0.14.0 beside kafka-python 3.0.12, broker Apache Kafka 4.2.1.
# Behaviour: `end_offsets`, `beginning_offsets` and `offsets_for_times` of partitions of ten topics, on a consumer that has just
#   started: aiokafka sends ten metadata requests, each for one topic more, and sleeps `retry_backoff_ms` before the next;
#   the question takes a second. Asked again it takes a millisecond. kafka-python takes one request for all ten.
# Source: aiokafka/consumer/fetcher.py, `_proc_offset_requests`: the first partition without a known leader adds its topic alone and
#   raises StaleMetadata, and `_retrieve_offsets` sleeps before it tries again.
# Seen:
#   as before: aiokafka asks so often for metadata: 10
#   as before: aiokafka takes a second at first: True
#   as before: aiokafka takes a tenth of it again: True
#   as before: kafka-python takes half a second or less: True
. "$(dirname "$0")/lib/workspace.sh"
. "$(dirname "$0")/lib/kafka.sh"

kafka_install 4.2.1 aiokafka==0.14.0 kafka-python==3.0.12
kafka_format
kafka_start
cat >"$WORK/run.py" <<'PY'
import asyncio
import sys
from time import monotonic

import kafka
from aiokafka import AIOKafkaConsumer, TopicPartition
from aiokafka.admin import AIOKafkaAdminClient, NewTopic

BROKER = sys.argv[1]
TOPICS = [f"t{number}" for number in range(10)]


async def make_topics():
    admin = AIOKafkaAdminClient(bootstrap_servers=BROKER)
    await admin.start()
    await admin.create_topics([NewTopic(topic, 1, 1) for topic in TOPICS])
    await admin.close()


async def with_aiokafka():
    consumer = AIOKafkaConsumer(bootstrap_servers=BROKER)
    await consumer.start()
    requests = 0
    update = consumer._client._metadata_update

    async def counted(*arguments):
        nonlocal requests
        requests += 1
        return await update(*arguments)

    consumer._client._metadata_update = counted
    times = []
    for _ in range(2):
        began = monotonic()
        await consumer.end_offsets([TopicPartition(topic, 0) for topic in TOPICS])
        times.append(monotonic() - began)
    await consumer.stop()
    return requests, *times


def with_kafka_python():
    consumer = kafka.KafkaConsumer(bootstrap_servers=BROKER)
    began = monotonic()
    consumer.end_offsets([kafka.TopicPartition(topic, 0) for topic in TOPICS])
    taken = monotonic() - began
    consumer.close()
    return taken


asyncio.run(make_topics())
requests, first, again = asyncio.run(with_aiokafka())
print(requests)
print(first >= 0.9)
print(again < first / 10)
print(with_kafka_python() <= 0.5)
PY
"$PYTHON" "$WORK/run.py" "$BOOTSTRAP" >"$WORK/seen"
expect 'aiokafka asks so often for metadata' 10 "$(sed -n 1p "$WORK/seen")"
expect 'aiokafka takes a second at first' True "$(sed -n 2p "$WORK/seen")"
expect 'aiokafka takes a tenth of it again' True "$(sed -n 3p "$WORK/seen")"
expect 'kafka-python takes half a second or less' True "$(sed -n 4p "$WORK/seen")"
