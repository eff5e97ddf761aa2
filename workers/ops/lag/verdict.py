"""How a partition stands: from its last samples and what is known of its group, a status and the reason in words.

Burrow's rules, over a window of samples: a lag that was zero once is none; an offset that went back is a rewind; one
that stands still is a stall; one that moves while the lag never falls is slow. Before them comes what Burrow cannot
see: who is in the group, what an open transaction hides, and what our own workers say of themselves.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta

from workers.ops.lag.model import Classification, Facts, Sample, Status, StatusLimits
from workers.ops.lag.offsets import classify_offsets

__all__ = ["classify", "lowered_from", "pace_of", "still_since", "within"]


@dataclass(frozen=True, slots=True)
class _Situation:
    whole: Sequence[Sample]  # all there are; the last one is now
    samples: Sequence[Sample]  # those of the window, and one before it, if there is one
    facts: Facts
    limits: StatusLimits

    @property
    def last(self) -> Sample:
        return self.samples[-1]

    @property
    def covered_seconds(self) -> float:
        return (self.last.at - self.samples[0].at).total_seconds()

    @property
    def still_seconds(self) -> float:
        return (self.facts.now - still_since(self.whole)).total_seconds()


def classify(samples: Sequence[Sample], facts: Facts, limits: StatusLimits) -> Classification:
    """Return how a partition stands. The last sample, of which there has to be one, is what it is now."""
    case = _Situation(samples, within(samples, facts.now, limits.window_seconds), facts, limits)
    for rule in _RULES:
        if (verdict := rule(case)) is not None:
            return verdict
    return Classification(Status.OK, _progress(case))


def still_since(samples: Sequence[Sample]) -> datetime:
    """Return since when, as far as the samples reach, records are unread and the offset has not moved."""
    since, last = samples[-1].at, samples[-1]
    for sample in reversed(samples):
        if sample.committed != last.committed or not sample.records:
            break
        since = sample.at
    return since


def lowered_from(samples: Sequence[Sample]) -> Sample | None:
    """Return the sample from which the offset went back, if it has not come as far again."""
    highest: Sample | None = None
    for sample in samples:
        higher = highest is None or highest.committed is None or (sample.committed or 0) >= highest.committed
        if higher or not sample.records:  # a topic that was made anew begins at 0, and is read to its end
            highest = sample
    return None if highest is None or highest.committed == samples[-1].committed else highest


def pace_of(samples: Sequence[Sample]) -> float | None:
    """Return by how many records a second the lag falls over the samples; None of fewer than two."""
    if len(samples) < 2 or (seconds := (samples[-1].at - samples[0].at).total_seconds()) <= 0:
        return None
    return (samples[0].records - samples[-1].records) / seconds


def within(samples: Sequence[Sample], now: datetime, seconds: float) -> Sequence[Sample]:
    """Return the samples of the last seconds, and one before them, if there is one."""
    begin = now - timedelta(seconds=seconds)
    first = next((i for i, sample in enumerate(samples) if sample.at > begin), len(samples) - 1)
    return samples[max(0, first - 1) :]


def _never_committed(case: _Situation) -> Classification | None:
    if case.last.committed is not None:
        return None
    if case.facts.ours:
        return Classification(Status.NEVER_COMMITTED, "it was never started: run `inmail topics apply`")
    if case.last.records:
        return Classification(Status.NEVER_COMMITTED, f"no offset was ever committed, and {_records(case)}")
    return Classification(Status.OK, "no offset was ever committed, and there is nothing to read")


def _unknown(case: _Situation) -> Classification | None:
    return Classification(Status.UNKNOWN, case.facts.unknown) if case.facts.unknown is not None else None


def _misplaced(case: _Situation) -> Classification | None:
    return classify_offsets(case.last, case.facts, _records(case))


def _unheld(case: _Situation) -> Classification | None:
    return Classification(Status.STOPPED, case.facts.unheld) if case.facts.unheld is not None else None


def _all_read(case: _Situation) -> Classification | None:
    return None if case.last.records else Classification(Status.OK, "all is read")


def _paused(case: _Situation) -> Classification | None:
    return Classification(Status.PAUSED, f"the breaker: {case.facts.paused}") if case.facts.paused is not None else None


def _stopped(case: _Situation) -> Classification | None:
    facts = case.facts
    if facts.members is None or not facts.settled or facts.owned:
        return None
    # Others may commit without being members; a rolling restart of theirs is not to be told within a second either.
    if not facts.ours and not _stands(case, case.limits.behind_seconds):
        return None
    who = "nobody is in the group" if not facts.members else f"none of the group's {facts.members} members has it"
    back = lowered_from(case.whole)
    went = f"; its offset went back from {back.committed:,} to {case.last.committed:,}" if back else ""
    return Classification(Status.STOPPED, f"{who}, and {_records(case)}{went}")


def _holding(case: _Situation) -> Classification | None:
    return Classification(Status.PAUSED, f"it holds a record: {case.facts.holding}") if case.facts.holding else None


def _rewound(case: _Situation) -> Classification | None:
    back = lowered_from(case.whole)
    if back is None or back.committed is None or case.last.committed is None:
        return None
    return Classification(
        Status.REWOUND,
        f"the offset went back from {back.committed:,} after {back.at:%H:%M:%S} UTC and is at {case.last.committed:,}:"
        f" {back.committed - case.last.committed:,} to read again",
    )


def _held(case: _Situation) -> Classification | None:
    facts = case.facts
    if facts.readable or not facts.held:
        return None
    words = f"an open transaction of a producer holds {facts.held:,} back"
    if facts.seconds < case.limits.held_seconds:
        return Classification(Status.OK, f"all is read that can be: {words} for {facts.seconds:.1f} s")
    return Classification(Status.HELD, f"{words} since {facts.seconds:.0f} s: no reader can go on before it ends")


def _locked(case: _Situation) -> Classification | None:
    if case.facts.locked is None:
        return None
    certain = case.facts.lock_is_waited_for
    if not _stands(case, case.limits.locked_seconds if certain else case.limits.behind_seconds):
        return None
    unread_since = case.facts.now - timedelta(seconds=case.facts.seconds)
    if any(each.at > unread_since and each.committed != case.last.committed for each in case.samples[-2:]):
        return None  # it got on since the last look
    return Classification(Status.LOCKED, case.facts.locked)


def _waiting(case: _Situation) -> Classification | None:
    facts = case.facts
    if facts.waiting is None or facts.seconds < case.limits.waiting_seconds:
        return None
    # No lane waits for so long: it has gone on, and something else holds it. Its row tells so only with its next batch.
    if _is_still(case, case.limits.window_seconds + case.limits.order_seconds):
        return None
    return Classification(Status.WAITING, f"waits for {facts.waiting}")


def _stalled(case: _Situation) -> Classification | None:
    if not _is_still(case, case.limits.window_seconds) and not _own_is_still(case):
        return None
    rest = "" if case.facts.settled else f", and the group is sharing its partitions out{_after_kill(case)}"
    return Classification(
        Status.STALLED, f"its reader is there and has not got on for {case.still_seconds:.0f} s{rest}{_statement(case)}"
    )


def _after_kill(case: _Situation) -> str:
    return ": after a kill it waits for that member for up to INMAIL_SESSION_SECONDS" if case.facts.ours else ""


def _slow(case: _Situation) -> Classification | None:
    if case.facts.seconds < case.limits.behind_seconds or case.covered_seconds < case.limits.window_seconds:
        return None
    lags = [sample.records for sample in case.samples]
    if not all(lags) or len({sample.committed for sample in case.samples}) < 2:
        return None
    half = len(lags) // 2
    # Burrow asks that no sample be below the one before it, which a single quick batch undoes. Halves say the same of
    # what lasts: whatever was unread in the first, no less was in the second.
    if min(lags[half:]) < max(lags[:half]):
        return None
    return Classification(Status.SLOW, f"{_speeds(case)}{_statement(case)}")


def _statement(case: _Situation) -> str:
    return "" if case.facts.statement is None else f"; {case.facts.statement}"


def _speeds(case: _Situation) -> str:
    """Return how much is read and how much comes; or that nothing is, of a reader that died or hangs for a while."""
    came = f"{(case.last.end - case.samples[0].end) / case.covered_seconds:,.1f} come"
    if case.still_seconds > case.limits.window_seconds / 2:
        return f"it has not got on for {case.still_seconds:.0f} s, and {came} a second"
    read = (case.last.committed or 0) - (case.samples[0].committed or 0)
    return f"it reads {read / case.covered_seconds:,.1f} records a second, and {came}"


def _is_still(case: _Situation, seconds: float) -> bool:
    return _stands(case, seconds) and case.still_seconds >= seconds


def _own_is_still(case: _Situation) -> bool:
    """Tell whether a lane of ours that is not just being taken over makes no progress: it commits with each turn.

    While its group shares the partitions out nobody commits, and after a kill that takes as long as the session.
    """
    facts, seconds = case.facts, case.limits.own_seconds
    if not (facts.ours and facts.members and facts.readable and (facts.owned or not facts.settled)):
        return False
    is_new = facts.owned_since is not None and (facts.now - facts.owned_since).total_seconds() < seconds
    return not is_new and _is_still(case, seconds)


def _stands(case: _Situation, seconds: float) -> bool:
    """Tell whether the oldest unread record is so old, and no offset was committed in that time as far as was seen."""
    if case.facts.seconds < seconds:
        return False
    since = case.facts.now - timedelta(seconds=seconds)
    recent = [sample for sample in case.samples if sample.at > since]
    return all(sample.committed == case.last.committed and sample.records for sample in recent)


def _progress(case: _Situation) -> str:
    drain_rate = pace_of(case.samples)
    if drain_rate is not None and drain_rate > 0:
        return f"{_records(case)}; {drain_rate:,.1f} a second fewer"
    return _records(case)


def _records(case: _Situation) -> str:
    count = case.last.records
    verb = "is" if count == 1 else "are"  # "its": a group's own count is that of all its partitions
    return f"{count:,} of its records {verb} unread, the oldest for {case.facts.seconds:.1f} s"


_RULES: tuple[Callable[[_Situation], Classification | None], ...] = (
    _unknown,
    _misplaced,
    _never_committed,
    _unheld,
    _all_read,
    _paused,
    _stopped,
    _holding,
    _held,
    _locked,
    _waiting,
    _stalled,
    _rewound,
    _slow,
)
