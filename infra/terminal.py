"""The terminal: colours and frames where somebody looks, plain text where a program reads."""

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

__all__ = ["Reporter", "console", "error_console", "instant", "progress_of", "table"]

_PIPE_WIDTH = 10_000  # nothing is wrapped or cut for a program
_NARROW = 125
_CUT_WIDTH = 9


def console() -> Console:
    """Return the console of standard output. Text from outside goes to it as `Text`, which nothing is read into."""
    found = Console(highlight=False, markup=False, emoji=False)
    return found if found.is_terminal else Console(highlight=False, markup=False, emoji=False, width=_PIPE_WIDTH)


def error_console() -> Console:
    """Return the console of standard error."""
    return Console(stderr=True, highlight=False, markup=False, emoji=False)


class Reporter:
    """Tells what goes on. The steps of a long task share one line on a terminal; elsewhere a few of them are told."""

    def __init__(self, out: Console) -> None:
        self._out = out
        self._begun = False  # whether the line above is one of a task's steps

    def __call__(self, line: str) -> None:
        """Tell a line."""
        step = isinstance(line, Progress)
        if self._out.is_terminal:
            if step and self._begun:
                self._out.control(Control((ControlType.CURSOR_UP, 1), (ControlType.ERASE_IN_LINE, 2)))
            self._out.print(Text(line))
        elif not isinstance(line, Progress) or line.ends_quarter:
            self._out.print(Text(line))
        self._begun = step


@contextmanager
def progress_of(total: int, what: str, out: Console) -> Iterator[Callable[[int], None]]:
    """Show how far something is and how long it will take: a bar on a terminal, a line each tenth elsewhere.

    Yields what to call with the number done.
    """
    if out.is_terminal:
        columns = (MofNCompleteColumn(), TextColumn(what), BarColumn(), TimeRemainingColumn())
        with Bar(*columns, console=out, transient=True) as bar:
            task = bar.add_task(what, total=total)
            yield lambda done: bar.update(task, completed=done)
        return
    began, told = monotonic(), 0

    def tell(done: int) -> None:
        nonlocal told
        if done * 10 // total > told:
            told = done * 10 // total
            left = timedelta(seconds=round((monotonic() - began) * (total - done) / done))
            out.print(f"{done:,} of {total:,} {what}, {left} left")

    yield tell


def instant(time: datetime | str | None) -> str:
    """Return an instant in UTC to the millisecond, as a person reads it."""
    if time is None:
        return ""
    if isinstance(time, str):
        time = datetime.fromisoformat(time)
    text = f"{time.astimezone(UTC):%Y-%m-%d %H:%M:%S.%f}"[:-3]
    return text.removesuffix(".000") + "Z"


def table(heads: Sequence[str], rows: Iterable[Sequence[Text | str | int]], right: str = "", cut: str = "") -> Table:
    """Return a table. `right` names its columns of numbers, separated by commas; `cut` one that may lose its end.

    The one to cut makes room for the others on a narrow terminal; a pipe gets it whole.
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
