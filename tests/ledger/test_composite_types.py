"""Composite types stay as they were made: workers of the version before pass values of them beside a newer database.

A column may be added to a table while old workers run; an attribute may not be added to a type whose values they pass.
"""

import re
from pathlib import Path
from typing import Final

import asyncpg
import pytest

from infra.postgres import Connection

MIGRATIONS: Final = sorted((Path(__file__).parents[2] / "infra" / "migrations").glob("*.sql"))
CHANGE: Final = re.compile(r"\b(?:alter|drop)\s+type\b", re.IGNORECASE)

# Whoever needs one attribute more makes a type of another name, and functions of another name that take it.
RELEASED: Final = {
    "due_lots": "accounts bigint[], lots integer[], ats timestamptz[]",
    "lot_place": "at timestamptz, account bigint, lot integer",
    "lot_terms": (
        "origin text, source_id text, subscription_id text, plan text, period_start timestamptz, credits integer,"
        " priority smallint, granted_at timestamptz, full_expires_at timestamptz, on_change text, credit_back boolean,"
        " balance_cap integer, actor text, reason text"
    ),
    "opening": "starts timestamptz, ends timestamptz, credits integer, tops_up integer",
    "period": "starts timestamptz, ends timestamptz, begins_change boolean",
    "request": (
        "account bigint, request_id uuid, fingerprint bigint, worker text, as_of timestamptz,"
        " source_partition integer, source_offset bigint"
    ),
    "send_limits": "daily integer, seat integer, cooldown interval",
    "told_period": (
        "subscription_id text, plan text, period_start timestamptz, period_end timestamptz, annual boolean,"
        " anchor_day smallint, is_change boolean, credits integer, rollover boolean, priority smallint, on_change text,"
        " credit_back boolean, balance_cap integer"
    ),
}
_TYPES: Final = """
select t.typname, string_agg(concat_ws(' ', a.attname, format_type(a.atttypid, a.atttypmod)), ', ' order by a.attnum)
from pg_type as t
inner join pg_class as c on t.typrelid = c.oid and c.relkind = 'c'
inner join pg_attribute as a on c.oid = a.attrelid and a.attnum > 0
where t.typnamespace = 'public'::regnamespace
group by t.typname
"""


async def test_the_composite_types_are_those_that_were_released(shared: Connection) -> None:
    """Each as it was made, by attribute; a type that is new gets a line here once it is released."""
    found = {name: told.replace("timestamp with time zone", "timestamptz") for name, told in await shared.fetch(_TYPES)}

    assert {name: found.get(name) for name in RELEASED} == RELEASED


def test_no_migration_changes_a_type() -> None:
    """In its text: one that changes a type and changes it back would pass by what is left."""
    assert [] == [path.name for path in MIGRATIONS if CHANGE.search(path.read_text())]


async def test_an_attribute_more_breaks_whoever_passes_the_values_of_before(shared: Connection) -> None:
    """Why this is a rule: the server refuses the call, with an error that no worker knows by name."""

    async def pass_three_of_four() -> None:
        async with shared.transaction():  # which the error rolls back
            await shared.execute("alter type send_limits add attribute monthly integer")
            await shared.fetchval("select $1::send_limits", (1, 2, None))

    with pytest.raises(asyncpg.DatatypeMismatchError, match="wrong number of columns: 3, expected 4"):
        await pass_three_of_four()
