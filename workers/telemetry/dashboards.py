"""The Grafana dashboards as code. Only `render.py` imports this module: their builder is a development dependency."""

from typing import Final

from workers.telemetry.grafana import Panel, View

__all__ = ["DASHBOARDS"]

_OVERVIEW: Final = View(
    "inmail-overview",
    "InMail ledger: overview",
    {
        "Health": (
            Panel(
                "Processes not ready",
                "Workers, the ticker and the read API that answer but are not ready: their /readyz says why.",
                "none",
                {"not ready": "count(inmail_ready) - sum(inmail_ready)"},
                number=True,
                red=1,
            ),
            Panel(
                "Processes that do not answer",
                "Processes that do not answer Prometheus.",
                "none",
                {"down": 'count(up{job="inmail"}) - sum(up{job="inmail"})'},
                number=True,
                red=1,
            ),
            Panel(
                "Stored and not published",
                "The longest wait of stored outcomes for publication; usually a second or two.",
                "s",
                {"longest": "max(inmail_unpublished_seconds)"},
                number=True,
                red=120,
            ),
            Panel(
                "Credits not accounted for",
                "Must be 0. Otherwise run `inmail audit`.",
                "none",
                {"difference": "inmail_conservation_difference_credits"},
                number=True,
                red=1,
            ),
            Panel(
                "Dead letters in ten minutes",
                "Records that can never succeed: see `inmail dead-letters list`.",
                "none",
                {"dead letters": "sum(inmail:dead_letters:increase10m)"},
                number=True,
                red=1,
            ),
            Panel(
                "Ledger read",
                "The time since the last reading of the database: the age of the numbers above.",
                "s",
                {"{{reading}}": "time() - inmail_books_read_timestamp_seconds"},
                number=True,
                red=300,
            ),
        ),
        "Decisions": (
            Panel(
                "Outcomes by code",
                "Answers and the movements that they caused, by code.",
                "ops",
                {"{{worker}} {{code}}": "inmail:outcomes:rate1m > 0"},
            ),
            Panel(
                "Records decided",
                "By worker.",
                "ops",
                {"{{worker}}": "sum by (worker) (rate(inmail_batch_records_sum[1m]))"},
            ),
            Panel(
                "Credits moved",
                "Credits moved in a minute, from the journal.",
                "none",
                {"{{movement}}": "increase(inmail_credits_total[1m])"},
            ),
            Panel(
                "Credits remaining", "Credits remaining in all lots.", "none", {"remaining": "inmail_credits_remaining"}
            ),
        ),
        "Refusals and retries": (
            Panel(
                "Dead letters by reason",
                "In ten minutes.",
                "none",
                {"{{worker}} {{reason}}": "inmail:dead_letters:increase10m > 0"},
            ),
            Panel(
                "Retries by class",
                "Lanes that begin again after an error. No record is lost.",
                "ops",
                {"{{worker}} {{class}}": "inmail:retries:rate5m"},
            ),
        ),
    },
)

_WORKERS: Final = View(
    "inmail-workers",
    "InMail ledger: workers",
    {
        "Time to the answer": (
            Panel(
                "Record to answer, median",
                "From the broker's time of a record to its published answer, by the worker's clock.",
                "s",
                {"{{worker}}": "inmail:answer_seconds:p50_5m"},
            ),
            Panel(
                "Record to answer, 99 of 100",
                "Of ticks as well (expiry), for which nobody waits.",
                "s",
                {"{{worker}}": "inmail:answer_seconds:p99_5m"},
            ),
        ),
        "Time by stage": (
            Panel("Median by stage", "Of a batch.", "s", {"{{worker}} {{stage}}": "inmail:stage_seconds:p50_5m"}),
            Panel("99 of 100 by stage", "Of a batch.", "s", {"{{worker}} {{stage}}": "inmail:stage_seconds:p99_5m"}),
            Panel(
                "Batch size",
                "Average number of records decided together. Grows as a worker falls behind.",
                "none",
                {
                    "{{worker}}": "sum by (worker) (rate(inmail_batch_records_sum[5m]))"
                    " / sum by (worker) (rate(inmail_batch_records_count[5m]))"
                },
            ),
            Panel(
                "Event loop late, 99 of 100",
                "How late the event loop wakes a task. Heartbeats use the same loop.",
                "s",
                {
                    "{{worker}}": "histogram_quantile(0.99, sum by (worker, le)"
                    " (rate(inmail_loop_lag_seconds_bucket[5m])))"
                },
            ),
        ),
        "Lanes": (
            Panel("Lanes by activity", "Of all workers.", "none", {"{{worker}} {{doing}}": "inmail_lanes > 0"}),
            Panel(
                "Longest time without progress",
                "Among the lanes that have records to process.",
                "s",
                {"{{worker}} {{instance}}": "inmail_lane_busy_seconds"},
            ),
            Panel(
                "Stored and not published",
                "Input records by topic. A few are always being published.",
                "none",
                {"{{topic}}": "sum by (topic) (inmail_unpublished_records)"},
            ),
            Panel(
                "Age of the watermark",
                "Of the oldest lane of each topic. Also grows while no records arrive.",
                "s",
                {"{{topic}}": "max by (topic) (inmail_watermark_age_seconds)"},
            ),
        ),
        "The read API": (
            Panel(
                "Requests by status",
                "Of all processes. 5xx are its own errors: Postgres away or locked, or too many requests at once.",
                "ops",
                {"{{operation}} {{status}}": "sum by (operation, status) (rate(inmail_api_requests_total[1m]))"},
            ),
            Panel(
                "99 of 100 by operation",
                "Waiting for a sequence included.",
                "s",
                {"{{operation}}": "inmail:api_request_seconds:p99_5m"},
            ),
        ),
        "Resources": (
            Panel(
                "Connections to Postgres",
                "In use, and allowed.",
                "none",
                {
                    "{{worker}} {{instance}} used": 'inmail_pool_connections{state="used"}',
                    "{{worker}} {{instance}} allowed": "inmail_pool_connections_max",
                },
            ),
            Panel("CPU", "Cores.", "none", {"{{instance}}": 'rate(process_cpu_seconds_total{job="inmail"}[1m])'}),
            Panel("Memory", "Resident.", "bytes", {"{{instance}}": 'process_resident_memory_bytes{job="inmail"}'}),
            Panel(
                "Reading the ledger",
                "Duration of a reading of the database.",
                "s",
                {"{{reading}}": "inmail_books_read_seconds"},
            ),
        ),
    },
)

_LAG: Final = View(
    "inmail-lag",
    "InMail ledger: lag",
    {
        "How far behind": (
            Panel(
                "Oldest unread record",
                "The age of the oldest unread record, by the broker's clock: the longest wait for an answer.",
                "s",
                {"{{consumergroup}}": "max by (consumergroup) (inmail_lag_seconds)"},
            ),
            Panel(
                "Unread records",
                "",
                "none",
                {"{{consumergroup}}": "sum by (consumergroup) (kafka_consumergroup_lag_sum)"},
            ),
            Panel(
                "Partitions by status",
                "docs/lag.md explains each status and what to do.",
                "none",
                {
                    "{{consumergroup}} {{inmail_lag_status}}": "sum by (consumergroup, inmail_lag_status)"
                    " (inmail_lag_status) > 0"
                },
            ),
            Panel(
                "Read",
                "Offsets read a second, transaction markers included.",
                "ops",
                {"{{consumergroup}}": "sum by (consumergroup) (rate(kafka_consumergroup_current_offset[1m]))"},
            ),
            Panel("Members", "", "none", {"{{consumergroup}}": "kafka_consumergroup_members"}),
            Panel(
                "Written",
                "Offsets a second, by topic.",
                "ops",
                {"{{topic}}": "sum by (topic) (rate(kafka_topic_partition_current_offset[1m]))"},
            ),
        ),
    },
)

DASHBOARDS: Final = (_OVERVIEW, _WORKERS, _LAG)
