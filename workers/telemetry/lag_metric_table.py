"""The metrics of lag. Those that begin with `kafka_` are kafka_exporter's, so that dashboards made for it work."""

from workers.telemetry.metric import Metric, MetricKind

__all__ = ["LAG_METRICS"]

_GROUP = ("consumergroup",)
_GROUP_TOPIC = ("consumergroup", "topic")
_PLACE = ("consumergroup", "topic", "partition")
_PARTITION = ("topic", "partition")

LAG_METRICS: tuple[Metric, ...] = (
    Metric(
        "kafka_consumergroup_lag",
        MetricKind.GAUGE,
        "Unread records of a partition; 0 also where nothing but markers of transactions is left.",
        "records",
        _PLACE,
    ),
    Metric(
        "kafka_consumergroup_lag_sum",
        MetricKind.GAUGE,
        "Unread records of all partitions of a topic.",
        "records",
        _GROUP_TOPIC,
    ),
    Metric(
        "kafka_consumergroup_current_offset",
        MetricKind.GAUGE,
        "Offset that the group committed: of the next record. Not there where it never committed.",
        "offset",
        _PLACE,
    ),
    Metric(
        "kafka_consumergroup_members", MetricKind.GAUGE, "Members of a group, where Kafka tells.", "members", _GROUP
    ),
    Metric(
        "kafka_topic_partition_current_offset",
        MetricKind.GAUGE,
        "Where a partition ends: the next offset.",
        "offset",
        _PARTITION,
    ),
    Metric(
        "kafka_topic_partition_oldest_offset",
        MetricKind.GAUGE,
        "Oldest record that retention has left.",
        "offset",
        _PARTITION,
    ),
    Metric("inmail_lag_seconds", MetricKind.GAUGE, "Age of a partition's oldest unread record.", "seconds", _PLACE),
    Metric(
        "inmail_lag_held_records",
        MetricKind.GAUGE,
        "Unread records of a partition that an open transaction of a producer keeps from every reader.",
        "records",
        _PLACE,
    ),
    Metric(
        "inmail_lag_lost_records",
        MetricKind.GAUGE,
        "Records of a partition that retention took before the group had read them.",
        "records",
        _PLACE,
    ),
    Metric(
        "inmail_lag_status",
        MetricKind.GAUGE,
        "How a partition stands, as a state set: 1 for its status, 0 for the others. See docs/lag.md.",
        "1",
        (*_PLACE, "inmail_lag_status"),
    ),
    Metric(
        "inmail_lag_group_status",
        MetricKind.GAUGE,
        "How a group stands with a topic, which is as its worst partition does: a state set.",
        "1",
        (*_GROUP_TOPIC, "inmail_lag_group_status"),
    ),
    Metric(
        "inmail_lag_looked_timestamp_seconds",
        MetricKind.GAUGE,
        "When the observer looked last.",
        "seconds since the epoch",
    ),
    Metric(
        "inmail_lag_books_readable",
        MetricKind.GAUGE,
        "1: the books tell which lanes pause or wait. 0: they could not be read.",
        "1",
    ),
)
