"""Lag as JSON for the page: one row for each group, and the partitions of selected groups."""

from collections.abc import Collection, Sequence
from datetime import datetime
from typing import Any, Final

from workers.console.advice import ADVICE
from workers.console.health import start_advice
from workers.console.lag_source import LagSource
from workers.ops.lag import GroupLag, PartitionLag, Sample, Status
from workers.topology import TOPIC_OF_GROUP

__all__ = ["group_json", "hidden_json", "history_json", "overview_json", "partitions_json", "worst_group_json"]

# What is not told of a group that cannot be seen.
_UNKNOWN: Final = (
    *("records", "seconds", "eta_seconds", "held", "never_committed", "state", "members", "locks"),
    *("partition", "since", "owner"),
)
_MAX_POINTS: Final = 90  # of a sparkline
_MAX_PARTITIONS: Final = 200  # of a group: the worst are shown
_MAX_CHANGES: Final = 5  # of a partition
_MAX_OTHER_GROUPS: Final = 20  # in the overview, in addition to ours


def group_json(group: GroupLag, *, is_stale: bool = False) -> dict[str, Any]:
    """Return a group's totals, and the status, reason and advice of its worst partition.

    Args:
        group: the group.
        is_stale: Kafka has not answered since: how the group stands is not known, only how it stood.

    """
    worst, advice = group.worst, ADVICE[group.status]
    ours = TOPIC_OF_GROUP.get(group.group) == group.topic
    totals = {name: value for name, value in group.summary().items() if name != "partitions"}
    return totals | {
        "ours": ours,
        "kind": _kind(group.status, is_stale=is_stale),
        "do": start_advice(group.topic) if ours and group.status is Status.STOPPED else advice.do,
        "partition": worst.partition if worst else None,
        "since": worst.since if worst else None,
        "owner": _owner_text(worst) if worst else None,
    }


def _kind(status: Status, *, is_stale: bool) -> str:
    return "unknown" if is_stale else ADVICE[status].kind


def hidden_json(source: LagSource) -> list[dict[str, Any]]:
    """Return the workers' groups that the console may not see, in the shape of the others, without a number."""
    return [
        dict.fromkeys(_UNKNOWN)
        | {
            "group": group,
            "topic": TOPIC_OF_GROUP[group],
            "ours": True,
            "kind": "unknown",
            "status": "NOT KNOWN",
            "reason": f"this console may not see group {group}",
            "do": f"grant its user DESCRIBE on group {group}",
        }
        for group in sorted(source.hidden_groups)
    ]


def worst_group_json(groups: Sequence[GroupLag]) -> dict[str, Any] | None:
    """Return the group with the most severe status, then the oldest unread record; None where every group is OK."""
    worst = max(groups, key=lambda group: (group.status.severity, group.seconds), default=None)
    return None if worst is None or worst.status is Status.OK else group_json(worst)


def overview_json(source: LagSource, *, is_stale: bool = False) -> dict[str, Any]:
    """Return the overview's lag: our groups, and the other groups whose status is not OK.

    Args:
        source: the lag.
        is_stale: as of `group_json`.

    """
    others = [group for group in source.groups if group.group not in TOPIC_OF_GROUP]
    abnormal = sorted(
        (group for group in others if group.status is not Status.OK),
        key=lambda group: (group.status.severity, group.seconds),
        reverse=True,
    )
    shown = [*source.worker_groups, *abnormal[:_MAX_OTHER_GROUPS]]
    return {
        "at": source.refreshed_at,
        "groups": [
            *(group_json(group, is_stale=is_stale) for group in shown),
            *hidden_json(source),
        ],
        "worst": None if is_stale else worst_group_json(source.worker_groups),
        "is_stale": is_stale,
        "others": len(others),
        "others_bad": len(abnormal),
    }


def partitions_json(source: LagSource, chosen: Collection[str], *, is_stale: bool = False) -> list[dict[str, Any]]:
    """Return the chosen groups with their partitions and the partitions' history; `is_stale` as of `group_json`."""
    shown = [
        group_json(group, is_stale=is_stale)
        | {"partitions": [_partition_json(source, each, is_stale=is_stale) for each in _worst_partitions(group)]}
        for group in source.groups
        if group.group in chosen
    ]
    return shown + [each | {"partitions": []} for each in hidden_json(source) if each["group"] in chosen]


def _worst_partitions(group: GroupLag) -> list[PartitionLag]:
    worst_first = sorted(group.partitions, key=lambda each: (each.status.severity, each.records), reverse=True)
    return sorted(worst_first[:_MAX_PARTITIONS], key=lambda each: each.partition)


def _partition_json(source: LagSource, each: PartitionLag, *, is_stale: bool) -> dict[str, Any]:
    key = (each.group, each.topic, each.partition)
    return {
        "partition": each.partition,
        "committed": each.committed,
        "end": each.end,
        "records": each.records,
        "seconds": each.seconds,
        "status": each.status,
        "kind": _kind(each.status, is_stale=is_stale),
        "reason": each.reason,
        "since": each.since,
        "eta_seconds": each.eta_seconds,
        "owner": _owner_text(each),
        "note": each.note,
        "changes": [
            change._asdict() | {"kind": ADVICE[change.status].kind} for change in source.changes(*key)[-_MAX_CHANGES:]
        ],
        "history": history_json(source.history(*key)),
    }


def _owner_text(each: PartitionLag) -> str | None:
    return f"{each.owner.client} at {each.owner.host.lstrip('/')}" if each.owner is not None else None


def history_json(samples: Sequence[Sample]) -> dict[str, Any]:
    """Return unread records over time, thinned to about 90 points that include the oldest and the newest sample."""
    if not samples:
        return {"seconds_ago": [], "records": []}
    step = -(-len(samples) // _MAX_POINTS)
    points = samples[::-step][::-1]
    if points[0] is not samples[0]:
        points = (samples[0], *points)
    now: datetime = points[-1].at
    return {
        "seconds_ago": [round((now - each.at).total_seconds(), 1) for each in points],
        "records": [each.records for each in points],
    }
