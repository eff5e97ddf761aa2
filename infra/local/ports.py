"""Reserves loopback ports, from the choice of a port to the server's own bind and while a server restarts."""

import json
import socket
import sys
from collections.abc import Mapping
from pathlib import Path

from infra.local.errors import PortTakenError
from infra.local.progress import Report

__all__ = ["LOOPBACK", "read_ports", "release_where_needed", "reserve_port", "reserve_port_again"]

LOOPBACK = "127.0.0.1"


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


def reserve_port_again(port: int | None, before: int | None, purpose: str, report: Report) -> socket.socket:
    """Reserve `port` if given, else the port used before if it is free, else any free port.

    Raises `PortTakenError` when `port` is taken.
    """
    if port is None and before is not None:
        try:
            return reserve_port(before, purpose)
        except PortTakenError:
            report(f"Port {before}, used by {purpose} before, is taken: using another port")
    return reserve_port(port, purpose)


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
