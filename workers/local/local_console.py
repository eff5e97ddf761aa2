"""The console of a local stack: on loopback, with the workers' probes, and an operator's token for this run."""

import secrets
from collections.abc import AsyncIterator, Iterator, Mapping, Sequence
from contextlib import ExitStack, asynccontextmanager, closing, contextmanager
from typing import Final, NamedTuple

from pydantic import SecretStr

from infra.local.errors import PortTakenError
from infra.local.ports import LOOPBACK, release_where_needed, reserve_port, reserve_usual
from infra.settings import Settings
from workers.console.local_workers import WorkerControl
from workers.console.server import serve_console
from workers.local.processes import WORKERS

__all__ = ["LocalConsole", "probe_ports", "serve_local_console"]

_PURPOSE: Final = "the console"
_FIRST_PROBE_PORT: Final = 8431  # of the first worker; the other workers' ports follow


class LocalConsole(NamedTuple):
    """A running console of a local stack."""

    address: str
    token: str | None  # the operator's token of this run; None where the settings have one
    probes: Mapping[str, int]  # the port for each worker's probes

    @property
    def sign_in_hint(self) -> str:
        """The address, and the token that allows actions."""
        if self.token is None:
            return self.address
        return f"{self.address} (operator's token of this run: {self.token})"


@contextmanager
def probe_ports(names: Sequence[str] = WORKERS) -> Iterator[Mapping[str, int]]:
    """Reserve a port for each worker's probes until the context ends: the usual ports, or the next free ones."""
    with ExitStack() as stack:
        reserved = {
            name: stack.enter_context(closing(reserve_usual(_FIRST_PROBE_PORT + number, f"the {name} worker's probes")))
            for number, name in enumerate(names)
        }
        for port_socket in reserved.values():
            release_where_needed(port_socket)
        yield {name: int(port_socket.getsockname()[1]) for name, port_socket in reserved.items()}


@asynccontextmanager
async def serve_local_console(
    settings: Settings, probes: Mapping[str, int] | None = None, control: WorkerControl | None = None
) -> AsyncIterator[LocalConsole]:
    """Serve the console until the context ends, on its usual port or, if that is taken, on the next free port.

    Args:
        settings: the addresses of Kafka and Postgres.
        probes: the ports of the workers' probes; reserved here by default.
        control: controls the workers, so that the console can stop and start them.

    Raises:
        SettingsError: when a token of the settings is not valid.

    """
    with ExitStack() as stack:
        probes = stack.enter_context(probe_ports()) if probes is None else probes
        token = None
        changes: dict[str, object] = {
            "console_address": LOOPBACK,
            "console_workers": ",".join(f"{name}={LOOPBACK}:{port}" for name, port in probes.items()),
        }
        if not (settings.console_operator_token or settings.console_operator_token_file):
            token = secrets.token_urlsafe(24)
            changes["console_operator_token"] = SecretStr(token)
        try:
            listener = reserve_port(settings.console_port, _PURPOSE)
        except PortTakenError:
            listener = reserve_usual(settings.console_port + 1, _PURPOSE)
        async with serve_console(settings.model_copy(update=changes), listener, control) as address:
            yield LocalConsole(address, token, probes)
