"""From records to requests: what can be decided, and what can never be and becomes a dead letter."""

from collections.abc import Sequence
from datetime import datetime
from typing import Any, NamedTuple

from aiokafka.structs import ConsumerRecord

from infra.clock import from_milliseconds
from schemas.catalogue import Undecodable, decode, fingerprint
from schemas.results import DeadLetterReason
from workers.ledger.model import Request

__all__ = ["DecodedBatch", "decision_time", "decode_records", "latest_decision_time"]

_TIMESTAMPS = range(946_684_800_000, 7_258_118_400_000)  # milliseconds of the years 2000 to 2199


class DecodedBatch(NamedTuple):
    """A batch's records, told apart."""

    requests: list[Request[Any]]
    refused: dict[int, Undecodable]  # by offset
    as_of: datetime  # the latest broker timestamp read so far


def decode_records(records: Sequence[ConsumerRecord], as_of: datetime) -> DecodedBatch:
    """Decode records in order. Time never runs back: a record older than one before it is decided as of that one."""
    requests = []
    refused = {}
    milliseconds = None
    for record in records:
        try:
            if record.timestamp != milliseconds:  # what the broker appended at once has one time
                as_of = max(as_of, _timestamp(record))
                milliseconds = record.timestamp
            event = decode(record.topic, record.key, record.value)
        except Undecodable as problem:
            refused[record.offset] = problem
        else:
            requests.append(Request(event, event.subject or "", event.id, fingerprint(event), as_of, record.offset))
    return DecodedBatch(requests, refused, as_of)


def decision_time(record: ConsumerRecord, as_of: datetime) -> datetime:
    """Return what a record is decided as of, where the one before it was as of `as_of`: as `decode_records` has it."""
    return max(as_of, from_milliseconds(record.timestamp)) if record.timestamp in _TIMESTAMPS else as_of


def latest_decision_time(records: Sequence[ConsumerRecord], as_of: datetime) -> datetime:
    """Return the decision time of the last of some records, without computing the times of those before it."""
    timestamps = [record.timestamp for record in records if record.timestamp in _TIMESTAMPS]
    return max(as_of, from_milliseconds(max(timestamps))) if timestamps else as_of


def _timestamp(record: ConsumerRecord) -> datetime:
    """Return the broker's time of a record.

    Raises:
        Undecodable: when a producer gave one that results could not carry. (A topic with LogAppendTime takes none.)

    """
    if record.timestamp not in _TIMESTAMPS:
        raise Undecodable(
            DeadLetterReason.INVALID_EVENT,
            f"record timestamp: expected milliseconds of the years 2000 to 2199, got {record.timestamp}",
        )
    return from_milliseconds(record.timestamp)
