"""Terminal output of balances, statements and audits."""

from collections.abc import Sequence

from rich.console import Console
from rich.text import Text

from infra.shards import number_ranges
from infra.terminal import console, format_instant, show_table
from workers.commands.views.styles import BAD, DIM, GOOD, INFO, WARN, format_count
from workers.ops.books.audit import Audit, AuditedPart, AuditExample, BookTotals, Finding
from workers.ops.books.audit_servers import BooksAudit
from workers.ops.books.balance import Balance
from workers.ops.books.statement import Statement, StatementLine

__all__ = ["show_audit", "show_balance", "show_books_audit", "show_statement"]

_LOT_STYLES = {"available": GOOD, "later": INFO}
_AS_OF_SOURCES = {
    "given": "the requested time",
    "clock": "this machine's time",
    "last_entry": "the time of the last entry",
}


def show_balance(balance: Balance) -> None:
    """Show an account's balance, its expiry dates and its lots."""
    out = console()
    head = Text.assemble((balance.account_id, "bold"), " can spend ")
    out.print(head.append(format_count(balance.balance, "credit"), style="bold green"), soft_wrap=True)
    out.print(Text(f"at {format_instant(balance.as_of)}, {_AS_OF_SOURCES[balance.chosen]}", style=DIM))
    for number, (expires_at, amount) in enumerate(balance.expiring):
        out.print(f"  {amount:,}{' more' if number else ''} expire by {format_instant(expires_at)}")
    _show_caveats(balance, out)
    out.print()
    lots = [
        (
            lot.lot,
            Text(lot.state, style=_LOT_STYLES.get(lot.state, DIM)),
            f"{lot.remaining} of {lot.granted}",
            lot.origin,
            lot.plan or "",
            format_instant(lot.granted_at),
            format_instant(lot.expires_at),
        )
        for lot in balance.lots
    ]
    show_table(["lot", "state", "left", "origin", "plan", "from", "until"], lots, "lot,left")


def _show_caveats(balance: Balance, out: Console) -> None:
    """Show what the figures do not show: erasure, coming caps and lines out of order."""
    if balance.erased_at is not None:
        out.print(
            Text(f"  erased at {format_instant(balance.erased_at)}: the account gets and spends nothing", style=BAD)
        )
    for lot in balance.lots:
        if lot.cap_to_come is not None:
            text = (
                f"  once lot {lot.lot} begins, subscription {lot.subscription_id} keeps at most {lot.cap_to_come}:"
                " a tick forfeits the rest"
            )
            out.print(Text(text, style=WARN), soft_wrap=True)
    if balance.overtaken:
        text = (
            f"  {format_count(balance.overtaken, 'line')} up to that time booked after a line of a later time: this"
            " balance follows the lines' times, the lines' own balances the order of booking"
        )
        out.print(Text(text, style=WARN), soft_wrap=True)


def show_statement(statement: Statement) -> None:
    """Show an account's statement."""
    show_balance(statement)
    out = console()
    out.print()
    heads = ["#", "time", "code", "amount", "lot", "balance", "request", "reason"]
    show_table(heads, [_statement_cells(line) for line in statement.lines], "#,amount,lot", "reason")


def _statement_cells(line: StatementLine) -> tuple[str | int, ...]:
    return (
        line.sequence,
        format_instant(line.as_of),
        line.code,
        f"{line.amount:+d}" if line.amount else "",
        line.lot or "",
        f"{line.balance_before} -> {line.balance_after}",
        str(line.request_id),
        line.reason,
    )


def show_audit(audit: Audit) -> None:
    """Show the totals and findings of an audit."""
    out = console()
    _show_totals(audit.totals, out)
    if audit.new is not None:
        out.print(Text(_format_part(audit.new), style=DIM), soft_wrap=True)
    out.print()
    for finding in audit.findings:
        _show_finding(finding, [("", example) for example in finding.examples], out)
    good = "The ledger balances." if audit.new is None else "What is new balances."
    _show_result(good if audit.passed else None, out)


def show_books_audit(audit: BooksAudit) -> None:
    """Show the audits of several servers as one: the totals of all, and each finding with its server."""
    out = console()
    _show_totals(audit.totals, out)
    for each in audit.servers:
        if each.audit is None:
            out.print(Text.assemble(f"{each.server}: ", ("not audited", BAD)), soft_wrap=True)
        else:
            new = "" if each.audit.new is None else f"; {_format_part(each.audit.new)}"
            out.print(Text(f"{each.server}: {_format_counts(each.audit.totals)}{new}", style=DIM), soft_wrap=True)
    out.print()
    for finding, examples in audit.findings():
        _show_finding(finding, [(f"{server}: ", example) for server, example in examples], out)
    news = [each.new for _, each in audit.audits]
    good = "The ledger balances." if not news or None in news else "What is new balances."
    if audit.errors:
        missing = f"{len(audit.errors)} of {format_count(len(audit.servers), 'server')} not audited."
        good = f"What was audited balances; {missing}" if audit.audits else missing
    elif audit.problems:
        numbers = number_ranges(sorted({*audit.uncounted, *audit.counted_twice}))
        good = f"What was audited balances; partition numbers {numbers} were not counted once."
    _show_result(good if audit.balances else None, out, WARN if audit.problems else GOOD)


def _show_totals(totals: BookTotals, out: Console) -> None:
    out.print(_format_counts(totals))
    out.print(_format_equation(totals), soft_wrap=True)


def _format_counts(totals: BookTotals) -> str:
    counts = ((totals.accounts, "account"), (totals.lots, "lot"), (totals.rows, "journal row"))
    return ", ".join(format_count(number, what) for number, what in counts)


def _format_part(new: AuditedPart) -> str:
    return (
        f"read: {format_count(new.rows, 'row')} of {format_count(new.accounts, 'account')}, new since"
        f" {format_instant(new.since)}; all was read at {format_instant(new.whole_at)}"
    )


def _show_finding(finding: Finding, examples: Sequence[tuple[str, AuditExample]], out: Console) -> None:
    mark = (f"{finding.count:,} x ", BAD) if finding.count else ("ok ", GOOD)
    out.print(Text.assemble(mark, (finding.name, "bold"), f": {finding.promise}"))
    for server, example in examples:
        out.print(Text(f"     {server}{' '.join(filter(None, (example.account, example.place)))}: {example.found}"))
    if (more := finding.count - len(examples)) > 0:
        out.print(f"     ... and {more:,} more")


def _show_result(good: str | None, out: Console, style: str = GOOD) -> None:
    """Show the verdict; None: the ledger does not balance."""
    result = ("The ledger does not balance.", BAD) if good is None else (good, f"bold {style}")
    out.print(Text.assemble("\n", result))


def _format_equation(totals: BookTotals) -> Text:
    """Return the ledger's equation in one line: where every granted credit is now."""
    sign, style = ("=", GOOD) if totals.balanced else ("is not", BAD)
    parts = (
        f"{totals.spent:,} spent - {totals.reversed:,} reversed + {totals.expired:,} expired"
        f" + {totals.voided:,} voided + {totals.forfeited:,} forfeited + {totals.remaining:,} remaining"
    )
    return Text(f"{totals.granted:,} granted {sign} {parts}", style=style)
