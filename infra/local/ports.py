"""Loopback ports that stay ours from the choice to the server's own bind, and while a server restarts."""

import socket
import sys

from infra.local.errors import PortTakenError

__all__ = ["LOOPBACK", "release_where_needed", "reserve"]

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


def release_where_needed(reserved: socket.socket) -> None:
    """Give a reservation up before the server binds, on systems that would not let it bind beside."""
    if sys.platform != "linux":
        reserved.close()
