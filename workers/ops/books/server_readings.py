"""What the exporter last read of each server that holds the books, and the same of all servers together."""

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from typing import NamedTuple, TypeVar

from infra.settings import Settings
from infra.shards import Shard
from workers.ops.books.credit_metrics import CreditReader, CreditTotals
from workers.ops.books.lane_metrics import LaneReader, LaneState, MisplacedRecords
from workers.ops.books.shards import ServerError

__all__ = ["LastReading", "ServerReadings", "merge_readings"]

Value = TypeVar("Value")


class LastReading(NamedTuple):
    """When a reading was made, and how long it took."""

    at: float  # seconds since 1970
    seconds: float


@dataclass(slots=True)
class ServerReadings:
    """The last readings of one server, or of several together."""

    settings: Settings  # that lead to the server, or to the first
    credits: CreditTotals | None = None
    audited_at: dict[str, float] = field(default_factory=dict)  # by kind of audit
    lanes: list[LaneState] = field(default_factory=list)
    misplaced: list[MisplacedRecords] = field(default_factory=list)
    read: dict[str, LastReading] = field(default_factory=dict)
    errors: dict[str, ServerError] = field(default_factory=dict)  # by reading, where the last attempt failed
    credit_reader: CreditReader = field(default_factory=CreditReader)
    lane_reader: LaneReader = field(default_factory=LaneReader)
    shard: Shard | None = None  # what one of several said that it holds


def merge_readings(servers: Sequence[ServerReadings]) -> ServerReadings:
    """Return the readings of all servers as those of the books; of the only server as they are.

    Sums of the whole books are left out until each server was read once: without one they would be wrong.
    """
    if len(servers) == 1:
        return servers[0]
    return ServerReadings(
        servers[0].settings,
        credits=_add_credits([each.credits for each in servers]),
        audited_at=_of_all([each.audited_at for each in servers], min),
        lanes=sorted(lane for each in servers for lane in each.lanes),
        misplaced=_add_misplaced(row for each in servers for row in each.misplaced),
        read=_of_all(
            [each.read for each in servers],
            lambda readings: LastReading(min(each.at for each in readings), max(each.seconds for each in readings)),
        ),
    )


def _add_credits(totals: Sequence[CreditTotals | None]) -> CreditTotals | None:
    read = [each for each in totals if each is not None]
    if len(read) < len(totals):
        return None
    moved = {name: sum(each.moved[name] for each in read) for name in read[0].moved}
    differences = [each.difference for each in read]
    # What one server has too many of is none of what another lacks.
    same_sign = min(differences) >= 0 or max(differences) <= 0
    difference = sum(differences) if same_sign else sum(map(abs, differences))
    return CreditTotals(moved, sum(each.remaining for each in read), difference)


def _of_all(found: Sequence[dict[str, Value]], merge: Callable[[list[Value]], Value]) -> dict[str, Value]:
    """Return the merged values of the keys that each server has."""
    return {key: merge([each[key] for each in found]) for key in found[0] if all(key in each for each in found)}


def _add_misplaced(found: Iterable[MisplacedRecords]) -> list[MisplacedRecords]:
    rows: dict[tuple[str, str], MisplacedRecords] = {}
    for each in found:
        before = rows.get((each.topic, each.source))
        records, last_at = (0, each.last_at) if before is None else (before.records, max(before.last_at, each.last_at))
        rows[each.topic, each.source] = each._replace(records=each.records + records, last_at=last_at)
    return [rows[key] for key in sorted(rows)]
