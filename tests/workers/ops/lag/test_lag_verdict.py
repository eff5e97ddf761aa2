"""How a partition stands, told from a timeline: each case a table of samples, what else is known, and the answer."""

from dataclasses import replace
from datetime import UTC, datetime, timedelta

import pytest
from aiokafka import TopicPartition

from schemas.catalogue import SEND_REQUESTS
from workers.ops.lag.lanes import NeighbourLane, neighbour_of
from workers.ops.lag.model import Facts, GroupLag, PartitionLag, Sample, Status, StatusLimits
from workers.ops.lag.verdict import classify, lowered_from, pace_of

NOW = datetime(2026, 1, 31, 12, 0, tzinfo=UTC)
LIMITS = StatusLimits(window_seconds=30, behind_seconds=5, held_seconds=5, waiting_seconds=1)
FACTS = Facts(NOW, seconds=60.0, readable=1, members=1)

# "seconds ago: committed/end", in order; the lag is the difference, but for a "!", where it is 0 (markers only).
STEADY = "30:5/10 25:5/10 20:5/10 15:5/10 10:5/10 5:5/10 0:5/10"
CASES = {
    "idle": ("30:10/10 15:10/10 0:10/10", {}, "OK", "all is read"),
    "idle producer, long ago": ("900:10/10 0:10/10", {}, "OK", "all is read"),
    "a transaction's marker at the end": ("30:10/11! 15:10/11! 0:10/11!", {}, "OK", "all is read"),
    "first look at a backlog": ("0:5/10", {}, "OK", "5 of its records are unread, the oldest for 60.0 s"),
    "behind for a moment": (
        "30:5/5 20:10/10 10:15/15 0:15/18",
        {"seconds": 4.0},
        "OK",
        "3 of its records are unread, the oldest for 4.0 s",
    ),
    "one record": ("10:5/5 0:5/6", {"seconds": 2.0}, "OK", "1 of its records is unread, the oldest for 2.0 s"),
    "catching up": (
        "30:0/90 20:20/90 10:40/90 0:60/90",
        {},
        "OK",
        "30 of its records are unread, the oldest for 60.0 s; 2.0",
    ),
    "stalled": (STEADY, {}, "STALLED", "its reader is there and has not got on for 30 s"),
    "stalled for longer than the window": ("300:5/9 30:5/9 0:5/10", {}, "STALLED", "has not got on for 300 s"),
    "stalled while more comes": ("30:5/10 15:5/50 0:5/90", {}, "STALLED", "has not got on for 30 s"),
    "stalled, but not yet so long": ("20:5/10 10:5/10 0:5/10", {}, "OK", "5 of its records"),
    "stalled, were it not that it was at the end": ("30:5/10 20:10/10 10:10/12 0:10/12", {}, "OK", "2 of its records"),
    "unread for less than the window": (STEADY, {"seconds": 10.0}, "OK", "5 of its records"),
    "stalled in a rebalance": (STEADY, {"settled": False, "owned": False}, "STALLED", "30 s, and the group is sharing"),
    "a lane of ours, which commits with each turn": (
        "10:5/5 5:5/10 0:5/20",
        {"ours": True, "stored": 5, "seconds": 5.0},
        "STALLED",
        "its reader is there and has not got on for 5 s",
    ),
    "a lane of ours whose batch takes Postgres long": (
        "10:5/5 5:5/10 0:5/20",
        {"ours": True, "stored": 5, "seconds": 5.0, "statement": "a statement has run for 4 s (pid 7)"},
        "STALLED",
        "has not got on for 5 s; a statement has run for 4 s (pid 7)",
    ),
    "another's reader, which need not commit so often": ("10:5/5 5:5/10 0:5/20", {"seconds": 5.0}, "OK", "15 of its"),
    "a lane of ours, for a moment": ("10:5/5 3:5/10 0:5/20", {"ours": True, "seconds": 3.0}, "OK", "15 of its records"),
    "a lane of ours while its group waits for a member that was killed": (
        "10:5/5 5:5/10 0:5/20",
        {"ours": True, "settled": False, "owned": False, "seconds": 5.0},
        "STALLED",
        "for 5 s, and the group is sharing its partitions out: after a kill it waits for that member",
    ),
    "another's group that shares its partitions out": (
        "10:5/5 5:5/10 0:5/20",
        {"settled": False, "owned": False, "seconds": 5.0},
        "OK",
        "15 of its records",
    ),
    "a lane of ours that is being taken over": (
        "10:5/9 5:5/10 0:5/20",
        {"ours": True, "owned_since": NOW - timedelta(seconds=1)},
        "OK",
        "15 of its records",
    ),
    "slow": (
        "30:0/10 20:10/40 10:20/70 0:30/100",
        {},
        "SLOW",
        "it reads 1.0 records a second, and 3.0 come",
    ),
    "slow, with a quick batch between": (
        "30:0/20 24:10/40 18:25/40 12:30/80 6:30/90 0:45/100",
        {},
        "SLOW",
        "it reads 1.5",
    ),
    "slow, at a standstill of the lag": ("30:0/10 20:10/20 10:20/30 0:30/40", {}, "SLOW", "it reads 1.0"),
    "slow, and its reader died a while ago": (
        "30:0/10 22:10/40 12:10/70 0:10/100",
        {},
        "SLOW",
        "it has not got on for 22 s, and 3.0 come a second",
    ),
    "moving, with nothing old unread": (
        "30:0/10 20:10/20 10:20/30 0:30/40",
        {"seconds": 0.5},
        "OK",
        "10 of its records",
    ),
    "behind since it was at the end": ("30:10/10 20:15/20 10:20/40 0:30/60", {}, "OK", "30 of its records"),
    "up and down": ("30:0/20 20:30/40 10:40/60 0:70/80", {}, "OK", "10 of its records"),
    "stopped": (
        STEADY,
        {"members": 0, "owned": False},
        "STOPPED",
        "nobody is in the group, and 5 of its records are unread",
    ),
    "stopped, all read": ("30:10/10 0:10/10", {"members": 0, "owned": False}, "OK", "all is read"),
    "stopped, ours, at once": (
        "5:10/10 0:10/11",
        {"members": 0, "owned": False, "ours": True, "seconds": 0.1},
        "STOPPED",
        "nobody is in the group, and 1 of its records is unread",
    ),
    "no members, but commits": ("30:0/90 4:20/90 0:40/90", {"members": 0, "owned": False}, "OK", "50 of its records"),
    "a partition without an owner": (
        STEADY,
        {"members": 2, "owned": False},
        "STOPPED",
        "none of the group's 2 members has it",
    ),
    "members not told": (STEADY, {"members": None, "owned": False}, "STALLED", "30 s"),
    "rewound": (
        "30:80/90 20:80/90 10:20/90 5:30/90 0:40/90",
        {},
        "REWOUND",
        "from 80 after 11:59:40 UTC and is at 40: 40",
    ),
    "rewound from the end": ("30:90/90 10:90/90 5:20/90 0:30/90", {}, "REWOUND", "from 90 after 11:59:50 UTC"),
    "rewound, and as far again": ("30:80/90 20:20/90 10:50/90 0:80/90", {}, "OK", "10 of its records"),
    "rewound, and still": ("60:80/90 40:20/90 20:20/90 0:20/90", {}, "STALLED", "40 s"),
    "rewound while stopped": (
        "60:80/90 40:20/90 0:20/90",
        {"members": 0, "owned": False},
        "STOPPED",
        "; its offset went back from 80 to 20",
    ),
    "a topic made anew": ("60:80/80 40:5/5! 20:5/5 0:5/6", {"seconds": 1.0}, "OK", "1 of its records"),
    "never committed": (
        "0:-/10",
        {},
        "NEVER COMMITTED",
        "no offset was ever committed, and 10 of its records are unread",
    ),
    "never committed, nothing there": ("0:-/0", {}, "OK", "there is nothing to read"),
    "never committed, ours": ("0:-/0", {"ours": True}, "NEVER COMMITTED", "run `inmail topics apply`"),
    "held": (STEADY, {"readable": 0, "held": 5}, "HELD", "an open transaction of a producer holds 5 back since 60 s"),
    "held for a moment": (STEADY, {"readable": 0, "held": 5, "seconds": 2.0}, "OK", "all is read that can be"),
    "held in part": (STEADY, {"readable": 2, "held": 3}, "STALLED", "30 s"),
    "held, but nobody there": (STEADY, {"readable": 0, "held": 5, "members": 0, "owned": False}, "STOPPED", "nobody"),
    "paused": (STEADY, {"paused": "51 of the last 101", "members": 0, "owned": False}, "PAUSED", "the breaker: 51 of"),
    "paused, and all read since": ("30:5/10 0:10/10", {"paused": "51 of the last 101"}, "OK", "all is read"),
    "somebody's lock in its way": (
        "2:5/10 0:5/10",
        {"locked": "pid 7 holds it", "lock_is_waited_for": True, "seconds": 2.5, "waiting": "inmail-billing"},
        "LOCKED",
        "pid 7 holds it",
    ),
    "somebody's lock, at the first look": (
        "0:5/10",
        {"locked": "pid 7", "lock_is_waited_for": True},
        "LOCKED",
        "pid 7",
    ),
    "somebody's lock, but it gets on": (
        "2:5/10 0:6/10",
        {"locked": "pid 7", "lock_is_waited_for": True},
        "OK",
        "4 of its records",
    ),
    "somebody's lock, of a moment": (
        "2:5/10 0:5/10",
        {"locked": "pid 7", "lock_is_waited_for": True, "seconds": 0.5},
        "OK",
        "5 of its records",
    ),
    "rows that somebody keeps, and it does not get on": (STEADY, {"locked": "pid 7 holds rows"}, "LOCKED", "rows"),
    "rows that somebody keeps, for a moment": (
        "2:5/10 0:5/10",
        {"locked": "pid 7", "seconds": 4.0},
        "OK",
        "5 of its records",
    ),
    "somebody's lock, but nobody there": (
        STEADY,
        {"locked": "pid 7", "lock_is_waited_for": True, "members": 0, "owned": False},
        "STOPPED",
        "nobody is in the group",
    ),
    "waiting": (STEADY, {"waiting": "inmail-billing"}, "WAITING", "waits for inmail-billing"),
    "its row says that it waits, for longer than lanes do": (
        "40:5/10 20:5/10 0:5/10",
        {"waiting": "inmail-billing"},
        "STALLED",
        "its reader is there and has not got on for 40 s",
    ),
    "waiting for a moment": (STEADY, {"waiting": "inmail-billing", "seconds": 0.3}, "OK", "5 of its records"),
    "no leader": (STEADY, {"unknown": "no broker leads it"}, "UNKNOWN", "no broker leads it"),
    "an offset beyond the end": (
        "30:9/9 0:9/5!",
        {},
        "BEYOND END",
        "its offset is 9, and the partition ends at 5: records were lost, or the topic was created again; up to 0",
    ),
    "an offset of ours beyond the end": (
        "0:9/5!",
        {"ours": True, "stored": 3, "place": ("send", 2)},
        "BEYOND END",
        "run `inmail replay rewind send --to-offset 3 --partition 2`",
    ),
    "books beyond the end": (
        "0:-/5",
        {"ours": True, "stored": 9},
        "BEYOND END",
        "the books have read up to 9, and the partition ends at 5: records were lost, or the topic was created again;",
    ),
    "an offset beyond the books": (
        "0:105/105!",
        {"ours": True, "stored": 0, "place": ("send", 2), "members": 0, "owned": False},
        "BEYOND BOOKS",
        "its offset is 105, and the books have read up to 0; 0 of its records are unread, the oldest for 60.0 s: is ",
    ),
    "begun at the oldest record, which the books have not read": (
        "0:5/5!",
        {"ours": True, "stored": 0, "oldest": 5},
        "OK",
        "all is read",
    ),
    "stored and not yet published": ("0:5/9", {"ours": True, "stored": 9, "seconds": 0.1}, "OK", "4 of its records"),
    "an offset that Kafka has forgotten": (
        "0:-/9",
        {"ours": True, "stored": 7, "members": 0, "owned": False},
        "EXPIRED",
        "as of a group that rested for long; the books have read up to 7, and 9 of its records are unread",
    ),
    "a topic that was created again, also where offsets fit": (
        "0:0/9",
        {"ours": True, "stored": 0, "recreated": "t was deleted and created again"},
        "RECREATED",
        "t was deleted and created again; 9 of its records are unread, the oldest for 60.0 s: run `inmail topics",
    ),
    "all that was unread is gone": (
        "0:100/500!",
        {"ours": True, "stored": 100, "oldest": 500, "members": 0, "owned": False, "place": ("send", 2)},
        "HALTED",
        "up to 100. To go on without those between, run `inmail replay skip send --to-offset 500 --partition 2`",
    ),
    "some of what was unread is gone": (
        "0:100/900",
        {"ours": True, "stored": 100, "oldest": 500, "halted": "retention removed", "place": ("send", 2)},
        "HALTED",
        "retention removed records that the books have not read: the oldest left is 500",
    ),
    "what is gone was decided": (
        "0:100/500!",
        {"ours": True, "stored": 500, "oldest": 500},
        "OK",
        "all is read",
    ),
    "a lane that cannot go on, though all is read": (
        "0:9/9",
        {"ours": True, "stored": 9, "halted": "retention removed"},
        "HALTED",
        "its lane cannot go on: retention removed",
    ),
}


def _samples(timeline: str) -> list[Sample]:
    found = []
    for each in timeline.split():
        ago, _, offsets = each.partition(":")
        committed, _, end = offsets.partition("/")
        at = None if committed == "-" else int(committed)
        records = 0 if end.endswith("!") else int(end.rstrip("!")) - (at or 0)
        found.append(Sample(NOW - timedelta(seconds=int(ago)), at, int(end.rstrip("!")), records))
    return found


@pytest.mark.parametrize(("timeline", "known", "status", "reason"), CASES.values(), ids=CASES.keys())
def test_a_timeline_and_what_it_means(timeline: str, known: dict[str, object], status: str, reason: str) -> None:
    """The status, and words of the reason that a person needs to act on."""
    facts = replace(FACTS, **{"owned": True} | known)  # type: ignore[arg-type]

    found = classify(_samples(timeline), facts, LIMITS)

    assert status == found.status
    assert reason in found.reason


def test_every_status_has_a_case() -> None:
    """A status that no timeline leads to is one that nobody has thought through."""
    assert {case[2] for case in CASES.values()} == set(Status)


def test_the_pace_is_by_how_much_the_lag_falls() -> None:
    """Below 0 while it grows; none of one sample, from which nothing can be told."""
    assert pace_of(_samples("10:0/90 0:60/90")) == 6.0
    assert pace_of(_samples("10:0/90 0:0/120")) == -3.0
    assert pace_of(_samples("0:0/90")) is None


def test_an_offset_that_never_went_back_was_lowered_from_nowhere() -> None:
    """Also where the first samples have no offset yet."""
    assert lowered_from(_samples("20:-/5 10:3/5 0:4/5")) is None
    assert lowered_from(_samples("20:4/5 10:3/5 0:3/5")) == _samples("20:4/5")[0]


def test_a_group_is_as_bad_as_its_worst_partition() -> None:
    """By status first; among equals by the age of what is unread. It is read up when the last of them is."""

    def partition(number: int, status: Status, seconds: float, eta: float | None) -> PartitionLag:
        return PartitionLag("g", "t", number, 0, 9, 9, seconds, 0, 0, 0, status, f"of {number}", None, None, eta)

    group = GroupLag("g", "t", (partition(0, Status.OK, 90, 3.0), partition(1, Status.SLOW, 5, 7.0)))
    worse = replace(group, partitions=(*group.partitions, partition(2, Status.SLOW, 6, None)))

    assert (Status.SLOW, "of 1", 7.0) == (group.status, group.reason, group.eta_seconds)
    assert (Status.SLOW, "of 2", None) == (worse.status, worse.reason, worse.eta_seconds)
    assert GroupLag("g", "", ()).status is Status.NEVER_COMMITTED


def test_a_lane_that_has_told_its_next_record_does_not_wait_before_it_says_for_whom() -> None:
    """It tells its time with each batch that is cut there. Of one that a lock keeps then, the lock is told."""
    key = ("inmail-send", TopicPartition(SEND_REQUESTS, 0))
    told = NeighbourLane(7, NOW, NOW + timedelta(seconds=1), None, NOW, None)
    waiting = told._replace(waits_for="inmail-billing")

    assert neighbour_of(key, {key: told}, {}) is None
    assert "inmail-billing, partition 0, since 2026-01-31 12:00:00 UTC" == neighbour_of(key, {key: waiting}, {})
