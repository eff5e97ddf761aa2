"""Tables on terminals of any width: what is meant to be copied is whole."""

import io
from uuid import uuid4

import pytest
from rich.console import Console
from rich.text import Text

from infra import terminal
from infra.terminal import show_table

HEADS = ["#", "time", "code", "request", "reason"]
ROWS = [
    (
        number,
        "2026-11-29 08:16:57.866Z",
        Text("insufficient_credits", style="red"),
        str(uuid4()),
        "a reason of many words",
    )
    for number in range(3)
]


def _shown(width: int, monkeypatch: pytest.MonkeyPatch, *, terminal_reads: bool = True) -> list[str]:
    file = io.StringIO()
    monkeypatch.setattr(
        terminal,
        "console",
        lambda: Console(file=file, width=width, force_terminal=terminal_reads, color_system=None, highlight=False),
    )
    show_table(HEADS, ROWS, "#", "reason")
    return file.getvalue().splitlines()


@pytest.mark.parametrize("width", [40, 60, 80, 90, 100, 110, 120, 160])
def test_a_cell_is_whole_at_any_width(width: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """Each id, time and code stands in one line: neither folded nor cut."""
    lines = _shown(width, monkeypatch)

    for _, time, code, request, _ in ROWS:
        assert any(request in line for line in lines)
        assert any(time in line for line in lines)
        assert any(str(code) in line for line in lines)
    assert width < 60 or max(len(line.rstrip()) for line in lines) <= width


def test_a_wide_terminal_has_a_table_and_a_narrow_one_named_cells(monkeypatch: pytest.MonkeyPatch) -> None:
    """The heads stand once, or before each cell."""
    wide, narrow = _shown(160, monkeypatch), _shown(80, monkeypatch)

    assert HEADS == next(line.split() for line in wide if "request" in line)
    assert len(ROWS) == sum(f"request {row[3]}" in line for row in ROWS for line in narrow)


def test_a_file_gets_a_table_without_blanks_at_the_ends_of_lines(monkeypatch: pytest.MonkeyPatch) -> None:
    """One long sentence in the last column would fill every line to its length."""
    lines = _shown(10_000, monkeypatch, terminal_reads=False)

    assert [HEADS[-1], *[row[4] for row in ROWS]] == [line.rpartition("  ")[2] for line in lines]
    assert lines == [line.rstrip() for line in lines]
