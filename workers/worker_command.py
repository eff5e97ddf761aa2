"""The command `worker`: runs a job in its lanes, or the ticker."""

from enum import StrEnum
from typing import Annotated

import typer

from infra.settings import Settings
from infra.shutdown import create_stop_event, stop_with_parent
from workers.commands.running import run_process
from workers.jobs.balances import with_balances
from workers.jobs.billing import BillingJob
from workers.jobs.expiry import ExpiryJob
from workers.jobs.send import SendJob
from workers.jobs.ticker import run_ticker
from workers.lane.worker import run_worker
from workers.ledger.plans import load_catalogue

__all__ = ["ProcessName", "worker_command"]


class ProcessName(StrEnum):
    """The processes of the system."""

    SEND = "send"
    BILLING = "billing"
    EXPIRY = "expiry"
    TICKER = "ticker"


def worker_command(
    name: Annotated[ProcessName, typer.Argument(help="The process to run.")],
    *,
    with_parent: Annotated[bool, typer.Option("--stop-with-parent", hidden=True)] = False,
) -> None:
    """Run a worker until SIGTERM or Ctrl-C. Processes of the same name share the partitions."""

    async def run(settings: Settings) -> None:
        stop = create_stop_event()
        if with_parent:
            stop_with_parent(stop)
        catalogue = load_catalogue(settings.plans_file)
        match name:
            case ProcessName.SEND:
                await run_worker(with_balances(SendJob(catalogue), settings), settings, stop)
            case ProcessName.BILLING:
                await run_worker(with_balances(BillingJob(catalogue), settings), settings, stop)
            case ProcessName.EXPIRY:
                await run_worker(with_balances(ExpiryJob(catalogue, settings), settings), settings, stop)
            case ProcessName.TICKER:
                await run_ticker(settings, stop)

    run_process(run)
