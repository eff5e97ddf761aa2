"""Terminal output of lag: once, and live."""

from collections.abc import Iterator, Sequence
from datetime import datetime, timedelta

from rich.console import Group, RenderableType
from rich.text import Text

from infra.terminal import console, create_table, show_table
from workers.commands.views.styles import BAD, DIM, GOOD, WARN, format_count
from workers.ops.lag import GroupLag, LagObserver, PartitionLag, Sample, Status

__all__ = ["render_lag_page", "show_lag", "sparkline"]

_NUMBER_COLUMNS = "partition,committed,end,records,oldest,to zero"
_BARS = " ▁▂▃▄▅▆▇█"
_SPARKLINE_WIDTH = 24
_MAX_CHANGES = 8
_WARNING_STATUSES = (Status.WAITING, Status.SLOW, Status.REWOUND)


def show_lag(groups: Sequence[GroupLag]) -> None:
    """Show the lag of each group, and of the partitions that are behind, not OK or have a note."""
    out = console()
    for group in groups:
        out.print(_group_line(group))
        if notable := _notable_partitions(group):
            heads = ["partition", "committed", "end", "records", "oldest", "to zero", "status", "owner", "reason"]
            show_table(heads, [_partition_cells(group, each) for each in notable], _NUMBER_COLUMNS, "reason")
    for line in _lock_lines(groups):
        out.print(line, soft_wrap=True)


def render_lag_page(observer: LagObserver) -> RenderableType:
    """Return the live page of an observer's last sample: groups, partitions with their history, and last changes."""
    parts: list[RenderableType] = []
    if observer.trouble is not None:
        parts.append(Text(observer.trouble, style=BAD))
    parts += _lock_lines(observer.groups)
    for group in observer.groups:
        parts.append(_group_line(group))
        if notable := _notable_partitions(group):
            heads = ["partition", "records", "history", "oldest", "to zero", "status", "since", "reason"]
            parts.append(create_table(heads, [_live_cells(observer, group, each) for each in notable], _NUMBER_COLUMNS))
    changes = sorted(_change_lines(observer), key=lambda line: line[0])[-_MAX_CHANGES:]
    parts += [Text.assemble(("last changes", DIM))] * bool(changes)
    parts += [line for _, line in changes]
    if observer.refreshed_at is not None:
        parts.append(Text(f"{observer.refreshed_at:%H:%M:%S} UTC, sampled in {observer.look_seconds:.2f} s", style=DIM))
    return Group(*parts)


def sparkline(samples: Sequence[Sample]) -> str:
    """Return the last lags as bars, scaled to the highest lag; a space where the lag was zero."""
    lags = [sample.records for sample in samples[-_SPARKLINE_WIDTH:]]
    most = max(lags, default=0)
    return "".join(_BARS[-(-lag * (len(_BARS) - 1) // most)] if most else " " for lag in lags)


def _lock_lines(groups: Sequence[GroupLag]) -> list[Text]:
    """Return a line for each session that keeps something locked in the ledger's database: who, and what to do."""
    holders = {(each.server, each.pid): each for group in groups for each in group.locks}
    return [
        Text.assemble(("Postgres: ", "bold"), (each.text, BAD if each.blocks else WARN), f" -> {each.do}")
        for each in holders.values()
    ]


def _notable_partitions(group: GroupLag) -> list[PartitionLag]:
    return [each for each in group.partitions if each.records or each.status is not Status.OK or each.note]


def _group_line(group: GroupLag) -> Text:
    """Return a group's line: its totals, and the status of its worst partition."""
    unread = (
        f"{format_count(group.records, 'record')}, {_format_duration(group.seconds)}"
        if group.records
        else "nothing unread"
    )
    where = f" in partition {group.worst.partition}" if group.worst else ""
    if group.is_unknown:
        total = f"{group.status}: {group.reason}"
    elif group.status is Status.OK:
        total = unread
    else:
        total = f"{unread}, {group.status}{where}: {group.reason}"
    style = _status_style(group.status) if group.status is not Status.OK or not group.records else WARN
    on = f" on {group.topic}" if group.topic else ""
    return Text.assemble((group.group, "bold"), f"{on}: ", (total, style))


def _partition_cells(group: GroupLag, lag: PartitionLag) -> tuple[Text | str | int, ...]:
    committed = "" if lag.committed is None else lag.committed
    owner = f"{lag.owner.client} at {lag.owner.host}" if lag.owner else ""
    status = Text(lag.status, style=_status_style(lag.status))
    seconds = _format_duration(lag.seconds)
    return (
        lag.partition,
        committed,
        lag.end,
        lag.records,
        seconds,
        _format_eta(lag),
        status,
        owner,
        _reason_text(group, lag),
    )


def _live_cells(observer: LagObserver, group: GroupLag, lag: PartitionLag) -> tuple[Text | str | int, ...]:
    lately = sparkline(observer.history(lag.group, lag.topic, lag.partition))
    since = (
        "" if lag.since is None or observer.refreshed_at is None else _format_elapsed(lag.since, observer.refreshed_at)
    )
    status = Text(lag.status, style=_status_style(lag.status))
    return (
        lag.partition,
        lag.records,
        lately,
        _format_duration(lag.seconds),
        _format_eta(lag),
        status,
        since,
        _reason_text(group, lag),
    )


def _reason_text(group: GroupLag, lag: PartitionLag) -> str:
    """Return the reason, followed by records lost to retention and misplaced records, which no status shows.

    One lock keeps all lanes: the group's line tells whose it is, and the others do not say it again.
    """
    reason = "the same lock" if lag.status is Status.LOCKED and lag.reason == group.reason else lag.reason
    lost = f"retention removed {lag.lost:,}" if lag.lost else ""
    return "; ".join(filter(None, [reason, lost, lag.misplaced]))


def _change_lines(observer: LagObserver) -> Iterator[tuple[datetime, Text]]:
    for group in observer.groups:
        for each in group.partitions:
            for change in observer.changes(each.group, each.topic, each.partition)[1:]:
                where = f"{change.at:%H:%M:%S} {each.group} {each.topic}/{each.partition} "
                yield (
                    change.at,
                    Text.assemble(where, (change.status, _status_style(change.status)), f" {change.reason}"),
                )


def _status_style(status: Status) -> str:
    return GOOD if status is Status.OK else WARN if status in _WARNING_STATUSES else BAD


def _format_eta(lag: PartitionLag) -> str:
    return "" if not lag.records else "?" if lag.eta_seconds is None else _format_duration(lag.eta_seconds)


def _format_elapsed(since: datetime, now: datetime) -> str:
    return _format_duration((now - since).total_seconds())


def _format_duration(seconds: float) -> str:
    return f"{seconds:.1f} s" if seconds < 120 else str(timedelta(seconds=round(seconds)))
