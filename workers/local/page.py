"""The console beside local workers: on loopback, with the probes of those workers, and a token for this run."""

import secrets
from collections.abc import AsyncIterator, Mapping
from contextlib import ExitStack, asynccontextmanager, closing
from typing import Final, NamedTuple

from pydantic import SecretStr

from infra.local.errors import PortTakenError
from infra.local.ports import LOOPBACK, release_where_needed, reserve_port
from infra.settings import Settings
from workers.console.server import serve_console
from workers.local.processes import WORKERS

__all__ = ["ConsolePage", "console_beside"]

_CONSOLE: Final = "the console"


class ConsolePage(NamedTuple):
    """A console that is served."""

    address: str
    token: str | None  # to act with, of this run; None where the settings have one
    probes: Mapping[str, int]  # the port that each worker is to serve its probes on

    @property
    def greeting(self) -> str:
        """Where it is and how to act there."""
        if self.token is None:
            return self.address
        return f"{self.address} (to act there, sign in with the token of this run: {self.token})"


@asynccontextmanager
async def console_beside(settings: Settings) -> AsyncIterator[ConsolePage]:
    """Serve the console until left, on its usual port or, where that is taken, on a free one.

    Raises:
        SettingsError: when a token of the settings is of no use.

    """
    with ExitStack() as held:
        reserved = {
            name: held.enter_context(closing(reserve_port(None, f"the {name} worker's probes"))) for name in WORKERS
        }
        probes = {name: int(each.getsockname()[1]) for name, each in reserved.items()}
        for each in reserved.values():
            release_where_needed(each)
        token = None
        chosen: dict[str, object] = {
            "console_address": LOOPBACK,
            "console_workers": ",".join(f"{name}={LOOPBACK}:{port}" for name, port in probes.items()),
        }
        if not (settings.console_operator_token or settings.console_operator_token_file):
            token = secrets.token_urlsafe(24)
            chosen["console_operator_token"] = SecretStr(token)
        try:
            listener = reserve_port(settings.console_port, _CONSOLE)
        except PortTakenError:
            listener = reserve_port(None, _CONSOLE)
        async with serve_console(settings.model_copy(update=chosen), listener) as address:
            yield ConsolePage(address, token, probes)
