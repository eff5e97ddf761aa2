"""The page's picture: when each surface said the right thing, a line a state, as SVG."""

from collections.abc import Iterator, Mapping
from html import escape
from typing import Any, Final

from tests.states.surfaces import ALERTS

__all__ = ["late_seconds", "picture"]

_LATE_SECONDS: Final = 10.0
_LATE_LONGER_SECONDS: Final = 60.0  # of an alert that fires, and of calm

_LEFT, _TOP, _ROW, _WIDTH = 150, 52, 30, 640
_END_SECONDS: Final = 60.0
_COLOURS: Final = ("#0b6e99", "#3aa6a0", "#7a9e2e", "#8a63b8", "#5d4a3a", "#d0762a", "#b9b9b9", "#c0392b")


def late_seconds(surface: str, figure: str = "told_seconds") -> float:
    """Return from when a surface is late."""
    return _LATE_LONGER_SECONDS if surface == ALERTS or figure != "told_seconds" else _LATE_SECONDS


def picture(states: Mapping[str, Any], surfaces: Mapping[str, str]) -> str:
    """Return it.

    Args:
        states: by name, as a run wrote them; those without a right word are left out.
        surfaces: those to draw, and their titles.

    """
    rows = {name: state for name, state in states.items() if state["heard"]}
    height = _TOP + _ROW * len(rows) + 34
    box = f"0 0 {_LEFT + _WIDTH + 60} {height}"
    lines = [
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="{box}" role="img">',
        '<g font-family="sans-serif" font-size="12" fill="#333">',
        "<title>Seconds from the cause of each state until each surface says so</title>",
        '<rect width="100%" height="100%" fill="#fff"/>',
        *_legend(surfaces),
        *_axis(height - 30),
    ]
    for number, (name, state) in enumerate(rows.items()):
        y = _TOP + _ROW * number + _ROW // 2
        lines.append(f'<text x="{_LEFT - 10}" y="{y + 4}" text-anchor="end">{escape(name)}</text>')
        lines.append(f'<line x1="{_LEFT}" x2="{_LEFT + _WIDTH}" y1="{y}" y2="{y}" stroke="#eee"/>')
        lines += _dots(state["heard"], surfaces, y)
    return "\n".join([*lines, "</g></svg>"]) + "\n"


def _legend(surfaces: Mapping[str, str]) -> Iterator[str]:
    x = 16
    for title, colour in zip((each.replace("`", "") for each in surfaces.values()), _COLOURS, strict=True):
        yield f'<circle cx="{x}" cy="18" r="5" fill="{colour}"/>'
        yield f'<text x="{x + 10}" y="22">{escape(title)}</text>'
        x += 36 + 6.6 * len(title)


def _axis(bottom: int) -> Iterator[str]:
    for seconds in range(0, int(_END_SECONDS) + 1, 5):
        late = seconds == _LATE_SECONDS
        colour, dash = ("#c0392b", ' stroke-dasharray="4 3"') if late else ("#ddd", "")
        yield f'<line x1="{_x(seconds)}" x2="{_x(seconds)}" y1="{_TOP - 12}" y2="{bottom}" stroke="{colour}"{dash}/>'
        yield f'<text x="{_x(seconds)}" y="{bottom + 16}" text-anchor="middle">{seconds} s</text>'


def _dots(heard: Mapping[str, Any], surfaces: Mapping[str, str], y: int) -> Iterator[str]:
    """Draw one for each surface, those that come together one above the other; a cross for what was not said."""
    for number, (surface, colour) in enumerate(zip(surfaces, _COLOURS, strict=True)):
        if surface in heard:
            seconds, at = heard[surface]["told_seconds"], y - 10.5 + number * 3
            if seconds is None or seconds > _END_SECONDS:
                word = "not said" if seconds is None else f"{seconds:.0f} s"
                yield f'<text x="{_LEFT + _WIDTH + 8}" y="{y + 4}" fill="{colour}">{word}</text>'
            else:
                yield f'<circle cx="{_x(seconds)}" cy="{at}" r="4.5" fill="{colour}" fill-opacity="0.85"/>'


def _x(seconds: float) -> float:
    return round(_LEFT + _WIDTH * seconds / _END_SECONDS, 1)
