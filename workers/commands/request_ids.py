"""The ids by which people name requests: a request id, or what a producer gave one that is no UUID."""

from uuid import UUID

from schemas.content_modes import parse_uuid
from workers.commands.running import run_command
from workers.ops.books.original_ids import find_request_id

__all__ = ["find_request"]


def find_request(text: str | None) -> UUID | None:
    """Return the request id that somebody names; no server is asked where it is a UUID. None: none is named.

    Raises:
        typer.Exit: when no decided request has a producer's id, or several have, or the servers cannot be asked.

    """
    if text is None:
        return None
    return parse_uuid(text) or run_command(lambda settings: find_request_id(settings, text))
