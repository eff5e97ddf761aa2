"""Loopback ports that stay ours from the choice to the server's own bind, and while a server restarts."""

import json
import socket
import sys
from collections.abc import Mapping
from pathlib import Path

from infra.local.errors import PortTakenError
from infra.local.progress import Report

__all__ = ["LOOPBACK", "kept_ports", "release_where_needed", "reserve", "reserve_again"]

LOOPBACK = "127.0.0.1"


def reserve(port: int | None, purpose: str) -> socket.socket:
    """Return a socket bound to `port` of the loopback interface, or to a free one, that does not listen.

    Linux lets a server bind and listen on it beside this socket, as both set SO_REUSEADDR, but nobody else gets the
    number as a free one. Raises `PortTakenError`.
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
            f"Stop what listens there, or choose another port (none: a free one is taken).",
        ) from error
    # Only after the bind: with it, two could be given the same free port.
    reserved.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    return reserved


def reserve_again(port: int | None, before: int | None, purpose: str, report: Report) -> socket.socket:
    """Reserve `port`, or the one of before while it is free, or else any.

    Raises `PortTakenError` for a port that was asked for.
    """
    if port is None and before is not None:
        try:
            return reserve(before, purpose)
        except PortTakenError:
            report(f"Port {before}, that of {purpose} before, is taken: another one is used this time")
    return reserve(port, purpose)


def kept_ports(file: Path, asked: Mapping[str, int | None]) -> dict[str, int]:
    """Return the ports of a data directory's earlier runs, by server; one that is asked for now takes its place."""
    try:
        kept = {name: int(port) for name, port in json.loads(file.read_text(encoding="utf-8")).items()}
    except (OSError, ValueError, AttributeError, TypeError):
        kept = {}  # the first run, or nothing that can be used
    return kept | {name: port for name, port in asked.items() if port is not None}


def release_where_needed(reserved: socket.socket) -> None:
    """Give a reservation up before the server binds, on systems that would not let it bind beside."""
    if sys.platform != "linux":
        reserved.close()
