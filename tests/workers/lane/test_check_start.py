"""Where a lane begins, by what Kafka and the ledger's database tell: a loss stops it, and nothing else does.

Whoever looks from outside, before any worker comes, finds the same lanes in need of an operator.
"""

from datetime import UTC, datetime
from typing import NamedTuple

import pytest
from aiokafka import TopicPartition

from schemas.catalogue import SEND_REQUESTS
from workers.errors import LaneError
from workers.lane.recovery import check_start
from workers.ops.lag import Status
from workers.ops.lag.model import Classification, Facts, Sample
from workers.ops.lag.offsets import classify_offsets
from workers.topology import GROUP_OF

GROUP, PLACE = GROUP_OF[SEND_REQUESTS], TopicPartition(SEND_REQUESTS, 2)
NOW = datetime(2026, 1, 31, 12, 0, tzinfo=UTC)


class Offsets(NamedTuple):
    """What is known of a lane's partition: the group's offset, the row's, the oldest record and the end."""

    published: int
    stored: int | None
    oldest: int
    end: int

    @property
    def seen_by_lag(self) -> Classification | None:
        """How `inmail lag` sees it."""
        facts = Facts(NOW, ours=True, stored=self.stored or 0, oldest=self.oldest, place=("send", PLACE.partition))
        return classify_offsets(Sample(NOW, self.published, self.end, 0), facts, "0 of its records are unread")


SOUND = {
    "a new topic": Offsets(0, None, 0, 0),
    "a lane that begins at the oldest record": Offsets(12, None, 12, 20),
    "the same, of a topic without any left": Offsets(12, None, 12, 12),
    "a topic that was created again, or lost records, and has been trimmed": Offsets(12, 0, 12, 12),
    "all is decided and published": Offsets(20, 20, 0, 20),
    "and retention has taken all": Offsets(20, 20, 20, 20),
    "a whole segment of it": Offsets(20, 20, 13, 20),
    "the last of it but a marker of a transaction": Offsets(20, 20, 19, 20),
    "stored, and not published": Offsets(7, 12, 0, 20),
    "the same, and retention has taken it": Offsets(7, 12, 12, 20),
    "a part of it": Offsets(7, 12, 9, 20),
    "a rewound group": Offsets(0, 20, 0, 20),
    "the records that follow a trimmed topic's": Offsets(15, 15, 12, 20),
}
LOST = {
    "a backup of before the oldest record, and nothing came since": (
        Offsets(12, 7, 12, 12),
        (
            "the books end at 7: is INMAIL_DATABASE_URL the right database, was it restored from a backup, or the group"
            " moved ahead? Up to 5 records from offset 7 on are not in Kafka any more either: restore a newer backup,"
            " or, to go on without them, run `inmail replay skip send --to-offset 12 --partition 2`"
        ),
        Status.BEYOND_BOOKS,
    ),
    "the same, and the group was set to the oldest record": (
        Offsets(12, 7, 12, 20),
        "Up to 5 records from offset 7 on are not in Kafka any more either",
        Status.BEYOND_BOOKS,
    ),
    "the same, and some can be decided again": (
        Offsets(18, 7, 12, 20),
        (
            "Up to 5 records from offset 7 on are not in Kafka any more either: restore a newer backup, or, to go on"
            " without them, run `inmail replay skip send --to-offset 12 --partition 2`, then stop the group's workers"
            " and run `inmail replay rewind send --to-offset 12 --partition 2`"
        ),
        Status.BEYOND_BOOKS,
    ),
    "what was published and is lost, and what was never decided": (
        Offsets(9, 7, 12, 20),
        "has published inmail.send-requests/2 up to offset 9, but the books end at 7: is",
        Status.BEYOND_BOOKS,
    ),
    "a failover to a replica that lagged": (
        Offsets(12, 7, 0, 12),
        (
            "To decide the records between, stop the group's workers and run `inmail replay rewind send --to-offset 7"
            " --partition 2`; to go on without them, run `inmail replay skip send --to-offset 12 --partition 2`"
        ),
        Status.BEYOND_BOOKS,
    ),
    "empty books, where retention has taken the beginning": (
        Offsets(18, None, 12, 20),
        (
            "Up to 12 records from offset 0 on are not in Kafka any more either: restore a newer backup, or, to go on"
            " without them, stop the group's workers and run `inmail replay rewind send --to-offset 12 --partition 2`"
        ),
        Status.BEYOND_BOOKS,
    ),
    "retention took what was never decided": (
        Offsets(7, 7, 12, 20),
        (
            "has decided it up to 7 only: up to 5 records between are lost to it. To go on without them, run `inmail"
            " replay skip send --to-offset 12 --partition 2`"
        ),
        Status.HALTED,
    ),
    "the same, of a lane that has never begun": (
        Offsets(7, None, 12, 20),
        "has decided it up to 7 only: up to 5 records between are lost to it",
        Status.HALTED,
    ),
    "an offset beyond the end": (Offsets(25, 7, 0, 20), "but the partition ends at 20", Status.BEYOND_END),
    "books beyond the end": (Offsets(20, 25, 0, 20), "Run `inmail topics apply`", Status.BEYOND_END),
}


@pytest.mark.parametrize("offsets", SOUND.values(), ids=SOUND.keys())
def test_a_lane_that_has_lost_nothing_goes_on(offsets: Offsets) -> None:
    """From the group's offset. Nobody is told anything."""
    kept = (offsets.oldest, offsets.end)

    assert offsets.published == check_start(GROUP, PLACE, offsets.published, offsets.stored, kept=kept)
    assert offsets.seen_by_lag is None


@pytest.mark.parametrize(("offsets", "told", "status"), LOST.values(), ids=LOST.keys())
def test_a_lane_that_has_lost_records_is_refused_and_says_how_many(offsets: Offsets, told: str, status: Status) -> None:
    """With what to do; and `inmail lag` says so of a lane that no worker has."""
    with pytest.raises(LaneError) as refused:
        check_start(GROUP, PLACE, offsets.published, offsets.stored, kept=(offsets.oldest, offsets.end))
    seen = offsets.seen_by_lag or Classification(Status.OK, "")

    assert told in str(refused.value)
    assert status == seen.status
    commands = [part for part in str(refused.value).split("`")[1::2] if part.startswith("inmail replay ")]
    assert commands == [part for part in seen.reason.split("`")[1::2] if part.startswith("inmail replay ")]
