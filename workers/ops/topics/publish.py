"""Publishes a file: one event or raw record on each line, as a producer does."""

from collections import Counter
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import BinaryIO

from aiokafka.errors import BrokerResponseError
from aiokafka.structs import RecordMetadata

from infra.kafka.clients import NotSetUpError
from infra.kafka.records import partition_counts
from infra.kafka.sender import Outgoing, Sender
from infra.settings import Settings
from schemas.catalogue import INPUT_TOPICS
from workers.ops.topics.record_lines import (
    LineOptions,
    PublishTime,
    UnpublishableError,
    check_record,
    parse_line,
    read_lines,
)

__all__ = ["PublishReport", "publish"]


@dataclass(slots=True)
class PublishReport:
    """The result of publishing a file: records by topic, and the line number and reason of each failure."""

    records: Counter[str] = field(default_factory=Counter)
    failures: list[tuple[int, str]] = field(default_factory=list)
    lines: int = 0
    bytes: int = 0


async def publish(  # noqa: PLR0913 - independent options
    settings: Settings,
    file: BinaryIO,
    *,
    topic: str | None = None,
    record_time: PublishTime = PublishTime.NOW,
    checked: bool = False,
    progress: Callable[[PublishReport], None] = lambda _: None,
    on_record: Callable[[int, Outgoing, RecordMetadata], None] | None = None,
) -> PublishReport:
    """Publish each line of a file in order, without blank lines.

    Args:
        settings: where Kafka is.
        file: newline-delimited JSON, a pipe included.
        topic: the topic of events whose type is not in the catalogue.
        record_time: whether an event's own time becomes the record's timestamp.
        checked: whether a line that no worker could decode is a failure instead of a record.
        progress: called after each chunk of the file.
        on_record: called with each acknowledged record, the number of its line and its place.

    Raises:
        NotSetUpError: when the topics do not exist.
        KafkaError: when the cluster cannot be reached or refuses.

    """
    counts = await _partition_counts(settings, topic)
    published, how = PublishReport(), LineOptions(topic, record_time, checked)

    def count_record(line: int, outgoing: Outgoing, place: RecordMetadata) -> None:
        published.records[outgoing.topic] += 1
        if on_record is not None:
            on_record(line, outgoing, place)

    def add_refusal(line: int, error: BrokerResponseError) -> None:
        published.failures.append((line, f"refused: {error!r}"))

    sender = Sender(settings, "inmail-publish", count_record, add_refusal)
    try:
        async for lines in read_lines(file):
            for line in lines:
                await _publish_line(sender, counts, line, published, how)
            if on_record is not None:
                await sender.settle()  # the last line of a pipe is told, too, before the next one comes
            progress(published)
        await sender.settle()
    finally:
        await sender.close()
    published.failures.sort()
    return published


async def _partition_counts(settings: Settings, topic: str | None) -> dict[str, int]:
    counts = await partition_counts(settings, INPUT_TOPICS)
    if topic is not None and topic not in counts:
        raise NotSetUpError(f"--topic: expected one of {', '.join(INPUT_TOPICS)}, got {topic}")
    return counts


async def _publish_line(
    sender: Sender,
    counts: Mapping[str, int],
    line: bytes,
    published: PublishReport,
    how: LineOptions,
) -> None:
    published.lines += 1
    published.bytes += len(line) + 1
    if not line.strip():
        return
    try:
        outgoing = parse_line(line, how.topic, how.record_time)
        if how.checked:
            check_record(outgoing)
    except UnpublishableError as error:
        published.failures.append((published.lines, str(error)))
        return
    for partition in range(counts[outgoing.topic]) if outgoing.to_every_partition else (None,):
        await sender.send(published.lines, outgoing._replace(partition=partition))
