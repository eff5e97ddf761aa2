"""Some of the documented rights on a broker with logins, TLS and an authorizer; `make rights` takes away each."""

import asyncio
import json
from collections.abc import Iterator

import asyncpg
import pytest
from aiohttp import ClientSession
from pydantic import SecretStr

from infra.kafka.rights import Operation, Resource, Right
from infra.local.ports import reserve_port
from infra.settings import SaslMechanism, load_settings
from tests.rights.console import ask_console, names_in_console
from tests.rights.database import DatabaseUser
from tests.rights.privileges import Privilege, lacks_without, names_privilege
from tests.rights.secured import as_user, grant
from tests.rights.site import Site, names, open_site, prepare
from tests.rights.table import DOCUMENT, render, render_balances
from tests.whole import whole_but
from tests.workers.api.served import serving
from tests.workers.command import run
from workers.commands.running import Exit
from workers.console.server import serve_console
from workers.rights import RIGHTS


@pytest.fixture(scope="module")
def servers(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Site]:
    """A broker that wants a login, and a database."""
    with open_site(tmp_path_factory.mktemp("site")) as site:
        yield site


@pytest.fixture(scope="module")
async def site(servers: Site) -> Site:
    """The same with topics, tables and decided requests: made by users that have exactly their documented rights."""
    await prepare(servers)
    return servers


TAKEN = {
    "worker": Right(Operation.READ, Resource.TOPIC, "inmail.send-results"),
    "worker ticker": Right(Operation.WRITE, Resource.TOPIC, "inmail.expiry-ticks"),
    "topics plan": Right(Operation.DESCRIBE_CONFIGS, Resource.TOPIC, "inmail.dead-letters"),
    "dead-letters redrive": Right(Operation.WRITE, Resource.TOPIC, "inmail.send-requests"),
    "metrics": Right(Operation.DESCRIBE, Resource.TOPIC, "inmail.billing-events"),
    "trace": Right(Operation.READ, Resource.TOPIC, "inmail.send-requests"),
    "results": Right(Operation.READ, Resource.TOPIC, "inmail.credit-events"),
    "transactions end": Right(Operation.DESCRIBE, Resource.TOPIC, "__transaction_state"),
}


@pytest.mark.parametrize("command", whole_but(TAKEN, "worker", "metrics", "trace"))
async def test_a_documented_right_that_is_missing_is_named(site: Site, command: str) -> None:
    """With what it is on and whose it is, and before anything is done."""
    if command not in ("worker", "worker ticker"):
        await site.add(command)
    async with site.without(command, TAKEN[command]) as settings:
        said = await site.run(command, settings)

    assert names(command, TAKEN[command], settings, said), said


@pytest.mark.whole
async def test_a_doctor_with_the_documented_rights_finds_nothing_wrong(site: Site) -> None:
    """The rights table of the topic of balances lacked one: whoever asks before the workers start would not start."""
    said = await site.run("doctor", await site.add("doctor"))

    assert (Exit.DONE, 0) == (said.code, said.out.count("\nwrong ")), said


@pytest.mark.whole
async def test_a_right_on_transactional_ids_is_missed_when_it_is_used(site: Site) -> None:
    """Kafka tells of DESCRIBE, which WRITE includes: with it alone, a worker starts and then names WRITE."""
    (right,) = [
        each for each in RIGHTS["worker"] if each.resource is Resource.TRANSACTIONAL_IDS and "send" in each.name
    ]
    user = site.user("worker").kafka_sasl_username or ""
    describe = right._replace(operation=Operation.DESCRIBE)
    await grant(site.administrator, user, [describe])
    async with site.without("worker", right) as settings:
        said = await site.run("worker", settings)

    assert names("worker", right, settings, said), said


@pytest.mark.whole
async def test_a_user_may_log_in_with_plain(site: Site) -> None:
    """One that was given nothing is told each right that it lacks."""
    plain = as_user(site.administrator, site.authority, "plain", SaslMechanism.PLAIN)

    said = await site.run("results", plain)

    assert all(names("results", right, plain, said) for right in RIGHTS["results"]), said


PRIVILEGES = {
    "dead-letters list": (DatabaseUser.READER, "select"),
    "dead-letters redrive": (DatabaseUser.OPERATOR, "insert"),
}


@pytest.mark.parametrize("command", whole_but(PRIVILEGES, "dead-letters redrive"))
async def test_a_privilege_that_is_missing_in_postgres_is_named(site: Site, command: str) -> None:
    """With the table and the user, and as the statement that grants it."""
    user, privilege = PRIVILEGES[command]
    owner = site.as_database_user(site.administrator, DatabaseUser.OWNER).database_url.get_secret_value()
    settings = await site.add(command)
    connection = await asyncpg.connect(owner)
    await connection.execute(f"revoke {privilege} on redriven from {user}")
    try:
        said = await site.run(command, settings)
    finally:
        await connection.execute(f"grant {privilege} on redriven to {user}")
        await connection.close()

    expected = f"does not let user {user} do this: `grant {privilege.upper()} on redriven to {user}`"
    assert (Exit.UNREACHABLE, True) == (said.code, expected in said.err), said


@pytest.mark.whole
async def test_a_privilege_of_a_command_that_changes_something_is_named(site: Site) -> None:
    """Also where the command needs nothing on Kafka, and so is not in that table."""
    privilege = Privilege("insert", "clock_decisions")

    said = await lacks_without(site, "clock accept", privilege)

    assert names_privilege("clock accept", privilege, said), said


@pytest.mark.whole
async def test_creating_a_schema_is_a_privilege_that_is_named(site: Site) -> None:
    """What is refused is then no table, but the database."""
    await site.add("replay rebuild")
    privilege = Privilege("create", "database site")

    said = await lacks_without(site, "replay rebuild", privilege)

    assert names_privilege("replay rebuild", privilege, said), said


REFUSED = {
    "a wrong password": ({"kafka_sasl_password": SecretStr("guessed")}, "set INMAIL_KAFKA_SECURITY_PROTOCOL and"),
    "an authority that nobody trusts": ({"kafka_ssl_ca_file": None}, "set INMAIL_KAFKA_SSL_CA_FILE to the authority"),
}


@pytest.mark.parametrize("what", whole_but(REFUSED, "a wrong password"))
async def test_whom_the_broker_does_not_let_in_is_told_what_to_set(site: Site, what: str) -> None:
    """Not that the broker cannot be reached; a worker ends with it as well, instead of waiting for a broker."""
    wrong, words = REFUSED[what]
    stranger = site.user("worker").model_copy(update=wrong)

    said, worker = await asyncio.gather(site.run("results", stranger), site.run("worker", stranger))

    assert (Exit.UNREACHABLE, True) == (said.code, words in said.err), said
    assert (Exit.UNREACHABLE, True) == (worker.code, words in worker.err), worker


async def test_the_console_names_the_right_that_a_page_lacks(site: Site) -> None:
    """In its answer to the page, as the command line does; with the right the page has its dead letters."""
    settings = (await site.add("console")).model_copy(update={"console_reader_token": SecretStr("r" * 24)})
    right = Right(Operation.READ, Resource.TOPIC, "inmail.dead-letters")
    async with serve_console(settings, reserve_port(None, "a test")) as address, ClientSession(address) as session:
        bearer = {"Authorization": f"Bearer {'r' * 24}"}
        async with site.without("console", right):
            refused = await (await session.get("/api/dead-letters", headers=bearer)).json()
        given = await (await session.get("/api/dead-letters", headers=bearer)).json()

    assert "rights" == refused["error"]["code"]
    assert f"does not let user console do what `inmail console` needs: grant it {right}" in refused["error"]["text"]
    assert "error" not in given


@pytest.mark.whole
async def test_the_consoles_pages_of_all_groups_name_the_right_that_they_lack(site: Site) -> None:
    """What is sampled for all pages says so too, and not only that Kafka refused."""
    settings, right = await site.add("console"), Right(Operation.DESCRIBE, Resource.GROUP, "inmail-billing")

    async with site.without("console", right):
        said = await ask_console(site, "console", right, settings)

    assert names_in_console(right, settings, said), said


@pytest.mark.whole
async def test_a_consoles_operator_is_told_the_right_that_an_action_lacks(site: Site) -> None:
    """Before it begins: the operation that was to go on is no further, and no other is on record."""
    command = "console operator"
    settings, operator = await site.add("dead-letters redrive"), await site.add(command)
    redriven = await site.run("dead-letters redrive", settings)
    right = Right(Operation.WRITE, Resource.TOPIC, "inmail.billing-events")

    before = await run(settings, "operations", "list", "--json")
    async with site.without(command, right):
        said = await ask_console(site, command, right, operator)
    after = await run(settings, "operations", "list", "--json")

    assert 0 == redriven.code, redriven
    assert names_in_console(right, operator, said), said
    assert len(json.loads(before.out)) == len(json.loads(after.out))


@pytest.mark.whole
async def test_the_read_api_needs_a_reader_of_the_database_and_nothing_on_kafka(site: Site) -> None:
    """Its user may select, and has no login at the brokers."""
    settings = site.as_database_user(load_settings(), DatabaseUser.READER)

    async with serving(settings) as client:
        answer = await client.get("/v1/accounts/alice/balance")

    assert 200 == answer.status, answer


def test_the_documented_rights_are_those_of_the_table() -> None:
    """docs/operate.md has the table as it is in the code."""
    document = DOCUMENT.read_text(encoding="utf-8")
    assert render() in document
    assert render_balances() in document
