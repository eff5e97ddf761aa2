"""How long a worker is waited for at a point, and that each Postgres server has its own workers."""

from collections import Counter
from pathlib import Path
from random import Random
from typing import Any
from unittest.mock import AsyncMock, Mock

import pytest

from infra.settings import Settings
from tests.crash import supervised
from tests.crash.approach import NotMadeError
from tests.crash.books import Books
from tests.crash.group import Group
from tests.crash.points import Cell, Kind, Phase
from tests.crash.process import Start

_CELL = Cell("send", "seek", Phase.BEFORE, Kind.KILLED)


def _starts(count: int = 1) -> list[Start]:
    return [Start("send", Settings(), Path("log"), None, None) for _ in range(count)]


@pytest.mark.parametrize(("stored", "seconds"), [([1, 2], [8, 16, 32]), ([1, 1], [8, 16, 32, 32, 32])])
async def test_a_group_that_stands_is_waited_for_longer(
    monkeypatch: pytest.MonkeyPatch, stored: list[int], seconds: list[float]
) -> None:
    """Its coordinator is started again after a minute; a point that nobody comes to meanwhile is missed sooner."""
    books = AsyncMock()
    books.stored_by.side_effect = [{0: at} for at in stored] * 5
    group = Group(_starts(), Mock(books=books, dice=Random(1)))  # noqa: S311 - a workload
    tried: list[float] = []

    async def nobody(_armed: Any, _start: Any, limit: float) -> None:
        tried.append(limit)

    monkeypatch.setattr(group, "_try_to_reach", nobody)
    with pytest.raises(NotMadeError, match="nobody came"):
        await group.reach(_CELL)

    assert seconds == tried


def test_each_server_keeps_its_workers_and_one_more_leaves(monkeypatch: pytest.MonkeyPatch) -> None:
    """A worker that ended is replaced by one of the same server; one more, that a fault needed, is told to leave."""
    left: list[Any] = []

    def member(start: Start, _: object) -> Mock:
        made = Mock(start=start, is_free=True)
        made.gone.is_set.return_value = False
        made.leave.side_effect = lambda: left.append(made)
        return made

    monkeypatch.setattr(supervised, "Member", member)
    group = Group(starts := _starts(2), Mock())
    group.ensure()
    group._members[0].gone.is_set.return_value = True
    group._members[0].error = "a fault"
    extra = group.join(start=starts[1])
    group.ensure()

    assert {0: 2, 1: 2} == Counter(int(each.start is starts[1]) for each in group._members)
    assert (1, True) == (len(left), left[0].start is extra.start)


async def test_books_are_those_of_all_servers_or_of_all_but_one() -> None:
    """A server that is away keeps nobody from asking the others."""
    books = Books(Settings())
    servers = [AsyncMock(), AsyncMock()]
    for number, server in enumerate(servers):
        server.ask.return_value = [{"consumer_group": "inmail-send", "partition": number, "at": 5 + number}]
    books._servers = [*servers]

    assert {("inmail-send", 0): 5, ("inmail-send", 1): 6} == await books.stored()
    assert {("inmail-send", 0): 5} == await books.stored(but=2)
