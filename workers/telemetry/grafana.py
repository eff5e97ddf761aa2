"""Builds the JSON of a dashboard. Only `dashboards.py` and `render.py` import this: the builder is for development."""

from dataclasses import dataclass
from typing import Final

from grafana_foundation_sdk.builders import prometheus, stat, timeseries
from grafana_foundation_sdk.builders.common import VizLegendOptions
from grafana_foundation_sdk.builders.dashboard import Dashboard, Row, ThresholdsConfig
from grafana_foundation_sdk.cog.encoder import JSONEncoder
from grafana_foundation_sdk.models.common import LegendDisplayMode, LegendPlacement
from grafana_foundation_sdk.models.dashboard import DataSourceRef, Threshold, ThresholdsMode

__all__ = ["SOURCE", "Panel", "View", "render_dashboard"]

SOURCE: Final = "inmail-prometheus"  # the data source's uid: infra/grafana/provisioning/datasources


@dataclass(frozen=True, slots=True)
class Panel:
    """One panel: its queries by legend. `number` shows a single number instead of a graph, red from `red` on."""

    title: str
    about: str
    unit: str
    queries: dict[str, str]
    number: bool = False
    red: float | None = None


@dataclass(frozen=True, slots=True)
class View:
    """One dashboard: its rows, by title."""

    uid: str
    title: str
    rows: dict[str, tuple[Panel, ...]]


_WIDTH = 24  # Grafana's grid


def render_dashboard(view: View) -> str:
    """Return a dashboard as the JSON that Grafana loads."""
    board = (
        Dashboard(view.title)
        .uid(view.uid)
        .tags(["inmail"])
        .readonly()
        .refresh("10s")
        .time("now-1h", "now")
        .timezone("browser")
    )
    for title, panels in view.rows.items():
        board = board.with_row(Row(title))
        for panel in panels:
            board = board.with_panel(_number(panel) if panel.number else _lines(panel))
    return JSONEncoder(sort_keys=True, indent=2).encode(board.build()) + "\n"


def _lines(panel: Panel) -> timeseries.Panel:
    built = timeseries.Panel().title(panel.title).description(panel.about).unit(panel.unit).datasource(_source())
    built = built.span(_WIDTH // 2).height(8).min(0)
    legend = VizLegendOptions().show_legend(True).display_mode(LegendDisplayMode.LIST)
    built = built.legend(legend.placement(LegendPlacement.BOTTOM))
    for query in _queries(panel):
        built = built.with_target(query)
    return built


def _number(panel: Panel) -> stat.Panel:
    built = stat.Panel().title(panel.title).description(panel.about).unit(panel.unit).datasource(_source())
    steps = [Threshold(value=None, color="green"), Threshold(value=panel.red, color="red")]
    built = built.thresholds(ThresholdsConfig().mode(ThresholdsMode.ABSOLUTE).steps(steps))
    built = built.span(_WIDTH // 6).height(4)
    for query in _queries(panel):
        built = built.with_target(query)
    return built


def _queries(panel: Panel) -> list[prometheus.Dataquery]:
    return [
        prometheus.Dataquery().expr(expression).legend_format(legend).ref_id(chr(ord("A") + number))
        for number, (legend, expression) in enumerate(panel.queries.items())
    ]


def _source() -> DataSourceRef:
    return DataSourceRef(type_val="prometheus", uid=SOURCE)
