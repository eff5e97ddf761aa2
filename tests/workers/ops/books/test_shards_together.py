"""Questions that no account is given to are asked of every server that holds the books."""

import asyncio
import json
from uuid import UUID, uuid4

import pytest
from aiokafka import TopicPartition
from pydantic import SecretStr
from typer.testing import CliRunner

from infra.kafka.clients import partition_of
from infra.postgres import Connection
from infra.settings import Settings
from infra.shards import RepeatedServerError
from schemas.catalogue import BILLING_EVENTS
from schemas.envelope import encode
from tests.workers.letters import set_aside
from tests.workers.two_servers import PARTITIONS, SILENT, PlacedBook, TwoServers, ask_alone, lanes_stand, set_state
from workers.cli import app
from workers.ops.books.account_search import search_accounts
from workers.ops.books.balance import read_balance
from workers.ops.books.original_ids import UnknownRequestError
from workers.ops.books.recent_outcomes import OutcomeCount, merge_outcomes, recent_outcomes
from workers.ops.books.shards import Holdings, ServerError, ask_each_server, server_name
from workers.ops.books.whole_books import PartOfBooksError
from workers.ops.dead_letters.letters import LetterFilter
from workers.ops.dead_letters.redrive import VERB, redrive
from workers.ops.dead_letters.redrive_plan import RedriveOptions, plan_redrive
from workers.ops.dead_letters.report import count_dead_letters, report_dead_letters
from workers.ops.numbers import all_holdings, servers_of_numbers
from workers.ops.operations import (
    Intent,
    OngoingOperation,
    Operator,
    RefusedError,
    find_operations,
    recorded_operation,
)
from workers.ops.prune import plan_prune
from workers.ops.trace.in_servers import read_books
from workers.ops.trace.trace import Question, about, trace


def _own(number: int) -> str:
    """Return an account with a number, of this test alone: topics outlive tests."""
    while partition_of((account := f"a-{uuid4().hex[:12]}").encode(), PARTITIONS) != number:
        pass
    return account


@pytest.fixture
async def books(servers: TwoServers) -> list[tuple[str, PlacedBook, UUID]]:
    """On each server an account, and the request that gave it credits."""
    written = []
    for connection, account in ((servers.first, _own(0)), (servers.second, _own(3))):
        book = PlacedBook(connection)
        grant = book.promotion(5, account)
        await book.one(grant)
        await book.one(book.send(account))
        await lanes_stand(connection, book)
        written.append((account, book, grant.id))
    return written


async def _inmail(settings: Settings, *arguments: str) -> tuple[int, str, str]:
    """Run the command, and return its exit code, its output and what it says on standard error."""
    env = {"INMAIL_KAFKA_BOOTSTRAP_SERVERS": settings.kafka_bootstrap_servers} | {
        f"INMAIL_DATABASE_{name}": value.get_secret_value()
        for name, value in (("URL", settings.database_url), ("SHARDS", settings.database_shards))
    }
    done = await asyncio.to_thread(CliRunner().invoke, app, arguments, env=env)
    return done.exit_code, done.stdout, done.stderr


async def test_accounts_of_all_servers_are_searched(
    servers: TwoServers, books: list[tuple[str, PlacedBook, UUID]]
) -> None:
    """Each once, in order, though a move has left a copy of one; never fewer than there are without a word."""
    (one, _, _), (other, _, _) = books
    await servers.first.execute("insert into accounts (account_id, partition) values ($1, 3)", other)

    assert sorted([one, other]) == await search_accounts(servers.both, "a-", 10)
    assert sorted([one, other])[:1] == await search_accounts(servers.both, "a-", 1)
    with pytest.raises(ServerError, match="localhost:1/inmail"):
        await search_accounts(servers.without_second(), "a-", 10)


def _counts(found: list[OutcomeCount]) -> list[tuple[str, str, int]]:
    return [(each.worker, each.code, each.count) for each in found]


async def test_the_latest_outcomes_of_all_servers_are_counted_together(
    servers: TwoServers, books: list[tuple[str, PlacedBook, UUID]]
) -> None:
    """As one server would count them, had it all lanes."""
    await books[1][1].one(books[1][1].send(books[1][0]))
    await lanes_stand(servers.second, books[1][1])

    async def read(connection: Connection, holdings: Holdings) -> list[OutcomeCount]:
        return await recent_outcomes(connection, 100, holdings)

    found = merge_outcomes((await ask_each_server(servers.both, read)).answers)

    assert [("billing", "granted", 2), ("send", "charged", 3)] == [
        (each.worker, each.code, each.count) for each in found
    ]
    await set_state(servers.first, 0, "left", servers.second)
    left = merge_outcomes((await ask_each_server(servers.both, read)).answers)
    assert [("billing", "granted", 1), ("send", "charged", 2)] == [
        (each.worker, each.code, each.count) for each in left
    ]


async def test_a_trace_finds_a_request_on_any_server(
    servers: TwoServers,
    books: list[tuple[str, PlacedBook, UUID]],
    cluster: Settings,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """By its id alone, or by its account; as its own server alone tells it."""
    ask_alone(monkeypatch)
    assert cluster.database_url == servers.both.database_url
    for (account, _, request), alone in zip(books, servers.alone, strict=True):
        for question in (Question(request, None), Question(None, account), Question(request, account)):
            expected = await trace(alone, question)
            found = await trace(servers.both, question)

            assert expected.traces
            assert expected.summary() == found.summary()
    with pytest.raises(UnknownRequestError):
        await trace(servers.both, about(str(uuid4()), None, limit=10))


@pytest.mark.whole
async def test_one_server_of_several_is_asked_for_its_operations_only(
    servers: TwoServers, books: list[tuple[str, PlacedBook, UUID]]
) -> None:
    """What it does not have another may: a request would be unknown, an account not found, a letter not answered."""
    alone, (_, (_, _, request)) = servers.alone[0], books
    for question in (
        read_books(alone, Question(request, None)),
        search_accounts(alone, "a-", 10),
        report_dead_letters(alone, operation=1),
    ):
        with pytest.raises(PartOfBooksError, match="holds only some of the partition numbers: name all servers"):
            await question

    assert [] == (await find_operations(alone, 5)).operations


async def test_copies_of_a_request_are_traced_once(
    servers: TwoServers, books: list[tuple[str, PlacedBook, UUID]]
) -> None:
    """Where its account's number is held."""
    account, _, request = books[1]
    await set_state(servers.first, 3, "held")
    copy = PlacedBook(servers.first)
    await copy.one(copy.promotion(5, account, id=request))
    await lanes_stand(servers.first, copy)
    assert 2 == len((await read_books(servers.both, Question(request, None))).cases)

    await set_state(servers.first, 3, "left", servers.second)
    found = await read_books(servers.both, Question(request, None))
    assert [account] == [case.account_id for case in found.cases]
    # A lane's row that a move has copied, or not deleted yet, says nothing of what is decided.
    await servers.second.execute(
        "insert into lanes (consumer_group, topic, partition, epoch, next_offset)"
        " values ('inmail-send', 'inmail.send-requests', 0, 1, 999)"
    )
    decided = (await read_books(servers.both, Question(request, None))).decided
    assert (1, 2) == tuple(decided[TopicPartition("inmail.send-requests", number)] for number in (0, 3))


async def test_a_trace_says_which_server_may_have_more(
    servers: TwoServers, books: list[tuple[str, PlacedBook, UUID]], cluster: Settings
) -> None:
    """What others have is shown; what nobody has is not called unknown; an account's trace needs its own server."""
    assert cluster.database_url == servers.both.database_url
    away = servers.without_second()
    (account, _, request), (other, _, elsewhere) = books

    shown = await _inmail(away, "trace", str(request), "--limit", "10")
    whole = await _inmail(away, "trace", "--account", account, "--limit", "10")
    for question in (Question(elsewhere, None, limit=10), Question(None, other)):
        with pytest.raises(ServerError, match="localhost:1/inmail"):
            await trace(away, question)

    assert (3, True) == (shown[0], account in shown[1])
    assert "Postgres cannot be reached at localhost:1 (" in shown[2]
    assert (0, True, False) == (whole[0], account in whole[1], "localhost:1" in whole[2])


async def test_dead_letters_have_the_answers_of_the_servers_of_their_accounts(
    servers: TwoServers, books: list[tuple[str, PlacedBook, UUID]], cluster: Settings
) -> None:
    """One of a server that is away has no history, and is not sent again for that."""
    assert cluster.database_url == servers.both.database_url
    for account, book, _ in books:
        event = book.promotion(1, account)
        await book.one(event)
        await set_aside(servers.both, BILLING_EVENTS, account, [encode(event)], "unknown_plan")
    ours = [LetterFilter(account=account) for account, _, _ in books]

    for selection in ours:
        told = await report_dead_letters(servers.both, selection)
        ((_, history),) = told.letters
        assert history is not None
        assert history.answer is not None
        assert (history.answer.code, told.silent_servers) == ("granted", ())
        assert {"answered": 1} == dict((await plan_redrive(servers.both, selection, RedriveOptions())).refused)
    away = servers.without_second()
    told = await report_dead_letters(away, ours[1])
    assert [None] == [history for _, history in told.letters]
    assert ["localhost:1/inmail"] == [server_name(each.settings) for each in told.silent_servers]
    plans = [await plan_redrive(away, selection, RedriveOptions()) for selection in ours]
    assert [{"answered": 1}, {"silent_server": 1}] == [dict(each.refused) for each in plans]


@pytest.mark.whole
async def test_a_list_of_dead_letters_says_which_server_may_have_more_of_their_histories(
    servers: TwoServers, books: list[tuple[str, PlacedBook, UUID]], cluster: Settings
) -> None:
    """On standard error and by its exit code, as a trace does; one letter in full as well. What is known is shown."""
    assert cluster.database_url == servers.both.database_url
    away = servers.without_second()
    (account, book, _), (other, _, _) = books
    event = book.promotion(1, account)
    await book.one(event)
    for owner, set_aside_event in ((account, event), (other, book.promotion(1, other))):
        await set_aside(servers.both, BILLING_EVENTS, owner, [encode(set_aside_event)], "unknown_plan")
    (letter, _), *_ = (await report_dead_letters(away, LetterFilter(account=other))).letters

    answered = await _inmail(away, "dead-letters", "list", "--account", account, "--json")
    told = [
        await _inmail(away, "dead-letters", *arguments)
        for arguments in (("list", "--account", other), ("show", letter.place))
    ]
    both = await _inmail(servers.both, "dead-letters", "list", "--account", other)

    assert "granted" == json.loads(answered[1])[0]["became"]["answer"]["code"]
    assert [(3, True)] * 3 == [(code, "unknown_plan" in out) for code, out, _ in (answered, *told)]
    assert all("Postgres cannot be reached at localhost:1 (" in err for *_, err in (answered, *told))
    assert (0, "") == (both[0], both[2])


async def test_dead_letters_have_the_answers_of_others_while_the_server_of_operations_is_away(
    servers: TwoServers, books: list[tuple[str, PlacedBook, UUID]], cluster: Settings
) -> None:
    """One without an answer may have been sent back, which is noted there: its history is not known."""
    (account, _, _), (other, book, _) = books
    answered, unanswered = (book.promotion(1, other) for _ in range(2))
    await book.one(answered)
    for owner, event in ((account, books[0][1].promotion(1, account)), (other, answered), (other, unanswered)):
        await set_aside(servers.both, BILLING_EVENTS, owner, [encode(event)], "unknown_plan")
    second = servers.alone[1].database_url.get_secret_value()
    away = cluster.model_copy(
        update={"database_url": SecretStr(SILENT), "database_shards": SecretStr(f"{SILENT} {second}")}
    )

    told = [await report_dead_letters(away, LetterFilter(account=each)) for each in (account, other)]
    traced = await trace(away, Question(None, other, limit=10))
    nobody = await report_dead_letters(
        away.model_copy(update={"database_shards": SecretStr(f"{SILENT} {SILENT.replace('/inmail', '/other')}")}),
        LetterFilter(account=account),
    )

    assert [None] == [history for _, history in told[0].letters]
    assert {False, True} == {history is None for _, history in told[1].letters}
    assert [None, None] == [each.silent for each in told]
    assert {False, True} == {history is None for _, history in traced.letters}
    for report in (told[1], traced):
        assert ["localhost:1/inmail"] == [server_name(each.settings) for each in report.silent_servers]
    assert [None] == [history for _, history in nobody.letters]
    assert "localhost:1/inmail" in (nobody.silent or "")


async def test_a_redrive_knows_of_those_that_are_noted_on_another_server(
    servers: TwoServers, books: list[tuple[str, PlacedBook, UUID]], cluster: Settings
) -> None:
    """Two operators have homes of their own: one does not send what the other has sent, nor beside him."""
    assert cluster.database_url == servers.both.database_url
    account, book, _ = books[0]
    events = [encode(book.promotion(1, account)) for _ in range(2)]
    await set_aside(servers.both, BILLING_EVENTS, account, events, "unknown_plan")
    selection, options = LetterFilter(account=account), RedriveOptions(rate=5000)
    other = servers.both.model_copy(update={"database_url": servers.alone[1].database_url})
    plan = await plan_redrive(servers.both, selection, options)

    async def send(home: Settings) -> OngoingOperation:
        return await redrive(home, selection, options, plan, who=Operator("ops-1", "test"), stop=asyncio.Event())

    for home, elsewhere in ((servers.both, other), (other, servers.both)):
        async with recorded_operation(elsewhere, Intent(VERB, "ops-2", "first", {}, {})) as first:
            with pytest.raises(RefusedError, match=f"another redrive is under way .operation {first.number} of ops-2"):
                await send(home)
    one, two = await send(other), await send(servers.both)

    told = await report_dead_letters(servers.both, selection)
    assert [{"sent": 2, "not_sent": {}, "left": 0}, {"sent": 0, "not_sent": {"redriven_before": 2}, "left": 0}] == [
        one.result,
        two.result,
    ]
    assert {"redriven_before": 2} == (await plan_redrive(servers.both, selection, options)).refused
    assert [[one.number]] * 2 == [
        [each.operation for each in history.redrives] for _, history in told.letters if history
    ]
    assert 2 == len((await report_dead_letters(servers.both, operation=one.number)).letters)
    away = await plan_redrive(servers.without_second(), selection, options)
    assert ["localhost:1/inmail"] == [server_name(each.settings) for each in away.silent]
    for question in (report_dead_letters, count_dead_letters):  # the first operation is noted on the second server
        with pytest.raises(ServerError, match="localhost:1/inmail"):
            await question(servers.without_second(), operation=one.number)
    assert not await count_dead_letters(servers.without_second(), operation=two.number)
    assert 2 == sum((await count_dead_letters(servers.both, operation=one.number)).values())


@pytest.mark.whole
async def test_one_server_by_two_addresses_answers_nothing_twice(
    servers: TwoServers, books: list[tuple[str, PlacedBook, UUID]]
) -> None:
    """Whatever asks all servers refuses, also where one account's server is looked for."""
    (account, _, request), _ = books
    wrong = servers.repeated()
    questions = [
        search_accounts(wrong, "a-", 10),
        read_books(wrong, Question(request, None)),
        read_balance(wrong, account),
        all_holdings(wrong),
        servers_of_numbers(wrong, [0]),
        plan_prune(wrong),
    ]

    for each in questions:
        with pytest.raises(RepeatedServerError, match=f"{server_name(servers.alone[0])} and .* lead to one server"):
            await each
