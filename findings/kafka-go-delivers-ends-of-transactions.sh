#!/usr/bin/env bash
# Go's kafka-go delivers the end of each transaction as a message, and with IsolationLevel: kafka.ReadCommitted also the
# records of transactions that were aborted.
#
# Version: github.com/segmentio/kafka-go 0.4.51, beside aiokafka 0.14.0; Apache Kafka 4.2.1.
# Behaviour: one producer commits a transaction, aborts one, and commits another, of one record each. A client that reads
#   committed records alone has the two of the committed ones. kafka-go has all three, and behind each of them its
#   marker, which is a message of a 4-byte key (version and type: 0 is an abort, 1 a commit) and a 6-byte value.
#   With ReadCommitted it sees the same: nothing is held back but what comes after an open transaction, which the broker
#   does not send.
# Source: message_reader.go reads the attributes of a batch for its compression alone: no look at the bit of control
#   batches. read.go reads the list of aborted transactions in the response of a fetch, and drops it.
# Seen:
#   as before: aiokafka: first last
#   as before: kafka-go by default: first commit aborted abort last
#   as before: kafka-go with ReadCommitted: first commit aborted abort last
. "$(dirname "$0")/lib/workspace.sh"
. "$(dirname "$0")/lib/kafka.sh"

command -v go >/dev/null || { echo 'install Go (1.23 or later)' >&2; exit 1; }
kafka_install 4.2.1 aiokafka==0.14.0
kafka_format
kafka_start
mkdir -p "$WORK/read"
cd "$WORK/read"
export GOPATH=$WORK/go GOFLAGS=-modcacherw GOCACHE=$WORK/go-cache

cat >produce.py <<'PY'
import asyncio
import sys

from aiokafka import AIOKafkaConsumer, AIOKafkaProducer, TopicPartition
from aiokafka.admin import AIOKafkaAdminClient, NewTopic


async def main(broker):
    admin = AIOKafkaAdminClient(bootstrap_servers=broker)
    await admin.start()
    await admin.create_topics([NewTopic("words", 1, 1)])
    await admin.close()
    async with AIOKafkaProducer(bootstrap_servers=broker, transactional_id="words") as producer:
        for word in ("first", "aborted", "last"):
            await producer.begin_transaction()
            await producer.send_and_wait("words", word.encode())
            await (producer.abort_transaction() if word == "aborted" else producer.commit_transaction())
    async with AIOKafkaConsumer(bootstrap_servers=broker, isolation_level="read_committed") as consumer:
        consumer.assign([TopicPartition("words", 0)])
        await consumer.seek_to_beginning()
        seen = []
        while "last" not in seen:
            seen.append((await consumer.getone()).value.decode())
    print(*seen)


asyncio.run(main(sys.argv[1]))
PY
cat >main.go <<'GO'
package main

import (
	"context"
	"fmt"
	"os"
	"strings"
	"time"

	"github.com/segmentio/kafka-go"
)

func read(level kafka.IsolationLevel) string {
	ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
	defer cancel()
	reader := kafka.NewReader(kafka.ReaderConfig{Brokers: []string{os.Args[1]}, Topic: "words", IsolationLevel: level})
	defer reader.Close()
	var seen []string
	for len(seen) == 0 || seen[len(seen)-1] != "last" {
		message, err := reader.ReadMessage(ctx)
		if err != nil {
			return err.Error()
		}
		word := string(message.Value)
		if len(message.Key) == 4 {
			word = map[byte]string{0: "abort", 1: "commit"}[message.Key[3]]
		}
		seen = append(seen, word)
	}
	return strings.Join(seen, " ")
}

func main() {
	fmt.Println("by default:", read(kafka.ReadUncommitted))
	fmt.Println("with ReadCommitted:", read(kafka.ReadCommitted))
}
GO
go mod init words 2>go.log
go get github.com/segmentio/kafka-go@v0.4.51 2>>go.log || { cat go.log; exit 1; }
expect aiokafka 'first last' "$("$PYTHON" produce.py "$BOOTSTRAP" 2>produce.log)"
timeout 180 go run . "$BOOTSTRAP" >seen
for form in 'by default' 'with ReadCommitted'; do
    expect "kafka-go $form" 'first commit aborted abort last' "$(sed -n "s|^$form: ||p" seen)"
done
