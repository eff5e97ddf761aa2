"""The console beside local workers: on loopback, with the probes of those workers, and a token for this run."""

import secrets
from collections.abc import AsyncIterator, Iterator, Mapping
from contextlib import ExitStack, asynccontextmanager, closing, contextmanager
from typing import Final, NamedTuple

from pydantic import SecretStr

from infra.local.errors import PortTakenError
from infra.local.ports import LOOPBACK, release_where_needed, reserve, reserve_usual
from infra.settings import Settings
from workers.console.local_workers import WorkerControl
from workers.console.server import serve_console
from workers.local.processes import WORKERS

__all__ = ["ConsolePage", "console_beside", "probe_ports"]

_CONSOLE: Final = "the console"
_PROBES_FROM: Final = 8431  # the first worker's; the others' follow


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


@contextmanager
def probe_ports() -> Iterator[Mapping[str, int]]:
    """Reserve a port for each worker's probes until left: the usual ones, or the next free ones after them."""
    with ExitStack() as held:
        reserved = {
            name: held.enter_context(closing(reserve_usual(_PROBES_FROM + number, f"the {name} worker's probes")))
            for number, name in enumerate(WORKERS)
        }
        for each in reserved.values():
            release_where_needed(each)
        yield {name: int(each.getsockname()[1]) for name, each in reserved.items()}


@asynccontextmanager
async def console_beside(
    settings: Settings, probes: Mapping[str, int] | None = None, control: WorkerControl | None = None
) -> AsyncIterator[ConsolePage]:
    """Serve the console until left, on its usual port or, where that is taken, on the next free one.

    Args:
        settings: where Kafka and Postgres are.
        probes: the ports of the workers' probes; reserved here unless given.
        control: who runs the workers, so that they can be stopped and started from the page.

    Raises:
        SettingsError: when a token of the settings is of no use.

    """
    with ExitStack() as held:
        probes = held.enter_context(probe_ports()) if probes is None else probes
        token = None
        chosen: dict[str, object] = {
            "console_address": LOOPBACK,
            "console_workers": ",".join(f"{name}={LOOPBACK}:{port}" for name, port in probes.items()),
        }
        if not (settings.console_operator_token or settings.console_operator_token_file):
            token = secrets.token_urlsafe(24)
            chosen["console_operator_token"] = SecretStr(token)
        try:
            listener = reserve(settings.console_port, _CONSOLE)
        except PortTakenError:
            listener = reserve_usual(settings.console_port + 1, _CONSOLE)
        async with serve_console(settings.model_copy(update=chosen), listener, control) as address:
            yield ConsolePage(address, token, probes)
