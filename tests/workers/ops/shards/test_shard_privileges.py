"""Whoever lacks a privilege for a move is told all of them, before anything pauses."""

import re
from uuid import uuid4

import pytest
from pydantic import SecretStr

from infra.postgres_rights import MissingPrivilegesError
from infra.settings import Settings
from tests.conftest import Connect
from tests.workers.ops.shards.servers import WHO, Servers, move, shards_of
from workers.ops.shards.add import add_server, plan_add


def _as(settings: Settings, user: str) -> Settings:
    """Return the settings with another user of the database."""
    return settings.model_copy(
        update={
            name: SecretStr(re.sub("//[^@]*@", f"//{user}@", getattr(settings, name).get_secret_value()))
            for name in ("database_url", "database_shards")
        }
    )


async def test_a_mover_needs_what_it_is_told(servers: Servers, connect: Connect) -> None:
    """With exactly the privileges that two refusals name, one a server, a number moves."""
    user = f"mover_{uuid4().hex[:8]}"
    first, second = await connect(servers.first), await connect(servers.second)
    await first.execute(f"create role {user} login")
    for each in (first, second):
        await each.execute(f"grant select on all tables in schema public to {user}")
    await first.execute(f"grant insert, update on operations to {user}")
    mine = Servers(_as(servers.first, user), _as(servers.second, user))
    told = []
    for number, each in enumerate((first, second)):
        with pytest.raises(MissingPrivilegesError, match=f"server {number} .* does not let user {user}") as error:
            await move(mine, [1], "1")
        grants = re.findall(r"grant [^;`]+", str(error.value))
        told.append(len(grants))
        for grant in grants:
            await each.execute(grant)
    untouched = [dict(shard.numbers) for shard in await shards_of(servers)]

    await move(mine, [1], "1")

    assert told == [17, 18]
    assert untouched == [{}, {}]
    assert [shard.holds(1) for shard in await shards_of(servers)] == [False, True]


async def test_only_an_owner_prepares_a_server(servers: Servers, settings: Settings, connect: Connect) -> None:
    """It makes the keys of its tables begin elsewhere."""
    user, url = f"reader_{uuid4().hex[:8]}", settings.database_url.get_secret_value()
    opened = await connect(settings)
    await opened.execute(f"create role {user} login; grant select on all tables in schema public to {user}")
    plan = await plan_add(servers.first, re.sub("//[^@]*@", f"//{user}@", url))

    with pytest.raises(MissingPrivilegesError, match=f"who owns its tables, and not by {user}"):
        await add_server(servers.first, plan, WHO)
