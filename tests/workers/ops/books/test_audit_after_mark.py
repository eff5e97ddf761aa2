"""The audit of what is new finds what was done to accounts, lots and ticks that the mark knows."""

from typing import NamedTuple

import pytest
from pydantic import SecretStr

from infra.postgres import Connection
from infra.postgres_rights import MissingPrivilegesError
from infra.settings import Settings
from tests.ledger.scenario import read_text
from tests.ledger.scenario_run import run
from tests.ledger.scenario_sql import SqlBooks
from tests.workers.books_sound import all_is_read
from tests.workers.ops.books.test_audit_finds import on_accounts
from workers.ops.books.audit import Audit, audit
from workers.ops.books.audit_new import audit_and_mark, audit_new

# Alice's lot is closed; an end of carol's, which is open, was announced; erin's subscription runs on.
_BEFORE = """
scenario: books up to the mark
catalogue notices = { low_balance = 2, expiring_days = 7 }
activate s-1 premium_career 2030-01-01..2030-02-01              -> granted +5 sequence 1 lot 1
send bob as first                                               -> charged -1 lot 1 sequence 2
cancel s-1 at 2030-01-18                                        -> cancelled
carol: activate s-2 premium_career 2030-01-01..2030-02-01       -> granted +5
carol: cancel s-2 at 2030-01-20                                 -> cancelled
erin: activate s-3 premium_career 2030-01-01..2030-02-01        -> granted +5
erin: send bob connection                                       -> free sequence 2
at 2030-01-14
tick                                  -> alice: expiring_soon lot 1 sequence 4; carol: expiring_soon lot 1 sequence 3
at 2030-01-18
tick                                  -> alice: expired -4 lot 1 sequence 5; alice: exhausted sequence 6
"""


def _places(found: Audit) -> dict[str, list[tuple[str, str]]]:
    return {each.name: [(example.account, example.place) for example in each.examples] for each in found.failures()}


async def _write_before(connection: Connection) -> None:
    """Play what comes before the mark; the lanes stand at its end."""
    (scenario,) = read_text(_BEFORE, "before")
    await run(scenario, SqlBooks(connection))
    await all_is_read(connection)
    await connection.execute("update lanes set next_offset = 1000, as_of = '2030-01-18'")


def _add(account: str, row: int, sequence: int, **changes: str) -> str:
    """Return a statement that copies a row of the journal as the account's newest, with some columns changed."""
    values = ", ".join(f"{name} = {value}" for name, value in {"sequence": str(sequence), **changes}.items())
    return (
        f"create temp table added as select * from journal where account = {{{account}}} and sequence = {row};"  # noqa: S608
        f" update added set {values}; insert into journal select * from added; drop table added;"
        f" update accounts set sequence = {sequence} where account = {{{account}}}"
    )


class _Fault(NamedTuple):
    """What somebody did after the mark, and what each audit must say of it."""

    name: str
    sql: tuple[str, ...]
    check: str
    account: str
    place: str


_NEW_REQUEST = {"request_id": "gen_random_uuid()", "source_offset": "source_offset + 500"}
_FAULTS = [
    _Fault(
        "an end is announced again that the mark knew, and the lot lists it twice",
        (
            _add("carol", 3, 4),
            "update lots set announced_ends = announced_ends || announced_ends where account = {carol}",
        ),
        "notice_is_given_once",
        "carol",
        "lot 1",
    ),
    _Fault(
        "an end is announced again that the mark knew, and the lot lists another beside it",
        (
            _add("carol", 3, 4),
            (
                "update lots set announced_ends = announced_ends || (expires_at + interval '1 day')"
                " where account = {carol}"
            ),
        ),
        "notice_is_given_once",
        "carol",
        "lot 1",
    ),
    _Fault(
        "an end is announced again of a lot that was closed",
        (_add("alice", 4, 7, balance_before="0", balance_after="0"),),
        "notice_is_given_once",
        "alice",
        "lot 1",
    ),
    _Fault(
        "a lot that was closed gets back a credit and spends it again",
        (
            _add(
                "alice",
                2,
                7,
                **_NEW_REQUEST,
                code="'reversed'",
                amount="1",
                reverses="2",
                balance_before="0",
                balance_after="1",
                details="jsonb_build_object('send_id', request_id)",
            ),
            _add("alice", 2, 8, **_NEW_REQUEST | {"source_offset": "900"}, balance_before="1", balance_after="0"),
            "update accounts set paid = 9, paid_before = 9 where account = {alice}",
        ),
        "lot_ends_once",
        "alice",
        "lot 1",
    ),
    _Fault(
        "a subscription gets an end that no row tells",
        (_add("erin", 2, 3, **_NEW_REQUEST), "update subscriptions set ends_at = '2031-01-01' where account = {erin}"),
        "subscription_ends_as_told",
        "erin",
        "subscription s-3",
    ),
    _Fault(
        "a subscription loses the end that a row before the mark told",
        (_add("alice", 6, 7), "update subscriptions set ends_at = null where account = {alice}"),
        "subscription_ends_as_told",
        "alice",
        "subscription s-1",
    ),
]
_FALSE_TICK = (
    "insert into ticks select partition, gen_random_uuid(), 7, code, OFFSET, '2030-01-05', horizon, 1, 5, complete,"
    " steps, ended, cut, announced from ticks limit 1"
)
_OF_THE_CLOCK = [
    _Fault(
        "a tick counts credits that no row has, after a lane's clock was set back",
        (
            _FALSE_TICK.replace("OFFSET", "1000"),
            "update lanes set next_offset = 1001, as_of = '2030-01-05'",
        ),
        "tick_is_its_lines",
        "",
        "tick 0/1000",
    ),
    _Fault(
        "a tick of another topic counts credits that no row has, at a lower offset",
        (
            _FALSE_TICK.replace("OFFSET", "400"),
            "update lanes set topic_id = gen_random_uuid(), topic_since = '2030-01-18'",
        ),
        "tick_is_its_lines",
        "",
        "tick 0/400",
    ),
    _Fault(
        "a row of no account has a time before the mark",
        (
            "create temp table stray as select * from journal where code = 'free'",
            "update stray set account = 999, request_id = gen_random_uuid(), as_of = '2030-01-02', source_offset = 999",
            "insert into journal select * from stray",
        ),
        "row_has_its_account",
        "#999",
        "sequence 2",
    ),
]


@pytest.mark.parametrize("fault", [*_FAULTS, *_OF_THE_CLOCK], ids=lambda each: each.name)
async def test_a_fault_on_what_the_mark_knows_is_found_as_the_whole_audit_finds_it(
    settings: Settings, database: Connection, fault: _Fault
) -> None:
    """Each was once passed over: the rows after the mark fit each other, and not what was before them."""
    await _write_before(database)
    marked = await audit_and_mark(settings)
    await database.execute(await on_accounts(database, "; ".join(fault.sql)))

    found, whole = await audit_new(settings), await audit(settings)

    expected = (fault.account, fault.place)
    assert marked.passed
    assert expected in _places(whole).get(fault.check, []), _places(whole)
    assert expected in _places(found).get(fault.check, []), _places(found)


_TABLES = ("journal", "lots", "subscriptions", "accounts")


@pytest.mark.parametrize(
    ("deletion", "account", "place"),
    [
        (
            tuple(f"delete from {table} where account = {{erin}}" for table in _TABLES),  # noqa: S608 - names of ours
            "#{erin}",
            "sequence 0",
        ),
        (
            (
                "delete from journal where account = {erin} and sequence = 2",
                "update accounts set sequence = 1 where account = {erin}",
            ),
            "erin",
            "sequence 1",
        ),
    ],
    ids=["all of an account", "its newest row"],
)
async def test_deleted_rows_are_found_though_what_is_left_adds_up(
    settings: Settings, database: Connection, deletion: tuple[str, ...], account: str, place: str
) -> None:
    """Only the mark knows of them: the whole audit passes, and with `--mark` accepts what is there."""
    await _write_before(database)
    await audit_and_mark(settings)
    account = await on_accounts(database, account)
    await database.execute(await on_accounts(database, "; ".join(deletion)))

    found = [_places(await audit_new(settings)) for _ in range(2)]
    accepted = await audit_and_mark(settings)
    after = await audit_new(settings)

    assert found == [{"account_reaches_its_mark": [(account, place)]}] * 2
    assert (accepted.passed, after.passed) == (True, True)
    assert after.new is not None
    assert after.new.accounts == 0


async def test_a_user_who_may_not_write_the_mark_is_told_before_anything_is_read(
    settings: Settings, database: Connection
) -> None:
    """An installation that is older than the mark has not granted its tables to operators."""
    url = settings.database_url.get_secret_value()
    user = f"reader_{await database.fetchval('select pg_backend_pid()')}"
    await database.execute(f"create role {user} login; grant select on all tables in schema public to {user}")
    read: list[str] = []
    try:
        operator = settings.model_copy(update={"database_url": SecretStr(_as_user(url, user))})
        with pytest.raises(MissingPrivilegesError) as refused:
            await audit_and_mark(operator, lambda *step: read.append(step[2]))
    finally:
        await database.execute(f"drop owned by {user}; drop role {user}")

    assert read == []
    assert str(refused.value).endswith(
        f"`grant INSERT on audits to {user}; grant INSERT, UPDATE, DELETE on audited_accounts to {user}`"
    )


def _as_user(url: str, user: str) -> str:
    scheme, rest = url.split("://", 1)
    return f"{scheme}://{user}@{rest.rpartition('@')[2]}"
