"""The command `metrics`: prints the ledger's metrics once, or serves them to scrapers."""

from typing import Annotated

import typer

from infra.settings import Settings
from infra.shutdown import create_stop_event, stop_with_parent
from workers.commands.running import run_command, run_process, tell_silent_servers
from workers.ops.books.metrics_exporter import read_servers_once, run_observer

__all__ = ["metrics"]

_PORT = 9464  # the default port of OpenTelemetry's Prometheus exporters


def metrics(
    *,
    serve: Annotated[
        bool,
        typer.Option("--serve", help=f"Refresh repeatedly and answer GET /metrics on INMAIL_HEALTH_PORT, or {_PORT}."),
    ] = False,
    with_parent: Annotated[bool, typer.Option("--stop-with-parent", hidden=True)] = False,
) -> None:
    """Show the metrics of the whole ledger: credits, conservation, stored but unpublished outcomes.

    One such process is enough. Each worker serves its own metrics on its INMAIL_HEALTH_PORT.
    """
    if not serve:
        page, silent = run_command(read_servers_once)
        typer.echo(page, nl=False)
        if exit_ := tell_silent_servers(silent):
            raise typer.Exit(exit_)
        return

    async def run(settings: Settings) -> None:
        stop = create_stop_event()
        if with_parent:
            stop_with_parent(stop)
        await run_observer(settings.model_copy(update={"health_port": settings.health_port or _PORT}), stop)

    run_process(run)
