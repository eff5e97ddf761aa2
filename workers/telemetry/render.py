"""Renders docs/metrics.md from the tables of metrics, and the Grafana dashboards.

python -m workers.telemetry.render           write the files
python -m workers.telemetry.render --check   fail if a file is stale
"""

import argparse
import sys
from pathlib import Path

from workers.telemetry.dashboards import DASHBOARDS
from workers.telemetry.grafana import render_dashboard
from workers.telemetry.lag_metric_table import LAG_METRICS
from workers.telemetry.metric import Metric
from workers.telemetry.metric_table import API_METRICS, BOOKS_METRICS, TICKER_METRICS, WORKER_METRICS

__all__ = ["main", "render_docs", "rendered_files"]

ROOT = Path(__file__).parents[2]

_HEAD = """# Metrics

Rendered from `metric_table.py` and `lag_metric_table.py` in `workers/telemetry` by `make render`. Names, units and
labels do not change: dashboards and alerts depend on them.

A worker answers `GET /metrics` on `INMAIL_HEALTH_PORT`, beside `/livez` and `/readyz`. Counters change once for each
batch; gauges are read at the scrape. One process, `inmail metrics --serve` (on that port, or 9464), reads the metrics
of the whole ledger from its database: the lanes every 10 s, the credits every 60 s. `inmail metrics` prints the same
metrics once.
[`inmail api`](api.md) also answers `GET /metrics` on that port, with its connections as those of the worker `api`.
It has `inmail_ready` as workers and the ticker have it. [`inmail lag --serve`](lag.md) serves the lag of any consumer
group, and answers 503 while it is not ready; whether `inmail metrics` is ready, its `/readyz` says.

Each process also has `process_cpu_seconds_total`, `process_resident_memory_bytes` and similar metrics.
"""


def _table(metrics: tuple[Metric, ...]) -> list[str]:
    lines = ["| metric | kind | unit | labels | meaning |", "|---|---|---|---|---|"]
    for row in metrics:
        labels = ", ".join(f"`{label}`" for label in row.labels)
        lines.append(f"| `{row.name}` | {row.kind} | {row.unit} | {labels} | {row.meaning} |")
    return lines


def render_docs() -> str:
    """Return the text of docs/metrics.md."""
    sections = {
        "Workers": WORKER_METRICS,
        "The ticker, beside those of workers": TICKER_METRICS,
        "The ledger": BOOKS_METRICS,
        "The read API": API_METRICS,
        "Lag": LAG_METRICS,
    }
    parts = [_HEAD]
    for title, metrics in sections.items():
        parts += [f"## {title}", "", *_table(metrics), ""]
    return "\n".join(parts)


def rendered_files() -> dict[Path, str]:
    """Return the text of each rendered file, by path."""
    grafana = ROOT / "infra" / "grafana" / "dashboards"
    boards = {grafana / f"{view.uid}.json": render_dashboard(view) for view in DASHBOARDS}
    return {ROOT / "docs" / "metrics.md": render_docs(), **boards}


def main(arguments: list[str] | None = None) -> int:
    """Run the command line and return the exit status."""
    parser = argparse.ArgumentParser(prog="python -m workers.telemetry.render", description=__doc__)
    parser.add_argument("--check", action="store_true", help="change nothing; fail if a file is stale")
    check = parser.parse_args(arguments).check
    stale = [path for path, text in rendered_files().items() if not path.exists() or path.read_text() != text]
    if check and stale:
        names = "\n".join(str(path.relative_to(ROOT)) for path in stale)
        sys.stderr.write(f"stale; run python -m workers.telemetry.render:\n{names}\n")
        return 1
    if not check:
        for path in stale:
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(rendered_files()[path], encoding="utf-8")
    return 0


if __name__ == "__main__":
    sys.exit(main())
