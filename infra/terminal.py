"""Output of commands: colours and frames on a terminal, plain text in a pipe or file."""

from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta
from time import monotonic

from rich import box
from rich.console import Console
from rich.control import Control
from rich.progress import BarColumn, MofNCompleteColumn, TextColumn, TimeRemainingColumn
from rich.progress import Progress as Bar
from rich.segment import ControlType
from rich.table import Table
from rich.text import Text

from infra.local.progress import Progress

__all__ = ["Reporter", "console", "create_table", "error_console", "format_instant", "show_progress"]

_PIPE_WIDTH = 10_000  # a pipe or file gets whole lines
_NARROW = 125
_CUT_WIDTH = 9


def console() -> Console:
    """Return the console of standard output. Print external text as `Text`, so that nothing in it is markup."""
    found = Console(highlight=False, markup=False, emoji=False)
    return found if found.is_terminal else Console(highlight=False, markup=False, emoji=False, width=_PIPE_WIDTH)


def error_console() -> Console:
    """Return the console of standard error."""
    return Console(stderr=True, highlight=False, markup=False, emoji=False)


class Reporter:
    """Prints progress. The steps of a long task share one line on a terminal; elsewhere four of them are printed."""

    def __init__(self, out: Console) -> None:
        self._out = out
        self._begun = False  # whether the line above is a step of a task

    def __call__(self, line: str) -> None:
        """Print a line."""
        step = isinstance(line, Progress)
        if self._out.is_terminal:
            if step and self._begun:
                self._out.control(Control((ControlType.CURSOR_UP, 1), (ControlType.ERASE_IN_LINE, 2)))
            self._out.print(Text(line))
        elif not isinstance(line, Progress) or line.ends_quarter:
            self._out.print(Text(line))
        self._begun = step


@contextmanager
def show_progress(total: int, what: str, out: Console) -> Iterator[Callable[[int], None]]:
    """Show the progress and the time left: a bar on a terminal, elsewhere a line after each tenth.

    Yields a function to call with the number of items that are done.
    """
    if out.is_terminal:
        columns = (MofNCompleteColumn(), TextColumn(what), BarColumn(), TimeRemainingColumn())
        with Bar(*columns, console=out, transient=True) as bar:
            task = bar.add_task(what, total=total)
            yield lambda done: bar.update(task, completed=done)
        return
    began, tenths = monotonic(), 0

    def print_tenth(done: int) -> None:
        nonlocal tenths
        if done * 10 // total > tenths:
            tenths = done * 10 // total
            left = timedelta(seconds=round((monotonic() - began) * (total - done) / done))
            out.print(f"{done:,} of {total:,} {what}, {left} left")

    yield print_tenth


def format_instant(time: datetime | str | None) -> str:
    """Return an instant as text for people: in UTC, to the millisecond; an empty text for None."""
    if time is None:
        return ""
    if isinstance(time, str):
        time = datetime.fromisoformat(time)
    text = f"{time.astimezone(UTC):%Y-%m-%d %H:%M:%S.%f}"[:-3]
    return text.removesuffix(".000") + "Z"


def create_table(
    heads: Sequence[str], rows: Iterable[Sequence[Text | str | int]], right: str = "", cut: str = ""
) -> Table:
    """Return a table. `right` names the columns to align right, separated by commas; `cut` names one that may be cut.

    The column is cut to make room for the others on a narrow terminal, and never in a pipe.
    """
    out = console()
    made = Table(box=box.SIMPLE_HEAD if out.is_terminal else None, pad_edge=False, header_style="bold")
    for head in heads:
        made.add_column(
            head,
            justify="right" if head in right.split(",") else "left",
            overflow="fold",
            no_wrap=head == cut,
            max_width=_CUT_WIDTH if head == cut and out.width < _NARROW else None,
        )
    for row in rows:
        made.add_row(*(cell if isinstance(cell, Text) else Text(str(cell)) for cell in row))
    return made
