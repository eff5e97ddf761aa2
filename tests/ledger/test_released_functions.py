"""Functions are replaced beside older ones: what `create or replace` refuses, a migration has to drop first.

A parameter's name and a function's result can be changed by dropping it only. Databases of tests are new, and have no
function of before: so `functions.txt` has every form that a function has had since the list was begun (0.2.0).
"""

import re
from pathlib import Path
from typing import Final

import pytest

from infra.postgres import Connection

MIGRATIONS: Final = (Path(__file__).parents[2] / "infra" / "migrations").glob("*.sql")
FORMS: Final = Path(__file__).with_name("functions.txt")
_INSTANT: Final = "timestamp with time zone"
_FUNCTIONS: Final = """
select p.proname || '(' || pg_get_function_arguments(p.oid) || ') returns ' || pg_get_function_result(p.oid)
from pg_proc as p
where p.pronamespace = 'public'::regnamespace and p.prokind = 'f'
order by 1
"""


def called_with(form: str) -> str:
    """Return a function's name and the types that it is called with: what tells it from others."""
    name, arguments = re.fullmatch(r"(\w+)\((.*)\) returns .*", form).groups()  # type: ignore[union-attr]
    given = [each for each in arguments.split(", ") if each and not each.startswith("OUT ")]
    return f"{name}({', '.join(each.partition(' DEFAULT ')[0].partition(' ')[2] for each in given)})"


def not_dropped(old: list[str], new: list[str], migrations: str) -> list[str]:
    """Return the older forms of functions that cannot be replaced, and that no migration drops."""
    called = {called_with(form): form for form in new}
    return [
        form
        for form in old
        if called.get(called_with(form), form) != form
        and f"drop function if exists {called_with(form)};" not in migrations.replace("timestamptz", _INSTANT)
    ]


async def test_every_form_of_a_function_can_be_replaced(shared: Connection) -> None:
    """A new form gets a line in functions.txt; the one before it stays there, and is dropped where it has to be."""
    forms = FORMS.read_text().splitlines()
    now = [row[0] for row in await shared.fetch(_FUNCTIONS)]

    assert [] == sorted(set(now) - set(forms)), f"add these to {FORMS.name}"
    assert [] == not_dropped(forms, now, "\n".join(path.read_text() for path in MIGRATIONS))


@pytest.mark.parametrize(
    ("old", "migrations", "kept"),
    [
        ("f(p_a integer) returns integer", "", 1),  # another name
        ("f(p_b integer) returns bigint", "", 1),  # another result
        ("f(p_b integer) returns bigint", "drop function if exists f(integer);", 0),
        ("f(p_b bigint) returns bigint", "", 0),  # another function
        ("f(p_b integer) returns integer", "", 0),
    ],
)
def test_a_form_that_cannot_be_replaced_is_found(old: str, migrations: str, kept: int) -> None:
    """By its parameters' names and its result, where it is called with the same types."""
    assert kept == len(not_dropped([old], ["f(p_b integer) returns integer"], migrations))
