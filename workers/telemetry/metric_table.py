"""Every metric: its name, what it counts, in which unit, by which labels. `docs/metrics.md` is rendered from it.

Names begin with `inmail_`, counters end in `_total`, times are in seconds. A label's values are few and known before:
no account, no request, no offset. Only `source` is a producer's word; how many there are is bounded where it is kept.
"""

from typing import Final

from workers.telemetry.lag_metric_table import LAG_METRICS
from workers.telemetry.metric import Metric, MetricKind

__all__ = ["API_METRICS", "BOOKS_METRICS", "TABLE", "TICKER_METRICS", "WORKER_METRICS"]

OUTCOMES: Final = Metric(
    "inmail_outcomes_total",
    MetricKind.COUNTER,
    "Outcomes stored: answers, and what they moved or caused beside them. Code `booked`: a tick; code `repeat`: a"
    " record answered with what an earlier one was answered. What a retry decides again counts again.",
    "outcomes",
    ("worker", "code"),
)
BATCH_RECORDS: Final = Metric(
    "inmail_batch_records",
    MetricKind.HISTOGRAM,
    "Records that were decided in one Postgres transaction, of all its lanes.",
    "records",
    ("worker",),
)
STAGE_SECONDS: Final = Metric(
    "inmail_stage_seconds",
    MetricKind.HISTOGRAM,
    "Time of a batch in each stage: `wait` (one look at how far other lanes have come), `decode`, `decide` (the"
    " transaction in Postgres), `publish` (sending the answers and the offset), `commit` (of the Kafka transaction);"
    " and `fetch`, a poll of the consumer that brought records.",
    "seconds",
    ("worker", "stage"),
)
ANSWER_SECONDS: Final = Metric(
    "inmail_answer_seconds",
    MetricKind.HISTOGRAM,
    "Time that a record waited for its answer: from the broker's time of the record to the end of the Kafka transaction"
    " with the answer, by this host's clock (0 where that is behind the broker's). Once for each record; one that a"
    " rewind has read again waited since it first came. Where INMAIL_TOPIC_RECORD_TIME is `create`, from the producer's"
    " time.",
    "seconds",
    ("worker",),
)
RETRIES: Final = Metric(
    "inmail_retries_total",
    MetricKind.COUNTER,
    "Times a lane began again, by what it failed of: `fenced` (by a newer owner), `timeout`, `kafka`, `postgres`,"
    " `connection`.",
    "retries",
    ("worker", "class"),
)
DEAD_LETTERS: Final = Metric(
    "inmail_dead_letters_total",
    MetricKind.COUNTER,
    "Records that became dead letters, by reason. One decided again after a retry or a restart is counted again.",
    "records",
    ("worker", "reason"),
)
BATCHES_APART: Final = Metric(
    "inmail_batches_apart_total",
    MetricKind.COUNTER,
    "Batches that the database refused whole, and that were decided in parts.",
    "batches",
    ("worker",),
)
OVERTAKEN: Final = Metric(
    "inmail_overtaking_records_total",
    MetricKind.COUNTER,
    "Records decided although the lane of another group, which may give credits, had not read what comes before them:"
    " INMAIL_ORDER_SECONDS were over. One decided again after a retry is counted again.",
    "records",
    ("worker", "neighbour"),
)
LANE_WAIT: Final = Metric(
    "inmail_lane_wait_seconds",
    MetricKind.GAUGE,
    "The longest time that a lane of this process has now waited for another group's lane, which has unread what comes"
    " before its batch. It is not stuck meanwhile.",
    "seconds",
    ("worker", "neighbour"),
)
LOOP_LAG: Final = Metric(
    "inmail_loop_lag_seconds",
    MetricKind.HISTOGRAM,
    "How much later than asked the event loop woke a task that sleeps: heartbeats share that loop.",
    "seconds",
    ("worker",),
)
POOL: Final = Metric(
    "inmail_pool_connections",
    MetricKind.GAUGE,
    "Open connections to Postgres, by state: `used`, `idle`.",
    "connections",
    ("worker", "state"),
)
POOL_MAX: Final = Metric(
    "inmail_pool_connections_max",
    MetricKind.GAUGE,
    "Connections to Postgres that the process may open (INMAIL_DATABASE_CONNECTIONS).",
    "connections",
    ("worker",),
)
LANES: Final = Metric(
    "inmail_lanes", MetricKind.GAUGE, "Lanes that the process owns, by what they do.", "lanes", ("worker", "doing")
)
HALTED: Final = Metric(
    "inmail_halted_lanes",
    MetricKind.GAUGE,
    "1 for a lane that cannot go on before an operator decides, 0 for another; /readyz and `inmail lag` say why.",
    "0 or 1",
    ("worker", "topic", "partition"),
)
BUSY: Final = Metric(
    "inmail_lane_busy_seconds",
    MetricKind.GAUGE,
    "The longest time that a lane has had something to do and has not got on; at INMAIL_STUCK_SECONDS the worker ends.",
    "seconds",
    ("worker",),
)
READY: Final = Metric(
    "inmail_ready",
    MetricKind.GAUGE,
    "1 while the process gets on with its work, as /readyz says; `api` is the read API.",
    "0 or 1",
    ("worker",),
)
CLOCK_AHEAD: Final = Metric(
    "inmail_clock_ahead_seconds",
    MetricKind.GAUGE,
    "How far ahead of the host's clock the broker's time of a record is that a lane holds for an operator to decide; 0"
    " while none is held.",
    "seconds",
    ("worker",),
)

TICK_INTERVAL: Final = Metric(
    "inmail_tick_interval_seconds",
    MetricKind.GAUGE,
    "Time between two expiry ticks (INMAIL_TICK_SECONDS), as the ticker has it.",
    "seconds",
)

CREDITS: Final = Metric(
    "inmail_credits_total",
    MetricKind.COUNTER,
    "Credits that the journal has moved, by movement: `granted`, `spent`, `reversed`, `expired`, `voided` (adjusted"
    " downward, too), `forfeited` (to a plan change or a cap).",
    "credits",
    ("movement",),
)
REMAINING: Final = Metric("inmail_credits_remaining", MetricKind.GAUGE, "Credits that remain on all lots.", "credits")
CONSERVATION: Final = Metric(
    "inmail_conservation_difference_credits",
    MetricKind.GAUGE,
    "Credits that are not accounted for: granted - (spent - reversed + expired + voided + forfeited + remaining). It"
    " is 0, or the books are broken.",
    "credits",
)
AUDITED_AT: Final = Metric(
    "inmail_audit_passed_timestamp_seconds",
    MetricKind.GAUGE,
    "When the newest audit that passed and moved the mark was taken, by kind: `whole` (`inmail audit --mark`), `new`"
    " (`inmail audit --new`, or a whole one). Missing: none ever was, or partition numbers moved since.",
    "seconds since 1970",
    ("kind",),
)
UNPUBLISHED: Final = Metric(
    "inmail_unpublished_records",
    MetricKind.GAUGE,
    "Input records whose outcomes are stored and whose answers are not published.",
    "records",
    ("topic", "partition"),
)
UNPUBLISHED_SECONDS: Final = Metric(
    "inmail_unpublished_seconds",
    MetricKind.GAUGE,
    "For how long the same stored outcomes have been seen unpublished.",
    "seconds",
    ("topic", "partition"),
)
WATERMARK: Final = Metric(
    "inmail_watermark_age_seconds",
    MetricKind.GAUGE,
    "Age of the broker's time up to which a lane has stored. It grows while nothing comes, too.",
    "seconds",
    ("topic", "partition"),
)
MISPLACED: Final = Metric(
    "inmail_misplaced_records_total",
    MetricKind.COUNTER,
    "Records on another partition than murmur2 of their key gives, by the source that their events name."
    " Of each partition 16 sources are kept by name, the others as `(others)`; one that is read again counts once.",
    "records",
    ("topic", "source"),
)
READ_AT: Final = Metric(
    "inmail_books_read_timestamp_seconds",
    MetricKind.GAUGE,
    "When the books were read last, by reading: `credits`, `lanes`. The values above are as old as this.",
    "seconds since 1970",
    ("reading",),
)
READ_SECONDS: Final = Metric(
    "inmail_books_read_seconds", MetricKind.GAUGE, "How long that reading took.", "seconds", ("reading",)
)
SERVER_READY: Final = Metric(
    "inmail_books_server_ready",
    MetricKind.GAUGE,
    "Whether a server that holds the books could be read at the last attempt, where there are several. While one cannot"
    " be, the values above have its last ones; sums of the whole books are missing until each was read once.",
    "1 or 0",
    ("server",),
)

API_REQUESTS: Final = Metric(
    "inmail_api_requests_total",
    MetricKind.COUNTER,
    "Requests to the read API, by operation (`other`: no path of it), by the name of the token, and by HTTP status.",
    "requests",
    ("operation", "client", "status"),
)
API_SECONDS: Final = Metric(
    "inmail_api_request_seconds",
    MetricKind.HISTOGRAM,
    "Time from a request's headers to its answer, waiting for a sequence included.",
    "seconds",
    ("operation",),
)

WORKER_METRICS: Final = (
    OUTCOMES,
    BATCH_RECORDS,
    STAGE_SECONDS,
    ANSWER_SECONDS,
    RETRIES,
    DEAD_LETTERS,
    BATCHES_APART,
    OVERTAKEN,
    LANE_WAIT,
    LOOP_LAG,
    POOL,
    POOL_MAX,
    LANES,
    HALTED,
    BUSY,
    READY,
    CLOCK_AHEAD,
)
TICKER_METRICS: Final = (TICK_INTERVAL,)
BOOKS_METRICS: Final = (
    CREDITS,
    REMAINING,
    CONSERVATION,
    AUDITED_AT,
    UNPUBLISHED,
    UNPUBLISHED_SECONDS,
    WATERMARK,
    MISPLACED,
    READ_AT,
    READ_SECONDS,
    SERVER_READY,
)

API_METRICS: Final = (API_REQUESTS, API_SECONDS)

TABLE: Final[tuple[Metric, ...]] = (*WORKER_METRICS, *TICKER_METRICS, *BOOKS_METRICS, *API_METRICS, *LAG_METRICS)
