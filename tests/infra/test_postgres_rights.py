"""What a refusal of Postgres is explained with: the statement that grants what was refused, and no more."""

import asyncpg
import pytest
from pydantic import SecretStr

from infra.postgres import Connection
from infra.postgres_rights import explain_denial
from infra.settings import Settings


async def test_a_user_who_may_not_use_a_schema_is_told_to_be_granted_that_and_not_to_create(
    settings: Settings, database: Connection
) -> None:
    """Whoever may use it, and was refused to create something in it, is told of that; and all addresses are named."""
    administrator = settings.database_url.get_secret_value()
    user = "r" + administrator.rpartition("/")[2]  # roles are the cluster's: one of the test's own
    url = administrator.replace("//postgres@", f"//{user}@localhost:1,")
    own = settings.model_copy(update={"database_url": SecretStr(url)})
    await database.execute(f"create role {user} login; create schema kept; create table kept.one (n int)")
    told = []
    try:
        for statement in ("select n from kept.one", "create table kept.two (n int)"):
            connection = await asyncpg.connect(own.database_url.get_secret_value())
            with pytest.raises(asyncpg.InsufficientPrivilegeError) as denied:
                await connection.execute(statement)
            await connection.close()
            told.append(str(await explain_denial(denied.value, own, {})))
            await database.execute(f"grant usage on schema kept to {user}")
    finally:
        await database.execute(f"drop owned by {user}; drop role {user}")

    assert all(text.startswith("Postgres at localhost:1, ") for text in told)
    assert [f"`grant {each} on schema kept to {user}`" for each in ("USAGE", "CREATE")] == [
        text.partition(" do this: ")[2] for text in told
    ]
