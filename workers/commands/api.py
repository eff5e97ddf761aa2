"""The command that serves the read API."""

import asyncio
from typing import Annotated, Final

import typer

from infra.settings import Settings
from infra.shutdown import create_stop_event, stop_with_parent
from workers.commands.running import run_process

__all__ = ["api"]

# For load balancers to see that the process is not ready, or Kubernetes to take it out of its service.
_UNREADY_SECONDS: Final = 5.0


def api(
    *,
    new_token: Annotated[
        bool, typer.Option("--new-token", help="Make a token, print it and its hash for the settings, and end.")
    ] = False,
    name: Annotated[str, typer.Option(help="Of the client that the new token is for.")] = "client",
    with_parent: Annotated[bool, typer.Option("--stop-with-parent", hidden=True)] = False,
) -> None:
    """Serve the read API until SIGTERM or Ctrl-C: balance, statement and outcomes, as JSON over HTTP.

    It ends 5 s after the signal: meanwhile it answers, but says that it is not ready.

    Clients need a token of INMAIL_API_TOKENS_FILE or INMAIL_API_TOKENS; on loopback INMAIL_API_WITHOUT_TOKENS=true
    serves without. The API only reads: INMAIL_DATABASE_URL may name a read replica and a role that may only select.
    """
    from workers.api.server import serve_api  # noqa: PLC0415 - no other command needs it
    from workers.api.tokens import hash_token, is_token_name  # noqa: PLC0415
    from workers.api.tokens import new_token as make_token  # noqa: PLC0415

    if new_token:
        if not is_token_name(name):
            raise typer.BadParameter(
                f"expected 1 to 40 letters, digits, dots, dashes or underscores; got {name!r}", param_hint="--name"
            )
        token = make_token()
        typer.echo(f"token, for the client, shown only here: {token}")
        typer.echo(f"line of INMAIL_API_TOKENS_FILE:         {name}:{hash_token(token)}")
        return

    async def run(settings: Settings) -> None:
        stop = create_stop_event()
        if with_parent:
            stop_with_parent(stop)
        async with serve_api(settings, stop):
            await stop.wait()
            if not with_parent:  # no load balancer is before it then
                await asyncio.sleep(_UNREADY_SECONDS)

    run_process(run)
