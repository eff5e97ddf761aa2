"""How lag looks on a terminal: once, and live."""

from collections.abc import Iterator, Sequence
from datetime import datetime, timedelta

from rich.console import Group, RenderableType
from rich.text import Text

from infra.terminal import console, table
from workers.commands.views.styles import BAD, DIM, GOOD, WARN, count_of
from workers.ops.lag import GroupLag, LagObserver, PartitionLag, Sample, Status

__all__ = ["lag_page", "show_lag", "sparkline"]

_NUMBERS = "partition,committed,end,records,oldest,to zero"
_BARS = " ▁▂▃▄▅▆▇█"
_SPARKS = 24
_CHANGES = 8
_MILD = (Status.WAITING, Status.SLOW, Status.REWOUND)


def show_lag(groups: Sequence[GroupLag]) -> None:
    """Show the lag of each group, and of its partitions where there is something to see."""
    out = console()
    for group in groups:
        out.print(_head(group))
        if notable := _notable(group):
            heads = ["partition", "committed", "end", "records", "oldest", "to zero", "status", "owner", "why"]
            out.print(table(heads, [_row(each) for each in notable], _NUMBERS))


def lag_page(observer: LagObserver) -> RenderableType:
    """Return what an observer saw last, as a page that is drawn anew: groups, partitions with a past, last changes."""
    parts: list[RenderableType] = []
    if observer.trouble is not None:
        parts.append(Text(observer.trouble, style=BAD))
    for group in observer.groups:
        parts.append(_head(group))
        if notable := _notable(group):
            heads = ["partition", "records", "lately", "oldest", "to zero", "status", "since", "why"]
            parts.append(table(heads, [_live_row(observer, each) for each in notable], _NUMBERS))
    changes = sorted(_changes(observer), key=lambda line: line[0])[-_CHANGES:]
    parts += [Text.assemble(("last changes", DIM))] * bool(changes)
    parts += [line for _, line in changes]
    if observer.refreshed_at is not None:
        parts.append(Text(f"{observer.refreshed_at:%H:%M:%S} UTC, looked for {observer.look_seconds:.2f} s", style=DIM))
    return Group(*parts)


def sparkline(samples: Sequence[Sample]) -> str:
    """Return the last lags as bars, the highest of them as the highest bar; a space where all was read."""
    lags = [sample.records for sample in samples[-_SPARKS:]]
    most = max(lags, default=0)
    return "".join(_BARS[-(-lag * (len(_BARS) - 1) // most)] if most else " " for lag in lags)


def _notable(group: GroupLag) -> list[PartitionLag]:
    return [each for each in group.partitions if each.records or each.status is not Status.OK or each.note]


def _head(group: GroupLag) -> Text:
    """Return a group's line: its totals, and what is worst."""
    unread = f"{count_of(group.records, 'record')}, {_duration(group.seconds)}" if group.records else "nothing unread"
    where = f" in partition {group.worst.partition}" if group.worst else ""
    if not group.topic:  # nothing is known of it: least of all that all is read
        total = f"{group.status}: {group.reason}"
    elif group.status is Status.OK:
        total = unread
    else:
        total = f"{unread}, {group.status}{where}: {group.reason}"
    style = _style(group.status) if group.status is not Status.OK or not group.records else WARN
    on = f" on {group.topic}" if group.topic else ""
    return Text.assemble((group.group, "bold"), f"{on}: ", (total, style))


def _row(lag: PartitionLag) -> tuple[Text | str | int, ...]:
    committed = "" if lag.committed is None else lag.committed
    owner = f"{lag.owner.client} at {lag.owner.host}" if lag.owner else ""
    status = Text(lag.status, style=_style(lag.status))
    seconds = _duration(lag.seconds)
    return lag.partition, committed, lag.end, lag.records, seconds, _eta(lag), status, owner, _why(lag)


def _live_row(observer: LagObserver, lag: PartitionLag) -> tuple[Text | str | int, ...]:
    lately = sparkline(observer.history(lag.group, lag.topic, lag.partition))
    since = "" if lag.since is None or observer.refreshed_at is None else _ago(lag.since, observer.refreshed_at)
    status = Text(lag.status, style=_style(lag.status))
    return lag.partition, lag.records, lately, _duration(lag.seconds), _eta(lag), status, since, _why(lag)


def _why(lag: PartitionLag) -> str:
    """Return the reason, and what no status tells: what retention has taken, and who puts records elsewhere."""
    lost = f"retention took {lag.lost:,}" if lag.lost else ""
    return "; ".join(filter(None, [lag.reason, lost, lag.misplaced]))


def _changes(observer: LagObserver) -> Iterator[tuple[datetime, Text]]:
    for group in observer.groups:
        for each in group.partitions:
            for change in observer.changes(each.group, each.topic, each.partition)[1:]:
                where = f"{change.at:%H:%M:%S} {each.group} {each.topic}/{each.partition} "
                yield change.at, Text.assemble(where, (change.status, _style(change.status)), f" {change.reason}")


def _style(status: Status) -> str:
    return GOOD if status is Status.OK else WARN if status in _MILD else BAD


def _eta(lag: PartitionLag) -> str:
    return "" if not lag.records else "?" if lag.eta_seconds is None else _duration(lag.eta_seconds)


def _ago(since: datetime, now: datetime) -> str:
    return _duration((now - since).total_seconds())


def _duration(seconds: float) -> str:
    return f"{seconds:.1f} s" if seconds < 120 else str(timedelta(seconds=round(seconds)))
