"""The commands that run their own Kafka and Postgres. Their imports need the extra `local`."""

from enum import StrEnum
from pathlib import Path
from typing import Annotated, Any

import typer

from infra.settings import Settings
from workers.commands.running import Exit, fail, run_command

__all__ = ["demo", "up"]

_USUAL_PORTS = {"kafka": 9092, "postgres": 5432}


class Brokers(StrEnum):
    """How many brokers there can be: of an odd number a majority is left when one ends."""

    ONE = "1"
    THREE = "3"
    FIVE = "5"


class Databases(StrEnum):
    """How many Postgres servers there can be."""

    ONE = "1"
    TWO = "2"
    THREE = "3"


def demo() -> None:
    """Play a story through real Kafka, real Postgres and all workers, and check the outcome of every line."""
    from workers.local.demo import DemoError, run_demo  # noqa: PLC0415

    async def run(_: Settings) -> None:
        try:
            await run_demo()
        except DemoError as error:
            raise fail(f"the demo's results differ from the story: {error}", Exit.NO) from error

    run_command(run)


def _port_option(server: str) -> Any:  # noqa: ANN401 - typer's own type is not public
    return typer.Option(
        min=1024,
        max=65535,
        help=f"Port of {server}; by default, the port of the first run, else {_USUAL_PORTS[server.lower()]} or the next"
        " free port.",
    )


def up(  # noqa: PLR0913, PLR0917 - one parameter an option
    data: Annotated[Path, typer.Option(help="Directory for data, logs and the chosen ports.")] = Path(".inmail"),
    kafka_port: Annotated[int | None, _port_option("Kafka")] = None,
    postgres_port: Annotated[int | None, _port_option("Postgres")] = None,
    brokers: Annotated[
        Brokers | None,
        typer.Option(
            help="Kafka brokers, of which 3 or 5 form a cluster with three replicas of each partition; by default, as"
            " many as the data directory has, else 1.",
        ),
    ] = None,
    databases: Annotated[
        Databases | None,
        typer.Option(
            help="Postgres servers that hold the books together, each some of the accounts; by default, as many as the"
            " data directory has, else 1.",
        ),
    ] = None,
    workers: Annotated[
        int, typer.Option(min=1, max=6, help="Members of each worker, for each Postgres server; there is one ticker.")
    ] = 1,
) -> None:
    """Run Kafka, Postgres and all workers in the foreground until Ctrl-C.

    A worker that ends is named, with its last error and its log, and started again, and so is one of several brokers or
    Postgres servers;
    `inmail workers` stops and starts them. In another terminal, `source .inmail/env` lets every command reach this
    stack.
    """
    from workers.local.up import StackSize, run_up  # noqa: PLC0415

    size = StackSize(None if brokers is None else int(brokers), workers, None if databases is None else int(databases))
    run_command(lambda _: run_up(data.resolve(), kafka_port, postgres_port, _USUAL_PORTS, size))
