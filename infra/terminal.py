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

__all__ = ["Reporter", "console", "create_table", "error_console", "format_instant", "show_progress", "show_table"]

_PIPE_WIDTH = 10_000  # a pipe or file gets whole lines
_SENTENCE_WIDTH = 24  # that a column of sentences has at least


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


def create_table(heads: Sequence[str], rows: Iterable[Sequence[Text | str | int]], right: str) -> Table:
    """Return a table whose cells are broken where the terminal is narrow.

    Args:
        heads: the columns' names.
        rows: the cells.
        right: the columns to align right, separated by commas.

    """
    made = _empty_table()
    for head in heads:
        made.add_column(head, justify="right" if head in right.split(",") else "left", overflow="fold")
    for row in rows:
        made.add_row(*map(_cell, row))
    return made


def show_table(
    heads: Sequence[str], rows: Iterable[Sequence[Text | str | int]], right: str = "", flexible: str = ""
) -> None:
    """Print a table whose cells can be copied at any width of the terminal.

    Where the table does not fit, each row becomes a few lines of `head value`. Only the cells of `flexible` columns are
    ever broken.

    Args:
        heads: the columns' names.
        rows: the cells.
        right: the columns to align right, separated by commas.
        flexible: the columns of sentences, separated by commas.

    """
    out, cells = console(), [[_cell(each) for each in row] for row in rows]
    made = _empty_table()
    for number, head in enumerate(heads):
        breaks = head in flexible.split(",")
        longest = max([len(head), *(row[number].cell_len for row in cells)])
        made.add_column(
            head,
            justify="right" if head in right.split(",") else "left",
            overflow="fold",
            no_wrap=not breaks,
            min_width=min(longest, _SENTENCE_WIDTH) if breaks else longest,
        )
    for row in cells:
        made.add_row(*row)
    if made.__rich_measure__(out, out.options.update(max_width=_PIPE_WIDTH)).minimum <= out.width:
        _print_table(out, made)
        return
    for row in cells:
        for line in _flow(heads, row, out.width):
            out.print(line, soft_wrap=True)


def _print_table(out: Console, made: Table) -> None:
    """Print a table; where programs or files take it, without the blanks that fill its last column."""
    if out.is_terminal:
        out.print(made)
        return
    with out.capture() as captured:
        out.print(made)
    for line in captured.get().splitlines():
        out.print(Text(line.rstrip()), soft_wrap=True)


def _flow(heads: Sequence[str], row: Sequence[Text], width: int) -> Iterator[Text]:
    """Yield a row as lines of named cells, as many a line as fit; a longer cell is broken by the terminal alone."""
    line = Text.assemble((row[0].plain, "bold"))
    for head, cell in zip(heads[1:], row[1:], strict=True):
        if not cell:
            continue
        part = Text.assemble("  ", (f"{head} ", "dim"), cell)
        if line.cell_len + part.cell_len > width:
            yield line
            line = Text("    ")
            part = part[2:]
        line.append_text(part)
    yield line


def _empty_table() -> Table:
    return Table(box=box.SIMPLE_HEAD if console().is_terminal else None, pad_edge=False, header_style="bold")


def _cell(cell: Text | str | int) -> Text:
    return cell if isinstance(cell, Text) else Text(str(cell))
