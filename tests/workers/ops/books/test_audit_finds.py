"""The audit on books that were tampered with: what it finds, and where; and what the database itself refuses."""

import re
from typing import NamedTuple

import asyncpg
import pytest

from infra.postgres import WORKER_ROLE, Connection
from tests.workers.books_sound import write_story
from workers.ops.books.audit import CHECKS, EXAMPLES, audit_books


@pytest.fixture(scope="module")
async def story(shared: Connection) -> Connection:
    """A database with the story in its books."""
    await write_story(shared)
    return shared


async def on_accounts(connection: Connection, sql: str) -> str:
    """Return a text with each account's id in braces replaced by its number."""
    rows = await connection.fetch("select account_id, account from accounts")
    numbers = {row["account_id"]: row["account"] for row in rows}
    return re.sub(r"\{(\w+)\}", lambda found: str(numbers[found[1]]), sql)


# -- what the audit finds ---------------------------------------------------------------------------------------------

LIFT_EVERYTHING = """
do $$ declare c record; begin
    for c in
        select conrelid::regclass as t, conname from pg_constraint
        where connamespace = 'public'::regnamespace and contype in ('c', 'f', 'p', 'u')
        order by contype in ('p', 'u')
    loop execute format('alter table %s drop constraint %I', c.t, c.conname); end loop;
    for c in select i.indexrelid::regclass as x from pg_index as i join pg_class as t on t.oid = i.indrelid
        where i.indisunique and t.relnamespace = 'public'::regnamespace
    loop execute format('drop index %s', c.x); end loop;
end $$
"""


@pytest.fixture(scope="module")
async def unprotected_story(other_shared: Connection) -> Connection:
    """A database with the story in its books, and without constraints and keys."""
    await write_story(other_shared)
    await other_shared.execute(LIFT_EVERYTHING)
    return other_shared


class Corruption(NamedTuple):
    """What somebody did to the books, and what the audit must say of it."""

    sql: str
    check: str
    account: str
    place: str


def _copy(table: str, where: str, **changes: str) -> str:
    """Return a statement that doubles rows, with some columns changed."""
    values = ", ".join(f"{name} = {value}" for name, value in changes.items())
    return (
        f"create temp table doubled as select * from {table} where {where};"  # noqa: S608
        f" update doubled set {values}; insert into {table} overriding system value select * from doubled;"
        " drop table doubled"
    )


_OF_ALICE = "update journal set {} where account = {{alice}} and sequence = {}"
_LOT_OF_ALICE = "update lots set {} where account = {{alice}} and lot = {}"

CORRUPTIONS = [
    # a lot's credits
    Corruption(_LOT_OF_ALICE.format("remaining = remaining + 1", 3), "lot_is_its_journal", "alice", "lot 3"),
    Corruption(_LOT_OF_ALICE.format("remaining = remaining - 1", 3), "lot_conserves", "alice", "lot 3"),
    Corruption(_LOT_OF_ALICE.format("granted = 9", 3), "lot_is_granted_once", "alice", "lot 3"),
    Corruption(
        "update lots set tops_up = 1 where account = {carol} and lot = 4", "lot_is_as_granted", "carol", "lot 4"
    ),
    Corruption(_LOT_OF_ALICE.format("remaining = -2", 3), "lot_in_range", "alice", "lot 3"),
    Corruption(_LOT_OF_ALICE.format("remaining = 3", 3), "lot_in_range", "alice", "lot 3"),
    Corruption("delete from lots where account = {dave}", "account_conserves", "dave", "all 0 lots"),
    Corruption(
        "update journal set account = {carol}, sequence = 10 where account = {alice} and sequence = 17",
        "account_conserves",
        "alice",
        "all 3 lots",
    ),
    Corruption(_OF_ALICE.format("amount = -7", 8), "lot_was_never_overdrawn", "alice", "sequence 8"),
    Corruption(
        "update journal set sequence = -sequence where account = {alice} and sequence in (17, 22);"
        " update journal set sequence = case sequence when -17 then 22 else 17 end"
        " where account = {alice} and sequence < 0",
        "lot_was_never_overdrawn",
        "alice",
        "sequence 17",
    ),
    # a lot's life
    Corruption(_LOT_OF_ALICE.format("open = false", 3), "closed_lot_is_empty", "alice", "lot 3"),
    Corruption(_LOT_OF_ALICE.format("cap_pending = true", 1), "closed_lot_is_empty", "alice", "lot 1"),
    Corruption(_LOT_OF_ALICE.format("open = true", 1), "lot_ends_once", "alice", "lot 1"),
    Corruption(
        _LOT_OF_ALICE.format("expires_at = expires_at - interval '1 day'", 1), "lot_ends_once", "alice", "lot 1"
    ),
    Corruption(_OF_ALICE.format("code = 'expired', lot = 3", 7), "lot_ends_once", "alice", "lot 3"),
    Corruption(
        "update lots set freed = false where account = {carol} and lot = 2", "freed_lot_never_began", "carol", "lot 2"
    ),
    Corruption(_LOT_OF_ALICE.format("freed = true", 1), "freed_lot_never_began", "alice", "lot 1"),
    Corruption(
        "update lots set freed = false where account = {carol} and lot = 2", "period_has_one_lot", "carol", "lot 4"
    ),
    Corruption(
        "update lots set expires_at = full_expires_at where account = {dave}",
        "lot_ends_with_its_subscription",
        "dave",
        "lot 1",
    ),
    Corruption(
        _LOT_OF_ALICE.format("expires_at = expires_at - interval '1 us'", 3),
        "lot_ends_with_its_subscription",
        "alice",
        "lot 3",
    ),
    Corruption("delete from subscriptions where account = {carol}", "lot_ends_with_its_subscription", "carol", "lot 4"),
    Corruption(
        "update subscriptions set ends_at = null where account = {alice}",
        "subscription_ends_as_told",
        "alice",
        "subscription s-1",
    ),
    Corruption(
        "update subscriptions set ends_at = '2031-01-01' where account = {carol}",
        "subscription_ends_as_told",
        "carol",
        "subscription s-2",
    ),
    Corruption(
        "update lots set granted_at = granted_at - interval '1 day' where account = {dave}",
        "lot_is_as_granted",
        "dave",
        "lot 1",
    ),
    Corruption(_LOT_OF_ALICE.format("request_id = gen_random_uuid()", 3), "lot_is_as_granted", "alice", "lot 3"),
    *(
        Corruption(
            f"update lots set full_expires_at = full_expires_at + interval '{by}', expires_at = expires_at"  # noqa: S608
            f" + interval '{by}' where account = {{{account}}} and lot = {lot} and open",
            "lot_lives_as_granted",
            account,
            f"lot {lot}",
        )
        for account, lot, by in (("alice", 3, "1 year"), ("alice", 3, "-1 day"), ("carol", 4, "1 year"))
    ),
    # granted before the cancel that cuts it short
    Corruption(
        "update lots set full_expires_at = full_expires_at + interval '1 year' where account = {dave}",
        "lot_lives_as_granted",
        "dave",
        "lot 1",
    ),
    Corruption(
        "update accounts set newest_lot = 4 where account = {alice}", "lots_are_numbered", "alice", "newest lot 4"
    ),
    Corruption(_LOT_OF_ALICE.format("partition = 3", 2), "lot_has_its_account", "alice", "lot 2"),
    Corruption("delete from accounts where account = {dave}", "lot_has_its_account", "#{dave}", "lot 1"),
    Corruption(
        "insert into partitioning (partitions) values (1); update accounts set partition = 3 where account = {dave}",
        "account_has_its_number",
        "dave",
        "partition 3",
    ),
    # an account
    Corruption(
        "update accounts set paid = 0, paid_before = 0 where account = {alice}",
        "paid_sends_are_counted",
        "alice",
        "paid from 2030-01-20 00:00:00+00",
    ),
    *(
        Corruption(
            "update accounts set paid = 0, paid_before = 0, paid_from ="  # noqa: S608
            f" '{paid_from}' where account = {{alice}}",
            "paid_sends_are_counted",
            "alice",
            f"paid from {paid_from}",
        )
        for paid_from in ("-infinity", "2030-01-10 00:00:00+00")
    ),
    Corruption("update accounts set level = 0 where account = {carol}", "level_is_its_balance", "carol", "level 0"),
    Corruption("update accounts set level = 2 where account = {alice}", "level_is_its_balance", "alice", "level 2"),
    Corruption(
        "update lots set open = true, remaining = 4 where account = {erin}",
        "erased_account_holds_nothing",
        "erin",
        "lot 1",
    ),
    Corruption("update accounts set erased_at = null where account = {erin}", "erasure_is_told", "erin", "sequence 2"),
    Corruption("update accounts set erased_at = now() where account = {dave}", "erasure_is_told", "dave", "sequence 0"),
    Corruption(
        "update journal set code = 'free' where account = {erin} and code = 'account_erased' and worker = 'send'",
        "erased_account_is_still",
        "erin",
        "sequence 4",
    ),
    # the journal's rows
    Corruption(
        "delete from journal where account = {alice} and sequence = 3", "sequence_is_gap_free", "alice", "sequence 3"
    ),
    Corruption(
        "delete from journal where account = {alice} and sequence = 22", "sequence_is_gap_free", "alice", "sequence 22"
    ),
    Corruption("update accounts set sequence = 2 where account = {dave}", "sequence_is_gap_free", "dave", "sequence 3"),
    Corruption(
        "update journal set account = 999 where account = {dave} and sequence = 2",
        "row_has_its_account",
        "#999",
        "sequence 2",
    ),
    Corruption(_OF_ALICE.format("lot = 77", 2), "row_has_its_lot", "alice", "sequence 2"),
    Corruption(_OF_ALICE.format("lot = null", 17), "row_has_its_lot", "alice", "sequence 17"),
    Corruption(_OF_ALICE.format("amount = 0, lot = null", 2), "charge_takes_one_credit", "alice", "sequence 2"),
    Corruption(_OF_ALICE.format("amount = -2", 2), "charge_takes_one_credit", "alice", "sequence 2"),
    Corruption(_OF_ALICE.format("recipient_id = null", 2), "charge_takes_one_credit", "alice", "sequence 2"),
    Corruption(_OF_ALICE.format("amount = 0", 1), "row_moves_as_its_code", "alice", "sequence 1"),
    Corruption(_OF_ALICE.format("code = 'free'", 17), "row_moves_as_its_code", "alice", "sequence 17"),
    Corruption(_OF_ALICE.format("is_answer = true", 15), "row_answers_as_its_code", "alice", "sequence 15"),
    Corruption(_OF_ALICE.format("is_answer = false", 3), "row_answers_as_its_code", "alice", "sequence 3"),
    Corruption(_OF_ALICE.format("worker = 'billing'", 15), "row_answers_as_its_code", "alice", "sequence 15"),
    Corruption(_OF_ALICE.format("as_of = lot_expires_at", 17), "row_is_within_its_lot", "alice", "sequence 17"),
    Corruption(_OF_ALICE.format("as_of = '2029-12-31'", 2), "row_is_within_its_lot", "alice", "sequence 2"),
    Corruption(_OF_ALICE.format("lot_expires_at = '2031-01-01'", 2), "row_is_within_its_lot", "alice", "sequence 2"),
    Corruption(_OF_ALICE.format("code = 'lot_ended', amount = 0", 22), "row_is_within_its_lot", "alice", "sequence 22"),
    Corruption(
        "update ticks set horizon = '2030-01-19' where lots > 0", "row_is_within_its_lot", "alice", "sequence 15"
    ),
    Corruption(_OF_ALICE.format("balance_after = balance_after + 1", 3), "balance_adds_up", "alice", "sequence 3"),
    Corruption(_OF_ALICE.format("balance_after = 9", 13), "balance_adds_up", "alice", "sequence 13"),
    Corruption(_OF_ALICE.format("balance_before = 5", 15), "balance_adds_up", "alice", "sequence 15"),
    Corruption(
        _OF_ALICE.format("balance_before = 9, balance_after = 9", 3), "balance_is_carried", "alice", "sequence 3"
    ),
    Corruption(
        _OF_ALICE.format("balance_before = 4, balance_after = 4, as_of = as_of + interval '1 us'", 21),
        "refused_send_had_nothing",
        "alice",
        "sequence 21",
    ),
    Corruption(
        _OF_ALICE.format("balance_before = 4, balance_after = 5", 22), "balance_is_its_lots", "alice", "sequence 22"
    ),
    # as if an older grant had been read only after the refusal
    Corruption(
        "update journal set code = 'insufficient_credits', amount = 0, lot = null, lot_expires_at = null,"
        " as_of = '2030-06-01' where account = {alice} and code = 'charged' and sequence < ("
        " select max(g.sequence) from journal as g where g.account = {alice} and g.code = 'granted');"
        " update lots set granted_at = '2030-01-01' where account = {alice};"
        " update journal set as_of = '2030-01-01', lot_expires_at = '2031-01-01'"
        " where account = {alice} and code = 'granted'",
        "refusal_knew_its_grants",
        "alice",
        "sequence 2",
    ),
    # what rows name
    Corruption(_OF_ALICE.format("code = 'free'", 10), "request_has_one_outcome", "alice", "request {first}"),
    Corruption(
        _OF_ALICE.format("request_id = '00000000-0000-0000-0000-000000000007'", 10),
        "request_has_one_outcome",
        "alice",
        "request 00000000-0000-0000-0000-000000000007",
    ),
    Corruption(_OF_ALICE.format("source_offset = 1", 3), "record_has_one_answer", "alice", "send 0/1"),
    Corruption(
        _OF_ALICE.format("request_id = '00000000-0000-0000-0000-000000000007'", 16),
        "movement_has_its_cause",
        "alice",
        "sequence 16",
    ),
    Corruption("delete from ticks where lots > 0", "movement_has_its_cause", "alice", "sequence 15"),
    Corruption(
        "delete from journal where account = {carol} and code = 'granted' and lot = 4",
        "movement_has_its_cause",
        "carol",
        "sequence 5",
    ),
    Corruption(
        "update journal set code = 'cancelled' where account = {erin} and code = 'erased'",
        "movement_has_its_cause",
        "erin",
        "sequence 3",
    ),
    Corruption(_OF_ALICE.format("reverses = 3", 5), "reversal_is_of_its_send", "alice", "sequence 5"),
    Corruption(_OF_ALICE.format("reverses = null", 5), "reversal_is_of_its_send", "alice", "sequence 5"),
    Corruption(_OF_ALICE.format("amount = 2", 5), "reversal_is_of_its_send", "alice", "sequence 5"),
    Corruption(_OF_ALICE.format("lot = 3", 5), "reversal_is_of_its_send", "alice", "sequence 5"),
    Corruption(
        _OF_ALICE.format("code = 'free', lot = null, amount = 0", 2), "reversal_is_of_its_send", "alice", "sequence 5"
    ),
    Corruption(_OF_ALICE.format("reverses = 4", 5), "send_is_reversed_once", "alice", "sequence 4"),
    Corruption(_LOT_OF_ALICE.format("warned = false", 1), "notice_is_given_once", "alice", "lot 1"),
    Corruption(_LOT_OF_ALICE.format("announced_ends = '{}'", 1), "notice_is_given_once", "alice", "lot 1"),
    Corruption(_LOT_OF_ALICE.format("announced_ends = array[expires_at]", 3), "notice_is_given_once", "alice", "lot 3"),
    Corruption(
        _copy("journal", "account = {alice} and sequence = 14", sequence="23"), "notice_is_given_once", "alice", "lot 1"
    ),
    Corruption("update ticks set credits = 7 where lots > 0", "tick_is_its_lines", "", "tick 0/21"),
    Corruption("update ticks set lots = 0", "tick_is_its_lines", "", "tick 0/21"),
    Corruption("update lanes set next_offset = 2 where consumer_group = 'inmail-send'", "row_was_read", "", "send 0"),
    Corruption("delete from lanes where consumer_group = 'inmail-expiry'", "row_was_read", "", "expiry 0"),
]


async def test_the_storys_books_are_sound(books: Connection) -> None:
    """Or nothing below would prove anything."""
    found = await audit_books(books)

    assert [] == [(finding.name, finding.examples) for finding in found.failures()]
    totals = found.totals
    assert (69, 5, 2, 3, 8, 45, 10) == (
        totals.granted,
        totals.spent,
        totals.reversed,
        totals.expired,
        totals.voided,
        totals.forfeited,
        totals.remaining,
    )


def test_every_check_has_a_corruption() -> None:
    """A check that was never seen to fail proves nothing."""
    assert {check.name for check in CHECKS} == {corruption.check for corruption in CORRUPTIONS}


async def corrupt(connection: Connection, corruption: Corruption) -> tuple[str, str]:
    """Do it to the story's books; return the account and the place where the audit has to find it."""
    query = "select request_id from journal where code = 'charged' order by account, sequence"
    first = await connection.fetchval(query)
    expected = await on_accounts(connection, corruption.account), corruption.place.replace("{first}", str(first))
    await connection.execute(await on_accounts(connection, corruption.sql))
    return expected


@pytest.mark.parametrize("corruption", CORRUPTIONS, ids=lambda each: f"{each.check} {each.place}")
async def test_a_corruption_is_found_by_its_check_and_in_its_place(
    unprotected: Connection, corruption: Corruption
) -> None:
    """Whoever did it was a superuser and had lifted every constraint and key before."""
    expected = await corrupt(unprotected, corruption)

    found = await audit_books(unprotected)

    places = {
        finding.name: [(example.account, example.place) for example in finding.examples] for finding in found.failures()
    }
    assert not found.passed
    assert expected in places.get(corruption.check, []), places


async def test_a_finding_of_thousands_is_counted_and_shown_in_part(books: Connection) -> None:
    """Some places are enough to see what happened; the count is of all."""
    await books.execute(
        "insert into accounts (account_id, partition, sequence) select 'a-' || n, 0, 1 from generate_series(1, 30) as n"
    )

    (finding,) = (await audit_books(books)).failures()

    assert ("sequence_is_gap_free", 30, EXAMPLES) == (finding.name, finding.count, len(finding.examples))


# -- what the database refuses by itself -----------------------------------------------------------------------------

_CHECKED = asyncpg.CheckViolationError
_DENIED = asyncpg.InsufficientPrivilegeError
_TAKEN = asyncpg.UniqueViolationError
_NOBODYS = asyncpg.ForeignKeyViolationError

REFUSED_TO_ALL = {
    "a lot below zero": (_LOT_OF_ALICE.format("remaining = -1", 3), _CHECKED),
    "a lot above its grant": (_LOT_OF_ALICE.format("remaining = 3", 3), _CHECKED),
    "a closed lot with credits": (_LOT_OF_ALICE.format("open = false", 3), _CHECKED),
    "a lot that is open and freed": (_LOT_OF_ALICE.format("freed = true", 3), _CHECKED),
    "a lot that ends before it begins": (_LOT_OF_ALICE.format("expires_at = '2020-01-01'", 3), _CHECKED),
    "a lot that outlives its full life": (_LOT_OF_ALICE.format("expires_at = '2040-01-01'", 3), _CHECKED),
    "a gift with a subscription": (_LOT_OF_ALICE.format("subscription_id = 's-1'", 3), _CHECKED),
    "a second lot for a period": (
        "update lots set freed = false where account = {carol} and lot = 2",
        _TAKEN,
    ),
    "a lot of no account": (_copy("lots", "account = {alice} and lot = 3", account="999"), _NOBODYS),
    "an account with lots that goes": ("delete from accounts where account = {alice}", _NOBODYS),
    "the same account twice": ("insert into accounts (account_id, partition) values ('alice', 0)", _TAKEN),
    "a sequence below zero": ("update accounts set sequence = -1", _CHECKED),
    "a level that there is none of": ("update accounts set level = 3", _CHECKED),
    "a charge of two credits": (_OF_ALICE.format("amount = -2", 2), _CHECKED),
    "a charge of nothing": (_OF_ALICE.format("amount = 0", 2), _CHECKED),
    "a charge that the balance does not show": (_OF_ALICE.format("balance_after = 5", 2), _CHECKED),
    "a free send that costs": (_OF_ALICE.format("code = 'free'", 2), _CHECKED),
    "a grant of nothing": (_OF_ALICE.format("amount = 0", 1), _CHECKED),
    "an expiry that gives": (_OF_ALICE.format("amount = 3", 15), _CHECKED),
    "credits of no lot": (_OF_ALICE.format("lot = null, lot_expires_at = null", 15), _CHECKED),
    "a lot without its end": (_OF_ALICE.format("lot_expires_at = null", 2), _CHECKED),
    "a balance below zero": (_OF_ALICE.format("balance_before = -1, balance_after = -1", 3), _CHECKED),
    "a row by nobody": (_OF_ALICE.format("worker = 'ops'", 3), _CHECKED),
    "an answer that is none": (_OF_ALICE.format("is_answer = false", 3), _CHECKED),
    "a reversal of no send": (_OF_ALICE.format("reverses = null", 5), _CHECKED),
    "a second reversal of a send": (_OF_ALICE.format("reverses = 4", 5), _TAKEN),
    "the same sequence twice": (_OF_ALICE.format("sequence = 4", 3), _TAKEN),
    "a second answer to a request": (
        _copy("journal", "account = {alice} and sequence = 3", sequence="99"),
        _TAKEN,
    ),
    "a tick that counts backwards": ("update ticks set credits = -1", _CHECKED),
    "a lane without an epoch": ("update lanes set epoch = 0", _CHECKED),
}

REFUSED_TO_WORKERS = {
    "editing a row": _OF_ALICE.format("as_of = now()", 3),
    "deleting a row": "delete from journal where account = {alice} and sequence = 22",
    "emptying the journal": "truncate journal",
    "deleting a tick": "delete from ticks",
    "moving a tick": "update ticks set horizon = now()",
    "deleting a lot": "delete from lots where account = {alice}",
    "granting more": _LOT_OF_ALICE.format("granted = 9", 3),
    "moving a lot's start": _LOT_OF_ALICE.format("granted_at = now()", 3),
    "lengthening a lot's full life": _LOT_OF_ALICE.format("full_expires_at = now()", 3),
    "giving a lot to somebody else": _LOT_OF_ALICE.format("account = {carol}", 3),
    "changing a lot's priority": _LOT_OF_ALICE.format("priority = 9", 3),
    "deleting an account": "delete from accounts where account = {dave}",
    "renaming an account": "update accounts set account_id = 'mallory' where account = {dave}",
    "moving an account": "update accounts set partition = 3 where account = {dave}",
    "deleting a subscription": "delete from subscriptions where account = {dave}",
    "renaming a subscription": "update subscriptions set subscription_id = 's-9' where account = {dave}",
    "deleting a lane": "delete from lanes",
    "forgetting a migration": "delete from migrations",
    "dropping a check": "alter table lots drop constraint lots_check",
    "replacing a rule": "create or replace function available(bigint, timestamptz) returns bigint return 7",
}


@pytest.mark.parametrize("what", REFUSED_TO_ALL)
async def test_the_database_refuses_everybody(books: Connection, what: str) -> None:
    """A CHECK or a key is in the way, also of a superuser who means well."""
    sql, refusal = REFUSED_TO_ALL[what]

    with pytest.raises(refusal):
        await books.execute(await on_accounts(books, sql))


@pytest.mark.parametrize("what", REFUSED_TO_WORKERS)
async def test_the_database_refuses_a_worker(books: Connection, what: str) -> None:
    """Whatever a worker's code would try, it has no right to."""
    sql = await on_accounts(books, REFUSED_TO_WORKERS[what])
    await books.execute(f"set local role {WORKER_ROLE}")

    with pytest.raises(_DENIED):
        await books.execute(sql)
