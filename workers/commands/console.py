"""The command `console`: serves the operators' web page."""

import secrets
from typing import Annotated

import typer
from pydantic import SecretStr

from infra.addresses import is_loopback
from infra.settings import Settings
from infra.shutdown import create_stop_event
from infra.terminal import console as terminal
from workers.commands.running import run_command

__all__ = ["console"]

_PortOption = Annotated[
    int | None, typer.Option(min=1, max=65535, help="The port to listen on, instead of INMAIL_CONSOLE_PORT.")
]


def console(port: _PortOption = None) -> None:
    """Serve the operators' console, a web page that shows the system's state, until Ctrl-C.

    On loopback everyone can read; on other addresses reading needs INMAIL_CONSOLE_READER_TOKEN. Operations need
    INMAIL_CONSOLE_OPERATOR_TOKEN; without one, the command creates a token for this run and prints it.
    """
    from workers.console.server import serve_console  # noqa: PLC0415 - no other command needs a web server

    async def run(settings: Settings) -> None:
        stop = create_stop_event()
        chosen = settings if port is None else settings.model_copy(update={"console_port": port})
        token = None
        if is_loopback(chosen.console_address) and not (
            chosen.console_operator_token or chosen.console_operator_token_file
        ):
            token = secrets.token_urlsafe(24)
            chosen = chosen.model_copy(update={"console_operator_token": SecretStr(token)})
        async with serve_console(chosen) as address:
            terminal().print(f"The console is at {address}", soft_wrap=True)
            if token is not None:
                terminal().print(f"To run operations, sign in with the token of this run: {token}", soft_wrap=True)
            await stop.wait()

    run_command(run)
