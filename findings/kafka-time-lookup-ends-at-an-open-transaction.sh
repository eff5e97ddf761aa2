#!/usr/bin/env bash
# Asked for the first record from a time on, a broker tells a read_committed consumer of none where that record lies
# behind a transaction that is open, however long it has been committed: the answer is that of a time in the future. A
# program that takes it as documented ("no such record yet") and goes to the end passes over all that lies between.
#
# Version: Apache Kafka 4.2.1; asked by aiokafka 0.14.0 and confluent-kafka 2.16.1 (librdkafka).
# Behaviour: one producer leaves a transaction open in a partition, another commits ten records after it. A consumer that
#   reads what is committed asks for the time before these ten: none (aiokafka: None, librdkafka: the offset -1 of the
#   partition's end). One that reads uncommitted records is told the first of the ten. Once the open transaction is
#   ended, both are.
# Source: org.apache.kafka.storage.internals.log and kafka.cluster.Partition, `fetchOffsetForTimestamp`: an offset that is
#   found by time is returned only if it is below the last fetchable one, which for read_committed is the last stable one.
# Seen:
#   as before: aiokafka, read_committed, while the transaction is open: none
#   as before: confluent-kafka, read_committed, while the transaction is open: -1
#   as before: aiokafka, read_uncommitted, while the transaction is open: 1
#   as before: aiokafka, read_committed, once it is ended: 1
#   as before: confluent-kafka, read_committed, once it is ended: 1
. "$(dirname "$0")/lib/workspace.sh"
. "$(dirname "$0")/lib/kafka.sh"

kafka_install 4.2.1 aiokafka==0.14.0 confluent-kafka==2.16.1
kafka_format
kafka_start
cat >"$WORK/look.py" <<'PY'
import asyncio
import sys

from aiokafka import AIOKafkaConsumer, AIOKafkaProducer, TopicPartition
from aiokafka.admin import AIOKafkaAdminClient, NewTopic
from confluent_kafka import Consumer
from confluent_kafka import TopicPartition as Place

BROKER = sys.argv[1]
PLACE = TopicPartition("t", 0)


async def look(time, level):
    consumer = AIOKafkaConsumer(bootstrap_servers=BROKER, isolation_level=level)
    await consumer.start()
    found = (await consumer.offsets_for_times({PLACE: time}))[PLACE]
    await consumer.stop()
    return "none" if found is None else found.offset


def look_with_librdkafka(time):
    consumer = Consumer({"bootstrap.servers": BROKER, "group.id": "g", "isolation.level": "read_committed"})
    (found,) = consumer.offsets_for_times([Place("t", 0, time)], timeout=20)
    consumer.close()
    return found.offset


async def producer(name):
    made = AIOKafkaProducer(bootstrap_servers=BROKER, transactional_id=name, transaction_timeout_ms=600_000)
    await made.start()
    await made.begin_transaction()
    return made


async def main():
    admin = AIOKafkaAdminClient(bootstrap_servers=BROKER)
    await admin.start()
    await admin.create_topics([NewTopic("t", 1, 1)])
    await admin.close()
    stays_open, commits = await producer("stays-open"), await producer("commits")
    await stays_open.send_and_wait("t", b"open", partition=0, timestamp_ms=1_000)
    for number in range(10):
        await commits.send_and_wait("t", b"committed", partition=0, timestamp_ms=2_000 + number)
    await commits.commit_transaction()
    await commits.stop()
    print("aiokafka, read_committed, while the transaction is open:", await look(2_000, "read_committed"))
    print("confluent-kafka, read_committed, while the transaction is open:", look_with_librdkafka(2_000))
    print("aiokafka, read_uncommitted, while the transaction is open:", await look(2_000, "read_uncommitted"))
    await stays_open.commit_transaction()
    await stays_open.stop()
    print("aiokafka, read_committed, once it is ended:", await look(2_000, "read_committed"))
    print("confluent-kafka, read_committed, once it is ended:", look_with_librdkafka(2_000))


asyncio.run(main())
PY
"$PYTHON" "$WORK/look.py" "$BOOTSTRAP" >"$WORK/seen" 2>"$WORK/look.log" || { cat "$WORK/look.log"; exit 1; }

# seen WHAT: what the program said of it.
seen() {
    sed -n "s/^$1: //p" "$WORK/seen"
}

for what in 'aiokafka, read_committed' 'confluent-kafka, read_committed'; do
    expect "$what, while the transaction is open" "$([ "${what%%,*}" = aiokafka ] && echo none || echo -1)" \
        "$(seen "$what, while the transaction is open")"
done
expect 'aiokafka, read_uncommitted, while the transaction is open' 1 \
    "$(seen 'aiokafka, read_uncommitted, while the transaction is open')"
for what in 'aiokafka, read_committed' 'confluent-kafka, read_committed'; do
    expect "$what, once it is ended" 1 "$(seen "$what, once it is ended")"
done
