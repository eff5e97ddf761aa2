"""The page's picture: sends, latency and the memory of each process over the minutes, as SVG."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from html import escape
from math import ceil, log10
from typing import Any, Final

from tests.soak.trend import Points

__all__ = ["picture"]

_LEFT, _TOP, _WIDTH, _HEIGHT, _GAP = 70, 40, 640, 150, 52
_COLOURS: Final = ("#0b6e99", "#d0762a", "#7a9e2e", "#8a63b8", "#c0392b", "#3aa6a0", "#555555", "#c9a227")
_Line = tuple[str, Sequence[Points]]  # its name, and its pieces


def picture(run: Mapping[str, Any]) -> str:
    """Return the picture of a run: a panel below the other, with a dashed line where a process was restarted."""
    panels = [
        ("sends answered a second", _of_minutes(run, {"answered": "sends"}), False),
        ("from a send to its answer, milliseconds", _of_minutes(run, {"p50": "p50_ms", "p99": "p99_ms"}), True),
        ("memory, MB: never restarted", _memory(run, lambda process: process["steady"]), False),
        ("memory, MB: restarted in turn", _memory(run, lambda process: not process["steady"]), False),
    ]
    height = _TOP + len(panels) * (_HEIGHT + _GAP)
    lines = [
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {_LEFT + _WIDTH + 120} {height}" role="img">',
        "<title>Sends, latency and memory of each process over the minutes of a soak</title>",
        '<g font-family="sans-serif" font-size="12" fill="#333">',
        '<rect width="100%" height="100%" fill="#fff"/>',
    ]
    restarts = [each["minute"] for each in run["minutes"] if each["restarted"]]
    for number, (title, drawn, logarithmic) in enumerate(panels):
        top = _TOP + number * (_HEIGHT + _GAP)
        lines += _panel(title, drawn, top, len(run["minutes"]), restarts, logarithmic=logarithmic)
    return "\n".join([*lines, "</g></svg>"]) + "\n"


def _of_minutes(run: Mapping[str, Any], figures: Mapping[str, str]) -> list[_Line]:
    return [
        (name, [[(each["minute"], each[figure]) for each in run["minutes"] if each[figure]]])
        for name, figure in figures.items()
    ]


def _memory(run: Mapping[str, Any], wanted: Callable[[Mapping[str, Any]], bool]) -> list[_Line]:
    """Return the lines of our processes: the servers' memory is of another size."""
    return [
        (name, [[(each["minute"], each["memory_kb"] / 1024) for each in life] for life in process["lives"]])
        for name, process in run["processes"].items()
        if wanted(process) and name not in ("kafka", "postgres")
    ]


def _panel(
    title: str, lines: Sequence[_Line], top: int, minutes: int, restarts: Sequence[int], *, logarithmic: bool
) -> Iterator[str]:
    figures = [figure for _, pieces in lines for piece in pieces for _, figure in piece] or [1.0]
    least, most = (10.0, 10.0 ** ceil(log10(max(figures)))) if logarithmic else (0.0, max(figures) * 1.08)

    def x(minute: float) -> float:
        return round(_LEFT + _WIDTH * minute / max(minutes, 1), 1)

    def y(figure: float) -> float:
        share = log10(max(figure, least) / least) / log10(most / least) if logarithmic else figure / most
        return round(top + _HEIGHT * (1 - share), 1)

    yield f'<text x="{_LEFT}" y="{top - 10}" font-weight="bold">{escape(title)}</text>'
    for minute in restarts:
        yield (
            f'<line x1="{x(minute - 1)}" x2="{x(minute - 1)}" y1="{top}" y2="{top + _HEIGHT}" stroke="#ccc"'
            ' stroke-dasharray="3 3"/>'
        )
    steps = [10**power for power in range(1, round(log10(most)) + 1)] if logarithmic else _steps(most)
    for step in steps:
        yield f'<line x1="{_LEFT}" x2="{_LEFT + _WIDTH}" y1="{y(step)}" y2="{y(step)}" stroke="#eee"/>'
        yield f'<text x="{_LEFT - 8}" y="{y(step) + 4}" text-anchor="end">{step:,g}</text>'
    for minute in range(0, minutes + 1, 10):
        yield f'<text x="{x(minute)}" y="{top + _HEIGHT + 16}" text-anchor="middle">{minute} min</text>'
    for number, (name, pieces) in enumerate(lines):
        colour = _COLOURS[number % len(_COLOURS)]
        yield f'<text x="{_LEFT + _WIDTH + 12}" y="{top + 12 + 15 * number}" fill="{colour}">{escape(name)}</text>'
        for piece in pieces:
            points = " ".join(f"{x(minute)},{y(figure)}" for minute, figure in piece)
            yield f'<polyline points="{points}" fill="none" stroke="{colour}" stroke-width="1.6"/>'


def _steps(most: float) -> list[float]:
    """Return about five round figures from 0 to the most."""
    rough = most / 5
    size = 10 ** int(log10(rough)) if rough >= 1 else 1
    step = next(size * factor for factor in (1, 2, 5, 10) if size * factor >= rough)
    return [step * number for number in range(int(most / step) + 1)]
