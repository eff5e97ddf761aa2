"""The commands that bring their own Kafka and Postgres along. What they import only the extra `local` installs."""

from pathlib import Path
from typing import Annotated

import typer

from workers.commands.running import ask

__all__ = ["demo", "up"]


def demo() -> None:
    """Play a story through real Kafka, real Postgres and all workers, and check what comes of every line."""
    from workers.local.demo import run_demo  # noqa: PLC0415

    ask(lambda _: run_demo())


def up(
    data: Annotated[Path, typer.Option(help="Where data and logs are kept.")] = Path(".inmail"),
    kafka_port: Annotated[int | None, typer.Option(min=1024, max=65535, help="A free one unless given.")] = None,
    postgres_port: Annotated[int | None, typer.Option(min=1024, max=65535, help="A free one unless given.")] = None,
) -> None:
    """Run Kafka, Postgres and all workers in the foreground until Ctrl-C."""
    from workers.local.up import run_up  # noqa: PLC0415

    ask(lambda _: run_up(data.resolve(), kafka_port, postgres_port))
