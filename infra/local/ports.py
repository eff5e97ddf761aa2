"""Reserves loopback ports, from the choice of a port to the server's own bind and while a server restarts."""

import json
import socket
import sys
from collections.abc import Mapping
from pathlib import Path

from infra.local.errors import PortTakenError
from infra.local.progress import Report

__all__ = ["LOOPBACK", "read_ports", "release_where_needed", "reserve_port", "reserve_port_again", "reserve_usual"]

LOOPBACK = "127.0.0.1"
_NEXT_PORTS = 10  # that are tried where a usual one is taken
_LAST_PORT = 65535


def reserve_port(port: int | None, purpose: str) -> socket.socket:
    """Return a socket bound to `port` of the loopback interface (None: a free port) that does not listen.

    Linux lets a server bind and listen on the port beside this socket, because both set SO_REUSEADDR; no other process
    gets the port as a free one. Raises `PortTakenError`.
    """
    reserved = socket.socket(socket.AF_INET, socket.SOCK_STREAM)
    if port is not None:
        # A fixed port of the last run may still have connections in TIME_WAIT.
        reserved.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    try:
        reserved.bind((LOOPBACK, port or 0))
    except (OSError, OverflowError) as error:
        reserved.close()
        raise PortTakenError(
            f"Port {port} on {LOOPBACK}, wanted for {purpose}, cannot be used: {error}. "
            f"Stop the process that listens there, or choose another port (none: a free port).",
        ) from error
    # Set after the bind: set before, the system could give the same free port twice.
    reserved.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    return reserved


def reserve_port_again(
    port: int | None, before: int | None, purpose: str, report: Report, usual: int | None = None
) -> socket.socket:
    """Reserve `port` if given, else the port used before if it is free, else the usual port or the next free one.

    Raises `PortTakenError` when `port` is taken.
    """
    if port is None and before is not None:
        try:
            return reserve_port(before, purpose)
        except PortTakenError:
            report(f"Port {before}, used by {purpose} before, is taken: using another port")
    if port is None and usual is not None:
        return reserve_usual(usual, purpose)
    return reserve_port(port, purpose)


def reserve_usual(usual: int, purpose: str) -> socket.socket:
    """Return a socket bound to the usual port of a server, or to the next free one of the ten after it, or to any."""
    for port in range(usual, min(usual + _NEXT_PORTS, _LAST_PORT) + 1):
        reserved = socket.socket(socket.AF_INET, socket.SOCK_STREAM)
        try:
            # Without SO_REUSEADDR, which would take a port that another stack has reserved and does not listen on yet.
            reserved.bind((LOOPBACK, port))
        except OSError:
            reserved.close()
            continue
        if _is_served_on_ipv6(port):  # where a client that says `localhost` may end up
            reserved.close()
            continue
        reserved.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        return reserved
    return reserve_port(None, purpose)


def _is_served_on_ipv6(port: int) -> bool:
    """Tell whether somebody listens on a port of the IPv6 loopback."""
    if not socket.has_ipv6:
        return False
    with socket.socket(socket.AF_INET6, socket.SOCK_STREAM) as asking:
        asking.settimeout(1.0)
        return asking.connect_ex(("::1", port)) == 0


def read_ports(file: Path, asked: Mapping[str, int | None]) -> dict[str, int]:
    """Return the ports of a data directory's earlier runs, by server; ports given now replace them."""
    try:
        kept = {name: int(port) for name, port in json.loads(file.read_text(encoding="utf-8")).items()}
    except (OSError, ValueError, AttributeError, TypeError):
        kept = {}  # the first run, or an unusable file
    return kept | {name: port for name, port in asked.items() if port is not None}


def release_where_needed(reserved: socket.socket) -> None:
    """Close a reservation on systems that do not let the server bind beside it."""
    if sys.platform != "linux":
        reserved.close()
