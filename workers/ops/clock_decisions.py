"""What operators decided about records of a time far ahead, where it holds no more."""

from typing import Final

from infra.postgres import Connection

__all__ = ["end_decisions"]

_DELETE: Final = """
delete from clock_decisions
where topic = $1 and partition = $2 and first_offset >= $3 and kind = coalesce($4, kind)
"""
_CUT: Final = """
update clock_decisions set next_offset = $3
where topic = $1 and partition = $2 and next_offset > $3 and kind = coalesce($4, kind)
"""


async def end_decisions(
    connection: Connection, topic: str, partition: int, offset: int, kind: str | None = None
) -> None:
    """Let the decisions about a partition end before an offset; of one kind, if it is given."""
    for statement in (_DELETE, _CUT):
        await connection.execute(statement, topic, partition, offset, kind)
