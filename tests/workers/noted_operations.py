"""The operations that tests find on record."""

from infra.settings import Settings
from workers.ops.operations import Operation, find_operations

__all__ = ["list_operations"]


async def list_operations(settings: Settings, last: int) -> list[Operation]:
    """Return the newest operations, the newest first; of several servers, of those that answer."""
    return (await find_operations(settings, last)).operations
