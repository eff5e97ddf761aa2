#!/usr/bin/env bash
# aiokafka raises NoError where a group's offsets on a topic may not be read; librdkafka names the topic's refusal.
#
# Version: aiokafka 0.14.0 beside confluent-kafka 2.16.1 (librdkafka), broker Apache Kafka 4.2.1.
# Behaviour: a user may describe a group and not one of its topics. Asked for the group's offsets on that topic, the
#   broker answers with TOPIC_AUTHORIZATION_FAILED for the partition, and with no error for the answer as a whole.
#   aiokafka's admin client sees the first, and raises the error that the second stands for: an exception of the class
#   NoError, "[Error 0]", that is no AuthorizationError. Where somebody catches what a code stands for, or retries all
#   but refusals, it passes for something else.
# Source: aiokafka/admin/client.py lines 537-540: the partition's error_code is tested, the response's is looked up.
# Seen:
#   as before: aiokafka: NoError [Error 0] NoError: Unable to get offset info for closed and 0
#   as before: aiokafka, a topic that may be described: 7
#   as before: librdkafka: TOPIC_AUTHORIZATION_FAILED
. "$(dirname "$0")/lib/workspace.sh"
. "$(dirname "$0")/lib/kafka.sh"

kafka_install 4.2.1 aiokafka==0.14.0 confluent-kafka==2.16.1
kafka_format authorizer.class.name=org.apache.kafka.metadata.authorizer.StandardAuthorizer \
    allow.everyone.if.no.acl.found=true
kafka_start
cat >"$WORK/run.py" <<'PY'
import asyncio
import sys

from aiokafka import AIOKafkaConsumer, TopicPartition
from aiokafka.admin import AIOKafkaAdminClient
from aiokafka.errors import KafkaError
from confluent_kafka import ConsumerGroupTopicPartitions
from confluent_kafka import TopicPartition as Place
from confluent_kafka.admin import (
    AclBinding,
    AclOperation,
    AclPermissionType,
    AdminClient,
    NewTopic,
    ResourcePatternType,
    ResourceType,
)

BROKER = sys.argv[1]
GROUP = "readers"
TOPICS = ("open", "closed")


def prepare(admin):
    for made in admin.create_topics([NewTopic(topic, 1, 1) for topic in TOPICS]).values():
        made.result(20)


async def commit():
    consumer = AIOKafkaConsumer(bootstrap_servers=BROKER, group_id=GROUP, enable_auto_commit=False)
    await consumer.start()
    try:
        places = [TopicPartition(topic, 0) for topic in TOPICS]
        consumer.assign(places)
        await consumer.commit(dict.fromkeys(places, 7))
    finally:
        await consumer.stop()


def close_topic(admin):
    refused = AclBinding(
        ResourceType.TOPIC, "closed", ResourcePatternType.LITERAL, "User:ANONYMOUS", "*",
        AclOperation.DESCRIBE, AclPermissionType.DENY,
    )
    for made in admin.create_acls([refused]).values():
        made.result(20)


async def with_aiokafka():
    admin = AIOKafkaAdminClient(bootstrap_servers=BROKER)
    await admin.start()
    try:
        place = TopicPartition("open", 0)
        offset = (await admin.list_consumer_group_offsets(GROUP, partitions=[place]))[place].offset
        try:
            await admin.list_consumer_group_offsets(GROUP, partitions=[TopicPartition("closed", 0)])
        except KafkaError as error:
            return f"{type(error).__name__} {error}", offset
        return "no error at all", offset
    finally:
        await admin.close()


def with_librdkafka(admin):
    asked = ConsumerGroupTopicPartitions(GROUP, [Place("closed", 0)])
    (answer,) = admin.list_consumer_group_offsets([asked], request_timeout=20).values()
    (place,) = answer.result(20).topic_partitions
    return place.error.name() if place.error else "no error"


admin = AdminClient({"bootstrap.servers": BROKER})
prepare(admin)
asyncio.run(commit())
close_topic(admin)
print(*asyncio.run(with_aiokafka()), with_librdkafka(admin), sep="\n")
PY
"$PYTHON" "$WORK/run.py" "$BOOTSTRAP" >"$WORK/seen"
expect aiokafka 'NoError [Error 0] NoError: Unable to get offset info for closed and 0' "$(sed -n 1p "$WORK/seen")"
expect 'aiokafka, a topic that may be described' 7 "$(sed -n 2p "$WORK/seen")"
expect librdkafka TOPIC_AUTHORIZATION_FAILED "$(sed -n 3p "$WORK/seen")"
