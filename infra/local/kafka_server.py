"""Apache Kafka as nodes that are broker and controller (KRaft), with the wheel's Java and the cached jars.

The first start with a cache writes an archive of the loaded and linked classes (JEP 483), which every later start maps:
1.2 s instead of 3.3 s, and half the CPU time. Java does not use an archive that does not match or is damaged; it starts
without the archive and says so in the broker's log.
"""

import fcntl
import os
import shutil
import signal
from collections.abc import Mapping, Sequence
from contextlib import ExitStack, suppress
from dataclasses import dataclass, field, replace
from pathlib import Path

from infra.local import bundled_binaries
from infra.local.errors import ServerEndedError, ServerError
from infra.local.kafka_storage import copy_format, is_formatted, keep_format, new_id
from infra.local.ports import LOOPBACK
from infra.local.server_process import clean_environment, describe_failure, run_once, wait_ready
from infra.local.supervisor_client import Child, Program, SupervisorClient

__all__ = ["KafkaServer"]

START_SECONDS = 60
CLUSTER_START_SECONDS = 180  # three of them start at once, and none of them serves before two do
ARCHIVE_SECONDS = 60
STARTED = "Kafka Server started"
MOST_REPLICAS = 3

LOGGING = """\
rootLogger.level = INFO
rootLogger.appenderRef.console.ref = console
appender.console.type = Console
appender.console.name = console
appender.console.layout.type = PatternLayout
appender.console.layout.pattern = %d{ISO8601}{UTC} %p %m (%c)%n
# These loggers print whole configurations at every start.
logger.config.name = org.apache.kafka.common.config.AbstractConfig
logger.config.level = WARN
logger.kafkaconfig.name = kafka.server.KafkaConfig
logger.kafkaconfig.level = WARN
"""

SINGLE_NODE = {
    "process.roles": "broker,controller",
    "controller.listener.names": "CONTROLLER",
    "listener.security.protocol.map": "PLAINTEXT:PLAINTEXT,CONTROLLER:PLAINTEXT",
    "inter.broker.listener.name": "PLAINTEXT",
    # A misspelt topic gives an error, not a new topic.
    "auto.create.topics.enable": "false",
    "default.replication.factor": "1",
    "min.insync.replicas": "1",
    "offsets.topic.replication.factor": "1",
    "offsets.topic.num.partitions": "4",
    "transaction.state.log.replication.factor": "1",
    "transaction.state.log.min.isr": "1",
    "transaction.state.log.num.partitions": "4",
    "share.coordinator.state.topic.replication.factor": "1",
    "share.coordinator.state.topic.min.isr": "1",
    "share.coordinator.state.topic.num.partitions": "4",
    # The first member of a group does not wait for other members.
    "group.initial.rebalance.delay.ms": "0",
    # After a crash the broker waits until its old session has timed out: 9 s by default.
    "broker.session.timeout.ms": "3000",
    "broker.heartbeat.interval.ms": "500",
    "num.network.threads": "2",
    "num.io.threads": "4",
    "log.cleaner.dedupe.buffer.size": str(16 * 1024 * 1024),
}

# What the loss of a node costs: its partitions stand until the controller has missed its heartbeats for the session
# timeout. Where it was the controller itself, the others have to notice that first, for
# controller.quorum.fetch.timeout.ms. Kafka's 2 s stay: on a machine with a load of 60 on two cores, a quorum with 1 s
# elected one controller after the other and came to no end.
OF_CLUSTER = {
    # Longer than for one broker: three on a busy machine may be late with a heartbeat, and none is to be lost of that.
    "broker.session.timeout.ms": "6000",
    "broker.heartbeat.interval.ms": "1000",
}


def replication(nodes: int) -> dict[str, str]:
    """Return the settings of replication in a cluster: three replicas, of which two have to have a record."""
    replicas = str(min(nodes, MOST_REPLICAS))
    return OF_CLUSTER | {
        "default.replication.factor": replicas,
        "min.insync.replicas": "2",
        "offsets.topic.replication.factor": replicas,
        "transaction.state.log.replication.factor": replicas,
        "transaction.state.log.min.isr": "2",
        "share.coordinator.state.topic.replication.factor": replicas,
        "share.coordinator.state.topic.min.isr": "2",
    }


@dataclass(frozen=True, slots=True)
class KafkaServer:
    """One broker: its files, its ports and its options.

    `controllers` has the controller's port of each node of the cluster, and `cluster` the cluster's id where several
    nodes have to share it.
    """

    version: str
    class_path: Sequence[Path]
    data: Path
    config: Path  # folder of the generated configuration
    log: Path
    archive: Path  # of its classes; the file may not exist
    scratch: Path  # java.io.tmpdir: the broker unpacks native libraries there
    port: int
    controllers: Mapping[int, int]
    temporary: bool
    node: int = 1
    cluster: str | None = None
    heap: str = "512m"
    jvm_options: Sequence[str] = ("-XX:+UseSerialGC", "-XX:TieredStopAtLevel=1")
    broker: Mapping[str, str] = field(default_factory=dict)

    @property
    def name(self) -> str:
        """The server's name, in messages and for its supervisor."""
        return f"broker-{self.node}" if self.has_peers else "Kafka"

    @property
    def title(self) -> str:
        """The server's full name with its version."""
        return f"Apache Kafka {self.version}" + (f", broker {self.node}" if self.has_peers else "")

    @property
    def has_peers(self) -> bool:
        """Whether it is one of several nodes, which go on without it."""
        return len(self.controllers) > 1

    def prepare(self, supervisor: SupervisorClient) -> None:
        """Write the configuration; archive the classes and format the data unless done. Raises `ServerError`."""
        for folder in (self.config, self.scratch, self.data.parent, self.log.parent):
            folder.mkdir(parents=True, exist_ok=True)
        (self.config / "log4j2.properties").write_text(LOGGING, encoding="utf-8")
        if self.to_archive:
            with ExitStack() as held:
                try:
                    lock = held.enter_context(self.archive.with_suffix(".lock").open("w"))
                    fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
                except OSError:
                    pass  # another process writes the archive: this broker starts without it
                else:
                    self._make_archive(supervisor)
        self.format(supervisor)

    def start(self, supervisor: SupervisorClient) -> Child:
        """Start the broker and wait until it accepts requests. Raises `ServerError`."""
        return self.launch(supervisor, *self._mapped)

    @property
    def to_archive(self) -> bool:
        """Whether `prepare` will archive the classes, which takes 10 s. A read-only cache gets no archive."""
        return not self._archived and os.access(self.archive.parent, os.W_OK)

    @property
    def _archived(self) -> bool:
        """Whether there is an archive that is newer than every jar: Java would refuse an older one."""
        made = self.archive.stat().st_mtime if self.archive.exists() else 0.0
        return made > max(jar.stat().st_mtime for jar in self.class_path)

    @property
    def _mapped(self) -> list[str]:
        """Java's options to check and map the archive, without warnings about classes that could not be linked."""
        return [f"-XX:AOTCache={self.archive}", "-XX:+VerifySharedSpaces", "-Xlog:aot*=error"] if self._archived else []

    def _make_archive(self, supervisor: SupervisorClient) -> None:
        """Archive the classes that Java records while a trial broker starts and ends. Raises `ServerError`.

        If Java cannot write the archive, or the trial ends by itself, as it may where a busy machine keeps it waiting
        for itself, the log of the trial says why, and brokers start without an archive.
        """
        noted, made = self.scratch / "classes.noted", self.scratch / "classes.aot"
        trial = replace(
            self,
            node=1,
            controllers={1: self.controllers[self.node]},
            data=self.scratch / "trial",
            log=self.log.with_name("kafka-trial.log"),
            temporary=False,
        )
        trial.format(supervisor)
        try:
            child = trial.launch(supervisor, "-XX:AOTMode=record", f"-XX:AOTConfiguration={noted}")
        except ServerEndedError:
            shutil.rmtree(trial.data)
            return
        supervisor.signal(child, signal.SIGTERM)
        if child.wait(ARCHIVE_SECONDS) is None:
            raise describe_failure(child, f"{self.title}, started as a trial, did not end within {ARCHIVE_SECONDS} s")
        command = trial.java("-XX:AOTMode=create", f"-XX:AOTConfiguration={noted}", f"-XX:AOTCache={made}")
        with suppress(ServerError):
            run_once(supervisor, replace(trial.program(command), name="Archiving Kafka's classes"), ARCHIVE_SECONDS)
        shutil.rmtree(trial.data)
        if made.exists():
            unfinished = self.archive.with_name(f".{self.archive.name}.{os.getpid()}")
            shutil.copyfile(made, unfinished)
            unfinished.replace(self.archive)
        for file in (noted, made):
            file.unlink(missing_ok=True)

    def format(self, supervisor: SupervisorClient) -> None:
        """Format the data folder, unless it is formatted. Raises `ServerError`."""
        self._properties.write_text("".join(f"{k}={v}\n" for k, v in self._settings().items()), encoding="utf-8")
        kept, cluster = self.archive.parent, self.cluster or new_id()
        if is_formatted(self.data) or copy_format(kept, self.data, cluster, self.node):
            return
        # With "=": one id in 64 begins with "-", and Kafka would read it as an option.
        arguments = ("format", f"--cluster-id={cluster}", "--config", str(self._properties))
        command = self.java(*self._mapped, "kafka.tools.StorageTool", *arguments)
        step = "Formatting Kafka's storage" + (f" of {self.name}" if self.has_peers else "")
        run_once(supervisor, replace(self.program(command), name=step), START_SECONDS)
        keep_format(self.data, kept)

    def launch(self, supervisor: SupervisorClient, *options: str) -> Child:
        """Start the broker with further Java options and wait until it accepts requests. Raises `ServerError`."""
        before = self.log.stat().st_size if self.log.exists() else 0
        child = self.spawn(supervisor, *options)

        def started() -> bool:
            with self.log.open("rb") as log:
                log.seek(before)
                return STARTED.encode() in log.read()

        wait_ready(child, started, CLUSTER_START_SECONDS if self.has_peers else START_SECONDS)
        return child

    def spawn(self, supervisor: SupervisorClient, *options: str) -> Child:
        """Start the broker and do not wait until it accepts requests. Raises `ServerError` where it cannot be run."""
        return supervisor.spawn(self.program(self.java(*options, "kafka.Kafka", str(self._properties))))

    def respawn(self, supervisor: SupervisorClient) -> Child:
        """Start a broker again that has run before, and do not wait for it. Raises `ServerError`."""
        return self.spawn(supervisor, *self._mapped)

    @property
    def _properties(self) -> Path:
        return self.config / "server.properties"

    def _settings(self) -> dict[str, str]:
        places = {
            "node.id": str(self.node),
            "controller.quorum.voters": ",".join(f"{n}@{LOOPBACK}:{port}" for n, port in self.controllers.items()),
            "listeners": f"PLAINTEXT://{LOOPBACK}:{self.port},CONTROLLER://{LOOPBACK}:{self.controllers[self.node]}",
            "advertised.listeners": f"PLAINTEXT://{LOOPBACK}:{self.port}",
            "log.dirs": str(self.data),
        }
        of_cluster = replication(len(self.controllers)) if self.has_peers else {}
        return SINGLE_NODE | of_cluster | places | dict(self.broker)

    def java(self, *arguments: str) -> list[str]:
        """Return a Java command. The arguments are further Java options, a class and the arguments of the class."""
        return [
            str(bundled_binaries.java_command()),
            f"-Xmx{self.heap}",
            *self.jvm_options,
            "-XX:-UsePerfData",  # its file in the temporary folder would outlive a kill
            "-Djava.awt.headless=true",
            f"-Djava.io.tmpdir={self.scratch}",
            f"-Dlog4j2.configurationFile={self.config / 'log4j2.properties'}",
            "-cp",
            os.pathsep.join(map(str, self.class_path)),
            *arguments,
        ]

    def program(self, argv: Sequence[str]) -> Program:
        """Return a command as a program for the supervisor."""
        return Program(
            name=self.name,
            argv=argv,
            env=clean_environment(),
            log=self.log,
            # Temporary data needs no clean shutdown.
            stop=signal.SIGKILL if self.temporary else signal.SIGTERM,
            death=signal.SIGKILL,
        )
