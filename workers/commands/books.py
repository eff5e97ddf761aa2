"""The commands `balance`, `statement` and `audit`."""

from contextlib import nullcontext
from datetime import datetime
from typing import Annotated

import typer

from infra.output import continue_without_reader
from infra.settings import Settings
from infra.terminal import error_console, show_progress
from workers.commands.options import JsonOption, check_account_id, instant_option, write_json
from workers.commands.running import Exit, run_command, tell_silent_servers
from workers.commands.views.books import show_audit, show_balance, show_books_audit, show_statement
from workers.ops.books.audit import Audit, audit
from workers.ops.books.audit_new import audit_and_mark, audit_new
from workers.ops.books.audit_servers import BooksAudit, audit_each_server
from workers.ops.books.balance import read_balance
from workers.ops.books.shards import has_one_server
from workers.ops.books.statement import read_statement, write_csv
from workers.ops.books.whole_books import check_whole_books

__all__ = ["audit_command", "balance", "statement"]

_AccountArgument = Annotated[
    str,
    typer.Argument(callback=check_account_id, help="The account's id. Write -- before an id that begins with a dash."),
]
_AsOfOption = Annotated[
    datetime | None,
    instant_option(help="As of this time; default: now."),
]
_CsvOption = Annotated[bool, typer.Option("--csv", help="Write CSV, one line for each row of the journal.")]

_NewOption = Annotated[
    bool,
    typer.Option("--new", help="Read only what is new since the mark, and move the mark if all is well; no mark: all."),
]
_MarkOption = Annotated[
    bool, typer.Option("--mark", help="Read everything, and set the mark from which --new reads if all is well.")
]


def statement(
    account: _AccountArgument, as_of: _AsOfOption = None, *, json: JsonOption = False, csv: _CsvOption = False
) -> None:
    """Show an account's balance, lots and all statement lines."""
    if json and csv:
        raise typer.BadParameter("give one of the two, not both", param_hint="--json, --csv")
    found = run_command(lambda settings: read_statement(settings, account, as_of))
    if csv:
        typer.echo(write_csv(found).encode(), nl=False)
    elif json:
        write_json(found.summary())
    else:
        show_statement(found)


def balance(account: _AccountArgument, as_of: _AsOfOption = None, *, json: JsonOption = False) -> None:
    """Show the credits an account can spend, by lot: now, at an earlier time, or at a later time without new events."""
    found = run_command(lambda settings: read_balance(settings, account, as_of))
    write_json(found) if json else show_balance(found)


def audit_command(*, new: _NewOption = False, mark: _MarkOption = False, json: JsonOption = False) -> None:
    """Check that the ledger balances: every credit, every row, every answer."""
    continue_without_reader()
    if new and mark:
        raise typer.BadParameter("give one of the two, not both", param_hint="--new, --mark")
    run = audit_new if new else audit_and_mark if mark else audit
    err = error_console()
    # Where nobody looks, lines of progress would be all that a short audit writes.
    with show_progress(100, "% of the checks", err) if err.is_terminal else nullcontext(lambda _: None) as progress:

        async def run_all(settings: Settings) -> BooksAudit | Audit:
            def report(done: int, count: int, _: str) -> None:
                progress(100 * done // count)

            if has_one_server(settings):
                await check_whole_books(settings)
                return await run(settings, report)
            return await audit_each_server(settings, run, report)

        found = run_command(run_all)
    if json:
        write_json(found.summary())
    else:
        show_audit(found) if isinstance(found, Audit) else show_books_audit(found)
    silent = Exit.DONE if isinstance(found, Audit) else tell_silent_servers(found.problems)
    if not (found.passed if isinstance(found, Audit) else found.balances):
        raise typer.Exit(Exit.NO)
    if silent:
        raise typer.Exit(silent)
