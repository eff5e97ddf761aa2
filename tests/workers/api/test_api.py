"""The read API on a real Postgres: what it answers, to whom, what it sends once, and what it says of trouble."""

import asyncio
import re
from collections.abc import AsyncIterator
from datetime import timedelta
from functools import partial
from operator import sub
from pathlib import Path
from time import monotonic
from typing import Any
from urllib.parse import quote
from uuid import UUID, uuid4

import asyncpg
import jsonschema
import pytest
from pydantic import SecretStr, create_model
from structlog.testing import capture_logs

from infra.clock import utc_now
from infra.lock_holder import LockHolder
from infra.migrate import migrate
from infra.postgres import Connection, connect_database
from infra.settings import Settings, SettingsError, load_settings
from schemas.ids import DerivedId, derive_id
from tests.conftest import FUNCTIONS, Connect
from tests.ledger.book import DAY, Book
from tests.workers.api.served import OLD_TOKEN, TOKEN, Client, Line, serving
from tests.workers.processes import ask, free_port
from tests.workers.scraping import scrape
from tests.workers.wire import eventually
from workers.api import lock_watch, reader, server_reads
from workers.api import openapi as openapi_module
from workers.api.bodies import BalanceBody, LotBody, OutcomeBody, StatementBody
from workers.api.openapi import openapi, rendered
from workers.api.operations import body_version
from workers.api.problems import ProblemKind
from workers.api.tokens import api_tokens, hash_token
from workers.ops.books.account_search import find_accounts
from workers.ops.books.current_balance import read_sequence
from workers.ops.books.statement_page import StatementPage, read_statement_page

ROOT = Path(__file__).parents[3]
ODD = "{a/b} ü?c#d%"  # an id that a path has to carry percent-encoded


@pytest.fixture
async def book(database: Connection) -> Book:
    """Return an account with a subscription, a gift, sends, a conflict; now, so that time goes on."""
    book = Book(database)
    book.now = (utc_now() - timedelta(hours=1)).replace(microsecond=0)
    await book.one(book.activated(period_start=book.now, period_end=book.now + 30 * DAY))
    await book.one(book.promotion(3))
    await book.decide(*(book.send() for _ in range(4)))
    return book


@pytest.fixture
async def client(settings: Settings, book: Book) -> AsyncIterator[Client]:  # noqa: ARG001 - what is there
    """A client of an API over that account."""
    async with serving(settings) as served:
        yield served


def _check(operation: str, body: Any) -> None:
    """Compare a body with the document's schema, closed to members that it does not name."""
    document = openapi()
    for schema in document["components"]["schemas"].values():
        schema["additionalProperties"] = False
    (path,) = [each for each in document["paths"].values() if each["get"]["operationId"] == operation]
    schema = path["get"]["responses"]["200"]["content"]["application/json"]["schema"]
    validator = jsonschema.Draft202012Validator(
        {**schema, "components": document["components"]}, format_checker=jsonschema.FormatChecker()
    )
    validator.validate(body)


# -- answers ----------------------------------------------------------------------------------------------------------


async def test_a_balance_says_what_can_be_spent_by_lot_and_as_of_which_row(client: Client, book: Book) -> None:
    """In the order of spending; the next allotment is the subscription's next month."""
    answer = await client.get("/v1/accounts/alice/balance")

    _check("balance", answer.body)
    assert (200, 4, 6) == (answer.status, answer.body["spendable"], answer.body["sequence"])
    assert [("subscription", 1), ("promotion", 3)] == [(lot["origin"], lot["remaining"]) for lot in answer.body["lots"]]
    assert answer.body["next_allotment_at"] > answer.body["as_of"]
    assert "private, no-cache" == answer.headers["Cache-Control"]
    assert book.offset > 0


async def test_a_statement_is_read_page_by_page_in_both_directions(client: Client) -> None:
    """The pages together are the statement, each line once; the last page says that it is the last."""
    newest, pages, path = [], 0, "/v1/accounts/alice/statement?limit=4"
    while path is not None:
        answer = await client.get(path)
        _check("statement", answer.body)
        newest += [line["sequence"] for line in answer.body["lines"]]
        pages, path = pages + 1, answer.body["next"]
    oldest = await client.get("/v1/accounts/alice/statement?after=0")
    none = await client.get("/v1/accounts/alice/statement?after=6")
    ends_full = await client.get("/v1/accounts/alice/statement?after=2&limit=4")
    ends_short = await client.get("/v1/accounts/alice/statement?after=2&limit=3")

    assert (2, [6, 5, 4, 3, 2, 1]) == (pages, newest)
    assert "granted granted charged charged charged charged" == " ".join(line["code"] for line in oldest.body["lines"])
    assert ([], None, 6) == (none.body["lines"], none.body["next"], none.body["sequence"])
    assert all(line["reason"] for line in oldest.body["lines"])
    assert [6, None] == [ends_full.body["lines"][-1]["sequence"], ends_full.body["next"]]
    assert "/v1/accounts/alice/statement?after=5&limit=3&wait_for=6" == ends_short.body["next"]


@pytest.mark.parametrize("first", ["limit=2", "limit=2&after=0"])
async def test_the_next_page_skips_no_line_where_another_replica_answers(
    settings: Settings, book: Book, first: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A replica that lags has no line yet where the page before ended: its newest would look like the next one."""
    pages = 0

    async def read_page_of_either(*arguments: Any, **bounds: Any) -> StatementPage | None:
        nonlocal pages
        pages += 1
        page = await read_statement_page(*arguments, **bounds)
        if pages == 1 or page is None:
            return page
        return StatementPage(2, tuple(line for line in page.lines if line.sequence <= 2))

    async def read_sequence_of_the_other(*_: Any) -> int:
        return 2

    monkeypatch.setattr(reader, "read_statement_page", read_page_of_either)
    monkeypatch.setattr(reader, "read_sequence", read_sequence_of_the_other)
    async with serving(settings, api_wait_seconds=0.1) as client:
        page = await client.get(f"/v1/accounts/alice/statement?{first}")
        following = await client.get(page.body["next"])

    assert (200, 2) == (page.status, len(page.body["lines"]))
    assert (503, "not-yet") == following.problem
    assert book.offset > 0


async def test_a_request_has_its_stored_answer_and_its_conflicts(client: Client, book: Book) -> None:
    """The first answer is final; the same id with another body is answered beside it."""
    id_ = uuid4()
    await book.decide(book.send(id=id_), book.send(id=id_, recipient_id="somebody-else"))
    answer = await client.get(f"/v1/accounts/alice/requests/{id_}")

    _check("outcome", answer.body)
    assert (True, "charged") == (answer.body["final"], answer.body["answer"]["code"])
    assert ["key_conflict"] == [line["code"] for line in answer.body["conflicts"]]


async def test_an_answer_that_is_not_final_says_so_until_there_is_one(
    client: Client, book: Book, database: Connection
) -> None:
    """The request of `balance_not_current` may be sent again, and then has another answer."""
    id_ = uuid4()
    await book.decide(*(book.send() for _ in range(4)))
    await book.one(book.send(id=id_))
    await database.execute(
        "update journal set code = 'balance_not_current',"
        """ details = '{"waited_for": "inmail-billing", "retry_after_seconds": 5}' where request_id = $1""",
        id_,
    )
    first = await client.get(f"/v1/accounts/alice/requests/{id_}")
    await book.one(book.promotion(1))
    await book.one(book.send(id=id_))
    second = await client.get(f"/v1/accounts/alice/requests/{id_}")

    assert [(False, "balance_not_current"), (True, "charged")] == [
        (each.body["final"], each.body["answer"]["code"]) for each in (first, second)
    ]


async def test_a_conflict_is_told_however_often_there_was_no_final_answer_before(client: Client, book: Book) -> None:
    """A producer that sends again each minute, as it is told to, while billing is behind for an hour."""
    id_ = uuid4()
    await book.decide(*(book.send() for _ in range(4)))
    for _ in range(60):
        await book.one(book.send(id=id_))
        await book.connection.execute(
            "update journal set code = 'balance_not_current',"
            """ details = '{"waited_for": "inmail-billing", "retry_after_seconds": 60}'"""
            " where request_id = $1 and code = 'insufficient_credits'",
            id_,
        )
    await book.one(book.promotion(1))
    await book.decide(book.send(id=id_), book.send(id=id_, recipient_id="somebody-else"))

    answer = await client.get(f"/v1/accounts/alice/requests/{id_}")

    _check("outcome", answer.body)
    assert (True, "charged") == (answer.body["final"], answer.body["answer"]["code"])
    assert ["key_conflict"] == [line["code"] for line in answer.body["conflicts"]]


async def test_a_request_is_found_by_any_id_that_its_event_may_have(client: Client, book: Book) -> None:
    """By its producer's id, with or without the source, or by the request id of its results: the same answer."""
    derived = derive_id("/test", ODD)
    await book.decide(_named(book.send(), derived))
    found = [
        await client.get(_encoded(f"/v1/accounts/alice/requests/{name}"))
        for name in (quote(ODD, safe=""), f"{quote(ODD, safe='')}?source=/test", derived)
    ]
    elsewhere = await client.get(_encoded(f"/v1/accounts/alice/requests/{quote(ODD, safe='')}?source=/other"))

    for each in found:
        _check("outcome", each.body)
    assert [(str(derived), ODD, "charged")] * 3 == [
        (each.body["request_id"], each.body["original_id"], each.body["answer"]["code"]) for each in found
    ]
    assert (404, "unknown-request") == elsewhere.problem
    assert (404, "unknown-request") == (await client.get("/v1/accounts/bob/requests/order-7")).problem


async def test_an_id_that_several_sources_use_wants_a_source(client: Client, book: Book) -> None:
    """The problem names the request ids; each source's request has an answer of its own."""
    ids = [derive_id(source, "order-7") for source in ("/web", "/mobile")]
    await book.decide(*(_named(book.send(recipient_id=f"r-{number}"), id_) for number, id_ in enumerate(ids)))
    both = await client.get("/v1/accounts/alice/requests/order-7")
    each = [await client.get(f"/v1/accounts/alice/requests/order-7?source={name}") for name in ("/web", "/mobile")]

    assert (409, "ambiguous-request") == both.problem
    assert all(str(id_) in both.body["detail"] for id_ in ids)
    assert [(str(id_), f"r-{number}") for number, id_ in enumerate(ids)] == [
        (one.body["request_id"], one.body["answer"]["recipient_id"]) for one in each
    ]


def _named(event: Any, id_: DerivedId) -> Any:
    """Give an event the id that decoding gives it where its own is no UUID."""
    event.__dict__["id"] = id_
    return event


async def test_an_account_id_may_hold_anything_that_a_path_can_carry(client: Client, book: Book) -> None:
    """Slashes, blanks and letters beyond ASCII; the next page's path has it encoded again."""
    await book.connection.execute("update accounts set account_id = $1 where account_id = 'alice'", ODD)
    balance = await client.get(_encoded(f"/v1/accounts/{quote(ODD, safe='')}/balance"))
    page = await client.get(_encoded(f"/v1/accounts/{quote(ODD, safe='')}/statement?limit=1"))
    following = await client.get(_encoded(page.body["next"]))

    assert (ODD, 4) == (balance.body["account_id"], balance.body["spendable"])
    assert (ODD, 5) == (following.body["account_id"], following.body["lines"][0]["sequence"])


def _encoded(path: str) -> Any:
    from yarl import URL  # noqa: PLC0415 - aiohttp's; a plain text would be encoded anew

    return URL(path, encoded=True)


async def test_an_account_of_which_nothing_was_decided_is_unknown(client: Client, book: Book) -> None:
    """Its first event was set aside, for a plan that the catalogue does not have; its row is there."""
    await book.connection.execute("insert into accounts (account_id, partition) values ('dora', 0)")
    paths = ["balance", "balance?wait_for=0", "statement", f"requests/{uuid4()}"]
    found = [(await client.get(f"/v1/accounts/dora/{path}")).problem for path in paths]

    assert [*[(404, "unknown-account")] * 3, (404, "unknown-request")] == found


async def test_an_id_that_the_database_has_no_characters_for_is_no_other_clients_trouble(
    settings: Settings, database: Connection
) -> None:
    """A database in LATIN1, and balances that are read together: whoever asks for a Cyrillic account is told alone."""
    name = f"latin_{uuid4().hex[:8]}"
    await database.execute(
        f"create database {name} template template0 encoding 'LATIN1' locale_provider libc locale 'C'"
    )
    base = settings.database_url.get_secret_value().rpartition("/")[0]
    own = settings.model_copy(update={"database_url": SecretStr(f"{base}/{name}")})
    connection = await connect_database(own)
    try:
        await migrate(connection, [FUNCTIONS])
        book = Book(connection)
        await book.one(book.promotion(3))
        async with serving(own) as client:
            account, other = "alice", quote("з")
            paths = [f"/v1/accounts/{each}/balance" for each in [account, other] * 5]
            begin_so = await find_accounts(connection, "al", 3)
            balances = await asyncio.gather(*(client.get(path) for path in paths))
            rest = [
                await client.get(f"/v1/accounts/{path}")
                for path in (
                    f"{other}/statement",
                    f"{other}/balance?wait_for=1",
                    f"{other}/requests/{UUID(int=1)}",
                    f"{account}/requests/{other}",
                )
            ]
    finally:
        await connection.close()
        await database.execute(f"drop database {name} with (force)")

    assert ["alice"] == begin_so
    assert [(200, "alice"), (404, None)] * 5 == [(each.status, each.body.get("account_id")) for each in balances]
    assert {"urn:inmail:problem:unknown-account"} == {each.body["type"] for each in balances if each.status == 404}
    assert [(404, "unknown-account")] * 2 == [each.problem for each in rest[:2]]
    assert [(404, "unknown-request")] * 2 == [each.problem for each in rest[2:]]


async def test_an_erased_account_has_a_balance_of_nothing(client: Client, database: Connection) -> None:
    """And says since when."""
    await database.execute("update lots set remaining = 0, open = false")
    await database.execute("update accounts set erased_at = $1", utc_now())
    answer = await client.get("/v1/accounts/alice/balance")

    assert (None, None) == (answer.body["next_allotment_at"], answer.body["changes_at"])

    assert (0, [], 0) == (answer.body["spendable"], answer.body["lots"], answer.body["lot_count"])
    assert answer.body["erased_at"] is not None


async def test_lots_beyond_the_first_are_left_out_and_counted(client: Client, database: Connection) -> None:
    """The sum is of all: an answer has a bound, and says that it has left something out."""
    await database.execute(
        "insert into lots select (r).* from (select jsonb_populate_record(l, jsonb_build_object('lot', n)) as r"
        " from lots as l, generate_series(3, 250) as n where l.origin = 'promotion') as more"
    )
    answer = await client.get("/v1/accounts/alice/balance")

    assert (1 + 249 * 3, 250, 200) == (answer.body["spendable"], answer.body["lot_count"], len(answer.body["lots"]))


async def test_balances_asked_for_at_once_are_each_their_own(client: Client, book: Book) -> None:
    """Many at a time are read together: each gets its own account's, an unknown one its 404."""
    for number in range(1, 30):
        await book.one(book.promotion(number, f"member-{number}"))
    names = [f"member-{number}" for number in range(40)] * 3
    answers = await asyncio.gather(*(client.get(f"/v1/accounts/{name}/balance") for name in names))

    for name, answer in zip(names, answers, strict=True):
        number = int(name.removeprefix("member-"))
        assert ((200, number) if 0 < number < 30 else (404, None)) == (answer.status, answer.body.get("spendable"))


# -- has it changed ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("path", ["balance", "statement", "requests"])
async def test_what_a_client_has_is_not_sent_again_until_a_row_comes(client: Client, book: Book, path: str) -> None:
    """304 without a body; with a new row the answer and another tag."""
    id_ = uuid4()
    await book.one(book.send(id=id_))
    url = f"/v1/accounts/alice/{path}" + (f"/{id_}" if path == "requests" else "")
    first = await client.get(url)
    same = await client.get(url, If_None_Match=first.headers["ETag"])
    await book.decide(book.send(id=id_, recipient_id="somebody-else"))
    new = await client.get(url, If_None_Match=first.headers["ETag"])

    assert (200, 304, None, 200) == (first.status, same.status, same.body, new.status)
    assert first.headers["ETag"] == same.headers["ETag"] != new.headers["ETag"]


async def test_a_conflict_changes_the_tag_though_only_the_newest_are_told(client: Client, book: Book) -> None:
    """A producer that gives all its requests one id: from the 49th conflict on each answer has as many."""
    id_ = uuid4()
    await book.decide(*(book.send(id=id_, recipient_id=f"r-{number}") for number in range(50)))
    url = f"/v1/accounts/alice/requests/{id_}"
    first = await client.get(url)
    await book.decide(book.send(id=id_, recipient_id="another"))
    new = await client.get(url, If_None_Match=first.headers["ETag"])

    assert (200, 200) == (first.status, new.status)
    assert first.body["conflicts"][-1]["sequence"] < new.body["conflicts"][-1]["sequence"]


@pytest.mark.parametrize("path", ["balance", "statement", "requests"])
async def test_a_new_version_of_a_body_changes_its_tag(client: Client, book: Book, path: str) -> None:
    """Whoever has the answer of the version before would not see the member that a version adds, until a row comes."""
    id_ = uuid4()
    await book.one(book.send(id=id_))
    url = f"/v1/accounts/alice/{path}" + (f"/{id_}" if path == "requests" else "")
    tag = (await client.get(url)).headers["ETag"]
    version, _, rest = tag.removeprefix('W/"').partition(".")

    assert version in {body_version(each) for each in (BalanceBody, StatementBody, OutcomeBody)}
    assert 200 == (await client.get(url, If_None_Match=f'W/"{rest}')).status
    assert 200 == (await client.get(url, If_None_Match=f'W/"00000000.{rest}')).status
    assert 304 == (await client.get(url, If_None_Match=tag)).status


def test_a_member_more_is_another_version_of_a_body() -> None:
    """Also of a body within it."""
    lots = create_model("LotBody", __base__=LotBody, color=(str, ...))
    more = create_model("BalanceBody", __base__=BalanceBody, color=(str, ...))
    within = create_model("BalanceBody", __base__=BalanceBody, lots=(list[lots], ...))  # type: ignore[valid-type]

    assert 3 == len({body_version(each) for each in (BalanceBody, more, within)})


async def test_a_lots_end_changes_the_tag_though_no_row_comes(
    client: Client, book: Book, database: Connection, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its credits are gone at its end, long before a tick books it: a tag of the sequence alone would hide it."""
    first = await client.get("/v1/accounts/alice/balance")
    end = utc_now() + timedelta(hours=1)
    await database.execute("update lots set expires_at = $1 where origin = 'promotion'", end)
    before = await client.get("/v1/accounts/alice/balance")
    monkeypatch.setattr(server_reads, "utc_now", lambda: end)
    after = await client.get("/v1/accounts/alice/balance", If_None_Match=before.headers["ETag"])

    assert [6, 6] == [first.body["sequence"], after.body["sequence"]]
    assert 4 == before.body["spendable"]
    assert (200, 1) == (after.status, after.body["spendable"])
    assert before.headers["ETag"] != after.headers["ETag"]
    assert book.offset > 0


# -- no older answer --------------------------------------------------------------------------------------------------


async def test_an_answer_waits_for_the_row_that_the_client_has_read_of(client: Client, book: Book) -> None:
    """As on a replica that lags: the row comes while the request waits."""
    asked = asyncio.create_task(client.get("/v1/accounts/alice/balance?wait_for=7"))
    await asyncio.wait([asked], timeout=0.2)
    waited = not asked.done()
    await book.one(book.send())

    assert waited
    assert (7, 3) == ((await asked).body["sequence"], asked.result().body["spendable"])


@pytest.mark.parametrize("path", ["balance?wait_for=7", "statement?wait_for=7", f"requests/{UUID(int=1)}?wait_for=7"])
async def test_a_row_that_does_not_come_is_told_and_no_older_answer_given(
    settings: Settings, book: Book, path: str
) -> None:
    """503 with Retry-After after the bounded wait; an unknown account may also be one that has not come."""
    async with serving(settings, api_wait_seconds=0.2) as client:
        late = await client.get(f"/v1/accounts/alice/{path}")
        unknown = await client.get(f"/v1/accounts/nobody/{path}")

    assert [(503, "not-yet")] * 2 == [late.problem, unknown.problem]
    assert "1" == late.headers["Retry-After"]
    assert "is at 6" in late.body["detail"]
    assert book.offset > 0


async def test_a_replica_that_lags_is_asked_ever_more_seldom(
    settings: Settings, book: Book, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A thousand requests that wait for it would keep it from catching up, if each asked every 50 ms."""
    looks = 0

    async def count_and_read(connection: Connection, account_id: str) -> int | None:
        nonlocal looks
        looks += 1
        return await read_sequence(connection, account_id)

    monkeypatch.setattr(reader, "read_sequence", count_and_read)
    async with serving(settings, api_wait_seconds=1.5) as client:
        late = await client.get("/v1/accounts/alice/balance?wait_for=7")

    assert (503, "not-yet") == late.problem
    assert 1 < looks <= 9  # pauses of 10, 20, 40, 80, 160, 320, 500 and 370 ms
    assert book.offset > 0


@pytest.mark.parametrize("path", ["balance", "statement", f"requests/{UUID(int=1)}"])
async def test_of_two_replicas_the_one_that_lags_gives_no_older_answer(
    settings: Settings, book: Book, path: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Behind one address: a look found the row on one, and the read that follows may be of the other."""
    looks = 0

    async def read_sequence_of_either(connection: Connection, account_id: str) -> int | None:
        nonlocal looks
        looks += 1
        return 9 if looks % 2 == 0 else await read_sequence(connection, account_id)

    monkeypatch.setattr(reader, "read_sequence", read_sequence_of_either)
    async with serving(settings, api_wait_seconds=1) as client:
        late = await client.get(f"/v1/accounts/alice/{path}?wait_for=9")

    assert looks > 1
    assert (503, "not-yet") == late.problem
    assert book.offset > 0


# -- who may ask ------------------------------------------------------------------------------------------------------


async def test_without_a_token_nothing_is_read(client: Client) -> None:
    """Nor with another scheme, part of it, or its hash."""
    others = ["", "Bearer", "Bearer x", f"Basic {TOKEN}", f"Bearer {TOKEN}x", f"Bearer {hash_token(TOKEN)}"]
    answers = {each: await client.get("/v1/accounts/alice/balance", Authorization=each) for each in others}

    assert dict.fromkeys(others, (401, "unauthorized")) == {each: answers[each].problem for each in others}
    assert [] == [each for each in others if not answers[each].headers["WWW-Authenticate"].startswith("Bearer")]


async def test_two_tokens_hold_at_once(client: Client) -> None:
    """So that one replaces the other without a gap; the document and health need none."""
    answers = [
        await client.get("/v1/accounts/alice/balance", Authorization=f"Bearer {each}") for each in (TOKEN, OLD_TOKEN)
    ]
    open_ = [await client.get(path, Authorization="") for path in ("/openapi.json", "/v1/health")]

    assert [200] * 4 == [each.status for each in (*answers, *open_)]
    assert open_[0].body == openapi()


async def test_without_tokens_only_local_names_are_answered(settings: Settings, book: Book) -> None:
    """A page in a browser of this machine could have its own name point here."""
    async with serving(settings, api_tokens=None, api_without_tokens=True) as client:
        good = await client.get("/v1/accounts/alice/balance", Authorization="")
        named = await client.get("/v1/accounts/alice/balance", Authorization="", Host="evil.example")

    assert 200 == good.status
    assert (421, "wrong-host") == named.problem
    assert book.offset > 0


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({}, "INMAIL_API_TOKENS_FILE, INMAIL_API_TOKENS: one of them is needed"),
        ({"api_without_tokens": True, "api_address": "0.0.0.0"}, "only on loopback"),  # noqa: S104 - is refused
        ({"api_without_tokens": True, "api_tokens": SecretStr("a:" + "0" * 64)}, "only one of them"),
        ({"api_tokens": SecretStr("plain-text-token")}, "expected name:sha256"),
        ({"api_tokens": SecretStr("  # nothing\n")}, "holds no token"),
        ({"api_tokens": SecretStr(f"a:{'0' * 64},a:{'1' * 64}")}, "the name a stands there twice"),
        ({"api_tokens_file": "/there/is/none"}, "cannot be read"),
    ],
)
def test_it_does_not_start_open_by_mistake(changes: dict[str, Any], said: str) -> None:
    """Each wrong setting is named, and never a token's text."""
    with pytest.raises(SettingsError, match=re.escape(said)) as raised:
        api_tokens(load_settings().model_copy(update=changes))

    assert "plain-text" not in str(raised.value)


def test_tokens_come_from_a_file_with_remarks(tmp_path: Path) -> None:
    """A line a token, a remark behind `#`."""
    file = tmp_path / "tokens"
    file.write_text(f"# of the year\ncrm:{hash_token('one')}  # until May\n\nweb:{hash_token('two').upper()}\n")
    tokens = api_tokens(load_settings().model_copy(update={"api_tokens_file": str(file)}))

    assert ["crm", "web", None] == [tokens.client_of(f"bearer {each}") for each in ("one", "two", "three")]


# -- wrong requests ---------------------------------------------------------------------------------------------------


WRONG = {
    "/v1/accounts/nobody/balance": (404, "unknown-account"),
    "/v1/accounts/nobody/statement": (404, "unknown-account"),
    f"/v1/accounts/nobody/requests/{UUID(int=1)}": (404, "unknown-request"),
    f"/v1/accounts/alice/requests/{UUID(int=1)}": (404, "unknown-request"),
    "/v1/accounts/alice/requests/7": (404, "unknown-request"),
    "/v1/accounts/alice/requests/a%0Ab": (400, "bad-parameter"),
    "/v1/accounts/alice/requests/a%FFb": (400, "bad-parameter"),
    f"/v1/accounts/alice/requests/{'a' * 257}": (400, "bad-parameter"),
    "/v1/accounts/alice/requests/7?source=a&source=b": (400, "bad-parameter"),
    "/v1/accounts/alice/requests/7?source=": (400, "bad-parameter"),
    "/v1/accounts/a%00b/balance": (400, "bad-parameter"),
    "/v1/accounts/a%FFb/balance": (400, "bad-parameter"),
    f"/v1/accounts/{'a' * 1001}/balance": (400, "bad-parameter"),
    "/v1/accounts/alice/balance?wait_fro=9": (400, "bad-parameter"),
    "/v1/accounts/alice/statement?%00=&limit=1": (400, "bad-parameter"),
    "/v1/accounts/alice/balance?wait_for=-1": (400, "bad-parameter"),
    "/v1/accounts/alice/balance?wait_for=9223372036854775808": (400, "bad-parameter"),
    "/v1/accounts/alice/balance?wait_for=1&wait_for=2": (400, "bad-parameter"),
    "/v1/accounts/alice/statement?limit=0": (400, "bad-parameter"),
    "/v1/accounts/alice/statement?limit=201": (400, "bad-parameter"),
    "/v1/accounts/alice/statement?after=1&before=3": (400, "bad-parameter"),
    "/v1/accounts/alice/statement?after=%D9%A3": (400, "bad-parameter"),
    "/v1/accounts": (404, "not-found"),
    "/": (404, "not-found"),
}


async def test_a_wrong_request_is_told_what_is_wrong(client: Client) -> None:
    """As problem details, with a status that fits."""
    assert WRONG == {path: (await client.get(_encoded(path))).problem for path in WRONG}


async def test_nothing_can_be_written(client: Client) -> None:
    """No operation takes another method; the answer names those that it takes."""
    methods = ["POST", "PUT", "DELETE", "PATCH"]
    answers = {each: await client.get("/v1/accounts/alice/balance", method=each) for each in methods}

    said = {each: (answer.problem, answer.headers["Allow"]) for each, answer in answers.items()}
    assert dict.fromkeys(methods, ((405, "method-not-allowed"), "GET, HEAD")) == said


async def test_a_fault_of_the_api_is_told_as_every_error_and_logged(
    client: Client, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A client that reads problem details can read this one; only the log has the traceback."""

    async def fail(*_: Any, **__: Any) -> StatementPage:
        raise ValueError("planted")

    monkeypatch.setattr(reader, "read_statement_page", fail)
    with capture_logs() as logs:
        answer = await client.get("/v1/accounts/alice/statement")

    assert (500, "internal") == answer.problem
    assert "planted" not in str(answer.body)
    assert ["request_failed"] == [each["event"] for each in logs if each.get("exc_info")]


# -- the database -----------------------------------------------------------------------------------------------------


async def test_a_database_that_is_away_is_told_in_words_and_its_return_needs_no_restart(
    settings: Settings, book: Book
) -> None:
    """503 with Retry-After on all operations, started without it or cut off from it; the log says it once."""
    url = settings.database_url.get_secret_value()
    line = Line(url)
    await line.mend()
    through = re.sub(r"@[^/]*/", f"@127.0.0.1:{line.port}/", url)
    await line.cut()
    paths = ["balance", "statement", f"requests/{UUID(int=1)}"]
    with capture_logs() as logs:
        async with serving(settings, database_url=SecretStr(through), api_wait_seconds=0.2) as client:

            async def status() -> int:
                return (await client.get("/v1/accounts/alice/balance")).status

            async def answers() -> bool:
                return await status() == 200

            async def no_answers() -> bool:
                return await status() == 503

            away = [await client.get(f"/v1/accounts/alice/{path}") for path in paths]
            health = await client.get("/v1/health")
            await line.mend()
            await eventually(answers, "an answer once the database is there")
            healthy = await client.get("/v1/health")
            await line.cut()
            await eventually(no_answers, "a 503 once it is away again")
            again = [await client.get(f"/v1/accounts/alice/{path}") for path in paths]

    assert [(503, "database-away")] * 7 == [each.problem for each in (*away, health, *again)]
    assert {"2"} == {each.headers["Retry-After"] for each in (*away, *again)}
    assert 200 == healthy.status
    assert str(line.port) not in str([each.body for each in away])
    assert 1 <= len([each for each in logs if each["event"] == "database_answers"]) <= 2
    assert len(logs) < 12
    assert book.offset > 0


async def test_a_database_that_does_not_answer_in_time_ends_the_statement(
    settings: Settings, book: Book, database: Connection
) -> None:
    """503, and the server does not go on working for nobody."""
    async with serving(settings, api_timeout_seconds=0.3) as client, database.transaction():
        await client.get("/v1/accounts/alice/balance")
        await database.execute("lock table accounts in access exclusive mode")
        answer = await client.get("/v1/accounts/alice/balance")

        async def nobody_waits() -> bool:
            await database.execute("select pg_stat_clear_snapshot()")  # a transaction sees what it has seen first
            return not await database.fetchval(
                "select count(*) from pg_stat_activity"
                " where application_name = 'inmail api' and state = 'active' and datname = current_database()"
            )

        await eventually(nobody_waits, "the end of the statement on the server")

    assert answer.problem in {(503, "database-away"), (503, "database-locked")}  # by whether it was asked in time
    assert book.offset > 0


async def test_who_holds_a_lock_is_named_to_each_reader_as_far_as_it_may_know(
    settings: Settings, book: Book, database: Connection
) -> None:
    """A client learns which session it is; whose it is and what ends it, /readyz and the log tell operators."""
    own = {"api_timeout_seconds": 1.0, "health_port": free_port()}
    user, pid = await database.fetchval("select current_user"), database.get_server_pid()
    with capture_logs() as logs:
        async with serving(settings, **own) as client:
            assert 200 == (await client.get("/v1/accounts/alice/balance")).status
            async with database.transaction():
                await database.execute("set local idle_in_transaction_session_timeout = 0")
                await database.execute("lock table lots in access exclusive mode")
                began = f"{await database.fetchval('select now()'):%Y-%m-%d %H:%M:%S} UTC"

                async def is_named() -> bool:
                    return (await client.get("/v1/accounts/alice/balance")).problem == (503, "database-locked")

                await eventually(is_named, "the session that holds the lock")
                answer = await client.get("/v1/accounts/alice/balance")
                health = await client.get("/v1/health")
                await eventually(lambda: _tells_of_silent_tables(own["health_port"]), "what the check met")
                status, ready = await ask(own["health_port"], "/readyz")
            await eventually(lambda: _is_ok(client), "answers once the lock is gone")

    assert f"pid {pid}, idle in transaction since {began}" in answer.body["detail"]
    assert not [word for word in (f"user {user}", "lots", "pg_terminate") if word in answer.body["detail"]]
    told = " ".join(ready["reasons"])
    assert (200, 200) == (health.status, status)  # other reads go on
    wanted = [f"pid {pid} (user {user}", "idle in transaction since", "a lock on lots", f"pg_terminate_backend({pid})"]
    assert [] == [word for word in wanted if word not in told]
    (logged,) = [each for each in logs if each["event"] == "lock_in_the_way"]
    assert f"user {user}" in logged["holder"]
    assert book.offset > 0


async def _tells_of_silent_tables(port: int) -> bool:
    _, ready = await ask(port, "/readyz")
    return any("tables that some reads need do not answer" in reason for reason in ready["reasons"])


@pytest.mark.parametrize(("table", "status"), [("original_ids", 200), ("accounts", 503)])
async def test_only_what_keeps_every_read_makes_a_process_unready(
    settings: Settings, database: Connection, book: Book, table: str, status: int
) -> None:
    """All processes meet the same lock: unready for the sake of few reads, they would serve none at all."""
    port = free_port()

    async def is_met(*, ready: bool) -> bool:
        if status == 200 and not ready:
            return await _tells_of_silent_tables(port)
        return (await ask(port, "/readyz"))[0] == (200 if ready else status)

    async with serving(settings, api_timeout_seconds=0.5, health_port=port) as client:
        await eventually(lambda: is_met(ready=True), "the first check")
        async with database.transaction():
            await database.execute(f"lock table {table} in access exclusive mode")
            await eventually(lambda: is_met(ready=False), "the check that meets the lock")
            found, _ = await ask(port, "/readyz")
            told = (await scrape(port)).value("inmail_ready", worker="api")
            health = await client.get("/v1/health")

    assert (status, status, status == 200) == (found, health.status, told)
    if status == 503:
        assert "2" == health.headers["Retry-After"]
        assert "pid" not in health.body["detail"]
    assert book.offset > 0


async def test_a_lock_that_keeps_no_read_is_not_the_reason(settings: Settings, monkeypatch: pytest.MonkeyPatch) -> None:
    """A read may be slow while somebody keeps writers waiting, or nobody: what no read waits for is no cause."""
    asked = []
    waiting = 0

    async def ask_holders(*arguments: object) -> list[LockHolder]:
        asked.append(arguments)
        return [LockHolder(7, tables=("lots",), waiting=waiting)]

    monkeypatch.setattr(lock_watch, "ask_lock_holders", ask_holders)
    locks = lock_watch.ReadLockWatch(settings.model_copy(update={"api_timeout_seconds": 0.1}))
    watching = asyncio.create_task(locks.watch())

    async def is_asked(times: int) -> bool:
        return len(asked) >= times

    await asyncio.sleep(0)
    nobody_asked = list(asked)
    token = locks.begin()
    await eventually(partial(is_asked, 2), "who holds what a read waits for")
    before = locks.holder
    waiting = 1
    await eventually(partial(is_asked, len(asked) + 2), "the same again")
    after = locks.holder
    locks.end(token)
    watching.cancel()

    assert ([], None) == (nobody_asked, before)
    assert after is not None
    assert 7 == after.pid
    assert {"inmail api"} == {ours for _, ours, _ in asked}


async def test_who_holds_a_lock_is_asked_ever_more_seldom_while_the_answer_is_the_same(
    settings: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Each question is a connection, and a server whose reads are slow may have none to spare."""
    asked: list[float] = []
    pid = 7

    async def ask_holders(*_: object) -> list[LockHolder]:
        asked.append(monotonic())
        return [LockHolder(pid, tables=("lots",), waiting=1)]

    monkeypatch.setattr(lock_watch, "ask_lock_holders", ask_holders)
    locks = lock_watch.ReadLockWatch(settings.model_copy(update={"api_timeout_seconds": 0.1}))
    watching = asyncio.create_task(locks.watch())
    token = locks.begin()

    async def is_asked(times: int) -> bool:
        return len(asked) >= times

    await eventually(partial(is_asked, 6), "the same answer six times")
    holder = locks.holder
    locks.end(token)
    watching.cancel()

    # As if they were seconds: 1, 2, 4, 5 and 5.
    least = [0.05, 0.1, 0.2, 0.25, 0.25]
    assert [] == [gap for gap, bound in zip(map(sub, asked[1:], asked), least, strict=False) if gap < bound - 0.005]
    assert holder is not None


async def _is_ok(client: Client) -> bool:
    return (await client.get("/v1/accounts/alice/balance")).status == 200


async def test_a_process_that_is_being_stopped_answers_and_sends_clients_elsewhere(
    settings: Settings, book: Book
) -> None:
    """It is not healthy any more, and keeps no connection open; what it is asked all the same it answers."""
    stop = asyncio.Event()
    async with serving(settings, stop) as client:
        before = await client.get("/v1/accounts/alice/balance")
        stop.set()

        async def is_unhealthy() -> bool:
            return (await client.get("/v1/health")).status == 503

        await eventually(is_unhealthy, "health that says so")
        health = await client.get("/v1/health")
        after = await client.get("/v1/accounts/alice/balance")

    assert (503, "stopping") == health.problem
    assert (200, None) == (before.status, before.headers.get("Connection"))
    assert (200, "close") == (after.status, after.headers.get("Connection"))
    assert book.offset > 0


async def test_a_database_without_tables_is_told_to_be_migrated(settings: Settings, database: Connection) -> None:
    """503: the client can do nothing, the operator can."""
    await database.execute("drop table journal cascade")
    async with serving(settings) as client:
        assert (503, "not-set-up") == (await client.get("/v1/accounts/alice/balance")).problem


async def test_a_role_with_the_documented_rights_is_enough_and_can_write_nothing(
    settings: Settings, book: Book, database: Connection, connect: Connect
) -> None:
    """The block of docs/api.md, as it stands; without one of its rights the answer is a 503, and the log names it."""
    (block,) = re.findall(
        r"<!-- a test runs this block -->\n```sql\n(.*?)```", (ROOT / "docs" / "api.md").read_text(), re.DOTALL
    )
    await database.execute("drop role if exists inmail_reader")
    await database.execute(block)
    url = settings.database_url.get_secret_value().replace("//postgres@", "//inmail_reader@")
    own = settings.model_copy(update={"database_url": SecretStr(url)})
    id_ = uuid4()
    await book.one(book.send(id=id_))
    try:
        async with serving(own) as client:
            good = [
                (await client.get(f"/v1/accounts/alice/{path}")).status
                for path in ("balance", "statement", f"requests/{id_}")
            ]
            await database.execute("revoke select on lots from inmail_reader")
            with capture_logs() as logs:
                refused = await client.get("/v1/accounts/alice/balance")
        reader = await connect(own)
        with pytest.raises(asyncpg.InsufficientPrivilegeError):
            await reader.execute("update accounts set sequence = 0")
    finally:
        await database.execute("drop owned by inmail_reader; drop role inmail_reader")

    assert [200] * 3 == good
    assert (503, "database-refused") == refused.problem
    assert "permission denied for table lots" in str(logs)


async def test_its_sessions_are_read_only_whoever_it_connects_as(settings: Settings, book: Book) -> None:
    """Also for the owner of the tables: a mistake in a query changes nothing. And a statement has a limit."""
    from infra.postgres import create_reader_pool  # noqa: PLC0415

    async with create_reader_pool(settings) as pool:
        limit = await pool.fetchval("select current_setting('statement_timeout')")
        with pytest.raises(asyncpg.ReadOnlySQLTransactionError):
            await pool.execute("update accounts set sequence = 0")
        kept = await pool.fetchval("select current_setting('statement_timeout')")

    assert ["2s", "2s"] == [limit, kept]
    assert book.offset > 0


# -- the document and the page ----------------------------------------------------------------------------------------


def test_the_committed_document_is_current(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """`make render` writes it; a stale one fails."""
    assert openapi_module.FILE.read_text() == rendered(), "run make render"
    stale = tmp_path / "openapi.json"
    monkeypatch.setattr(openapi_module, "FILE", stale)

    assert 1 == openapi_module.main(["--check"])
    assert "stale" in capsys.readouterr().err
    assert 0 == openapi_module.main([])
    assert 0 == openapi_module.main(["--check"])
    assert rendered() == stale.read_text()


def test_the_document_holds_together() -> None:
    """Every reference leads somewhere; each path parameter is described; the schemas are schemas."""
    document = openapi()
    schemas = document["components"]["schemas"]
    references = set(re.findall(r'"#/components/schemas/(\w+)"', rendered()))

    assert document["openapi"] == "3.1.0"
    assert references <= set(schemas)
    for schema in schemas.values():
        jsonschema.Draft202012Validator.check_schema(schema)
    for path, item in document["paths"].items():
        described = {each["name"] for each in item["get"]["parameters"] if each["in"] == "path"}
        assert described == set(re.findall(r"{(\w+)}", path))


def test_the_page_has_every_kind_of_problem_with_its_status() -> None:
    """A client's author finds what came back."""
    page = (ROOT / "docs" / "api.md").read_text()

    assert [] == [
        kind.name
        for kind in ProblemKind
        if f"| `{kind.urn.removeprefix('urn:inmail:problem:')}` | {kind.value.status} |" not in page
    ]
