"""The command that looks at everything that the guarantees rest on."""

from typing import Annotated

import typer

from infra.output import continue_without_reader
from infra.settings import Settings
from infra.terminal import console, error_console
from workers.commands.options import JsonOption, write_json
from workers.commands.running import Exit, run_command
from workers.commands.views.doctor import result_line, show_verdict
from workers.ops.doctor import CheckResult, CheckupReport, Grade, run_checkup

__all__ = ["doctor"]


def doctor(
    *,
    before_start: Annotated[
        bool, typer.Option("--before-start", help="The workers are about to be started: that none runs is no finding.")
    ] = False,
    json: JsonOption = False,
) -> None:
    """Check everything that the guarantees rest on: servers, rights, clocks, topics, tables, lanes and offsets.

    Changes nothing. Run it with the workers' settings. Each question waits for 5 seconds at most. Exits with 1 when
    something is wrong, with 3 when Kafka or Postgres does not answer.
    """
    out = console()

    def tell(result: CheckResult) -> None:
        if not json:
            out.print(result_line(result), soft_wrap=True)

    async def run(settings: Settings) -> CheckupReport:
        return await run_checkup(settings, before_start=before_start, tell=tell, say=error_console().print)

    continue_without_reader()
    report = run_command(run, names_waits=False)  # it says itself what it waits for
    write_json(report.summary()) if json else show_verdict(report)
    if report.unreachable:
        raise typer.Exit(Exit.UNREACHABLE)
    if report.grade is Grade.WRONG:
        raise typer.Exit(Exit.NO)
