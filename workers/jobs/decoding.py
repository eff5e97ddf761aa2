"""From records to requests: what can be decided, and what can never be and becomes a dead letter."""

from collections.abc import Sequence
from datetime import datetime
from typing import Any, NamedTuple

from aiokafka.structs import ConsumerRecord

from infra.clock import LATEST, from_milliseconds
from schemas.catalogue import Undecodable, decode, fingerprint
from workers.jobs.record_times import TimePolicy
from workers.ledger.model import Place, Request

__all__ = ["DecodedBatch", "decision_time", "decode_records", "latest_decision_time"]


class DecodedBatch(NamedTuple):
    """A batch's records, told apart."""

    requests: list[Request[Any]]
    refused: dict[Place, Undecodable]
    as_of: datetime  # the latest broker timestamp read so far


def decode_records(
    records: Sequence[ConsumerRecord], as_of: datetime, times: TimePolicy, latest: datetime = LATEST
) -> DecodedBatch:
    """Decode records of one partition, in order.

    Time never runs back: a record older than one before it is decided as of that one. A record whose time is not taken
    cannot be decided, and moves no clock.

    Args:
        records: the records.
        as_of: what the record before them was decided as of.
        times: whose word for a record's time is taken.
        latest: a record of a later time is decided as of this one.

    """
    requests = []
    refused: dict[Place, Undecodable] = {}
    milliseconds = None
    for record in records:
        try:
            if (problem := times.refusal(record)) is not None:
                raise problem
            if record.timestamp != milliseconds:  # what the broker appended at once has one time
                as_of = max(as_of, min(from_milliseconds(record.timestamp), latest))
                milliseconds = record.timestamp
            event = decode(record.topic, record.key, record.value, record.headers)
        except Undecodable as error:
            refused[record.partition, record.offset] = error.without_frames()
        else:
            place = record.partition, record.offset
            requests.append(Request(event, event.subject or "", event.id, fingerprint(event), as_of, *place))
    return DecodedBatch(requests, refused, as_of)


def decision_time(record: ConsumerRecord, as_of: datetime, times: TimePolicy) -> datetime:
    """Return what a record is decided as of, where the one before it was as of `as_of`: as `decode_records` has it."""
    return latest_decision_time((record,), as_of, times)


def latest_decision_time(records: Sequence[ConsumerRecord], as_of: datetime, times: TimePolicy) -> datetime:
    """Return what the last of some records is decided as of: `decision_time` of each after the other, in one go."""
    timestamps = times.timestamps(records)
    return max(as_of, from_milliseconds(max(timestamps))) if timestamps else as_of
