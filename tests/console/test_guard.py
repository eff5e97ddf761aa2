"""Access control of the console: the checks of every request, with servers that cannot be reached."""

import socket
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest
from aiohttp import ClientSession, CookieJar
from pydantic import SecretStr

from infra.local.ports import reserve_port
from infra.settings import Settings, SettingsError, load_settings
from tests.console.scene import OPERATOR, READER, serve_test_console
from workers.console.access import Access, Role, TooManyAttemptsError, WrongTokenError, load_access
from workers.console.parameters import BadRequestError, parse_filter, parse_instant, parse_number, parse_options
from workers.console.server import serve_console


@pytest.fixture(scope="module")
async def nowhere() -> AsyncIterator[Settings]:
    """Settings of servers that refuse every connection."""
    closed = reserve_port(None, "nobody")
    place = f"127.0.0.1:{closed.getsockname()[1]}"
    yield load_settings(
        kafka_bootstrap_servers=place, database_url=f"postgresql://{place}/inmail", console_timeout_seconds=2
    )
    closed.close()


@pytest.fixture(scope="module")
async def address(nowhere: Settings) -> AsyncIterator[str]:
    """The address of a console with both tokens."""
    async with serve_test_console(nowhere, console_reader_token=SecretStr(READER)) as served:
        yield served


@pytest.fixture
def listener() -> Iterator[socket.socket]:
    """A socket that is bound to a free port of IPv6's loopback."""
    with socket.socket(socket.AF_INET6) as bound:
        try:
            bound.bind(("::1", 0))
        except OSError:
            pytest.skip("this machine has no IPv6")
        yield bound


@pytest.mark.parametrize("reserved", [True, False])
async def test_an_ipv6_address_is_one_that_a_client_understands(
    nowhere: Settings,
    listener: socket.socket,
    reserved: bool,  # noqa: FBT001
) -> None:
    """In brackets, on a socket that was bound before and on the settings' port."""
    port = listener.getsockname()[1]
    if not reserved:
        listener.close()
    own = nowhere.model_copy(update={"console_address": "::1", "console_port": port})

    async with (
        serve_console(own, listener if reserved else None) as address,
        ClientSession(address) as client,
        client.get("/") as page,
    ):
        assert (f"http://[::1]:{port}", 200) == (address, page.status)


@asynccontextmanager
async def signed_in(address: str, token: str) -> AsyncIterator[tuple[ClientSession, dict[str, str]]]:
    """Sign in; yield the client with its cookie, and the headers of an action."""
    async with ClientSession(
        address, cookie_jar=CookieJar(unsafe=True)
    ) as client:  # unsafe: accepts cookies of an IP address
        given = {"token": token, "name": "maria"}
        async with client.post("/api/session", json=given, headers={"Origin": address}) as answer:
            session = await answer.json()
            assert 200 == answer.status
        yield client, {"Origin": address, "X-Csrf-Token": session["csrf"]}


async def _post(client: ClientSession, headers: dict[str, str], **given: Any) -> tuple[int, str]:
    async with client.post("/api/redrives", headers=headers, **({"json": {}} | given)) as answer:
        return answer.status, (await answer.json())["error"]["code"]


@pytest.mark.parametrize(
    ("change", "expected"),
    [
        ({}, (400, "bad_request")),  # accepted by the guards: only the plan's name is missing
        ({"Origin": None}, (403, "other_origin")),
        ({"Origin": "null"}, (403, "other_origin")),
        ({"Origin": "http://evil.example"}, (403, "other_origin")),
        ({"Origin": "http://127.0.0.1:1"}, (403, "other_origin")),
        ({"Sec-Fetch-Site": "cross-site"}, (403, "other_origin")),
        ({"Sec-Fetch-Site": "same-site"}, (403, "other_origin")),
        ({"X-Csrf-Token": None}, (403, "no_csrf_token")),
        ({"X-Csrf-Token": "another"}, (403, "no_csrf_token")),
        ({"X-Csrf-Token": ""}, (403, "no_csrf_token")),
        ({"Cookie": "inmail_console=1"}, (401, "sign_in")),
        ({"Host": "evil.example"}, (421, "not_our_name")),
        ({"Host": "127.0.0.1.evil.example"}, (421, "not_our_name")),
        ({"Host": "[::1"}, (421, "not_our_name")),
    ],
)
async def test_an_action_is_accepted_only_from_the_consoles_own_page(
    address: str, change: dict[str, str | None], expected: tuple[int, str]
) -> None:
    """A single wrong header is enough for a refusal."""
    async with signed_in(address, OPERATOR) as (client, right):
        if "Cookie" in change:
            client.cookie_jar.clear()
        headers = {name: value for name, value in (right | change).items() if value is not None}

        assert expected == await _post(client, headers)


async def test_an_action_needs_json_and_the_operator(address: str) -> None:
    """The console refuses form data, and actions of a reader's session."""
    async with signed_in(address, OPERATOR) as (client, headers):
        assert (400, "bad_request") == await _post(client, headers, json=None, data={"plan": "x"})
    async with signed_in(address, READER) as (client, headers):
        assert (401, "sign_in") == await _post(client, headers)


@pytest.mark.parametrize("path", ["/api/overview", "/api/lag", "/api/operations", "/api/account?id=a"])
async def test_nothing_is_readable_without_a_token(address: str, path: str) -> None:
    """With a reader's token configured, requests without a token or with a wrong bearer token get 401."""
    async with ClientSession(address) as client:
        statuses = []
        for headers in ({}, {"Authorization": "Bearer wrong-token-wrong"}):
            async with client.get(path, headers=headers) as answer:
                statuses.append(answer.status)

    assert [401, 401] == statuses


async def test_a_bearer_token_allows_reading_but_no_action(address: str) -> None:
    """An action needs a session with a name for the record."""
    bearer = {"Authorization": f"Bearer {OPERATOR}", "Origin": address}
    async with ClientSession(address) as client:
        async with client.get("/api/overview", headers=bearer) as answer:
            assert 200 == answer.status
        assert (401, "sign_in") == await _post(client, bearer)


async def test_every_response_has_security_headers(address: str) -> None:
    """The headers allow only own scripts, no frames, no MIME sniffing, no referrer and no stored data."""
    async with ClientSession(address) as client:
        for path in ("/", "/static/app.js", "/api/session", "/api/nothing"):
            async with client.get(path) as answer:
                policy = answer.headers["Content-Security-Policy"]
                assert "default-src 'self'" in policy
                assert "unsafe" not in policy
                assert "frame-ancestors 'none'" in policy
                assert ("nosniff", "no-referrer") == (
                    answer.headers["X-Content-Type-Options"],
                    answer.headers["Referrer-Policy"],
                )
                assert ("no-store" if path.startswith("/api") else "no-cache") == answer.headers["Cache-Control"]


async def test_no_response_contains_a_secret(nowhere: Settings) -> None:
    """Neither tokens nor the database's password appear, even in errors about unreachable servers."""
    secret = nowhere.database_url.get_secret_value().replace("postgresql://", "postgresql://me:pass-word@")
    async with serve_test_console(nowhere, database_url=SecretStr(secret)) as address, ClientSession(address) as client:
        texts, statuses = "", []
        for path in ("/", "/api/session", "/api/operations", "/api/account?id=a", "/api/topics", "/api/dead-letters"):
            async with client.get(path) as answer:
                texts += await answer.text()
                statuses.append(answer.status)

    assert [200, 200, 503, 503] == statuses[:4]
    assert {503, 504} >= set(statuses[4:])
    assert not [word for word in (OPERATOR, "pass-word") if word in texts]


def test_outside_loopback_a_readers_token_is_required(nowhere: Settings, tmp_path: Path) -> None:
    """Short tokens, equal tokens and unreadable token files are refused too."""

    def access(**changes: Any) -> Access:
        return load_access(nowhere.model_copy(update=changes))

    file = tmp_path / "token"
    file.write_text(f"{READER}\n")
    assert access().open_to_all
    assert not access(console_address="0.0.0.0", console_reader_token_file=str(file)).open_to_all  # noqa: S104
    for wrong in (
        {"console_address": "0.0.0.0"},  # noqa: S104
        {"console_address": "::"},
        {"console_reader_token": SecretStr("short")},
        {"console_reader_token": SecretStr(READER), "console_operator_token": SecretStr(READER)},
        {"console_reader_token_file": str(tmp_path / "none")},
        {"console_reader_token_file": str(file), "console_reader_token": SecretStr(READER)},
    ):
        with pytest.raises(SettingsError, match="INMAIL_CONSOLE_"):
            access(**wrong)


def test_guessing_tokens_is_limited_by_address() -> None:
    """After ten wrong tokens even the right token is refused for a minute: from that address, in IPv6 from its /64."""
    now = [0.0]
    access = Access(READER, None, open_to_all=False, clock=lambda: now[0])
    for nth in range(10):
        for address in ("10.0.0.7", f"2001:db8::{nth:x}"):
            with pytest.raises(WrongTokenError):
                access.role_of("no", address)
    for address in ("10.0.0.7", "::ffff:10.0.0.7", "2001:db8::ffff"):
        with pytest.raises(TooManyAttemptsError):
            access.role_of(READER, address)
    assert Role.READER is access.role_of(READER, "10.0.0.8")
    assert Role.READER is access.role_of(READER, "2001:db8:0:1::")
    now[0] = 61.0

    assert Role.READER is access.role_of(READER, "10.0.0.7")


def test_the_table_of_wrong_tokens_is_bounded() -> None:
    """The table keeps the last thousand addresses."""
    access = Access(READER, None, open_to_all=False, clock=lambda: 0.0)
    for nth in range(1100):
        with pytest.raises(WrongTokenError):
            access.role_of("no", f"10.0.{nth // 256}.{nth % 256}")

    assert 1000 == len(access._wrong_attempts)
    assert "10.0.4.75" in access._wrong_attempts


def test_a_session_ends() -> None:
    """A session ends after twelve hours or at sign-out; without an operator's token nobody becomes an operator."""
    now = [0.0]
    access = Access(None, OPERATOR, open_to_all=True, clock=lambda: now[0])
    key, session = access.sign_in(OPERATOR, "maria", "::1")
    other, _ = access.sign_in(OPERATOR, "otto", "::1")
    assert access.find_session(key) == session
    access.sign_out(other)
    assert Role.READER is access.find_session(other).role
    now[0] = 12 * 3600 + 1

    assert Role.READER is access.find_session(key).role
    with pytest.raises(WrongTokenError):
        Access(None, None, open_to_all=True).role_of("", "::1")


@pytest.mark.parametrize(
    ("check", "given"),
    [
        (parse_filter, {"topic": "another"}),
        (parse_filter, {"reason": "none"}),
        (parse_filter, {"after": "yesterday"}),
        (parse_filter, {"partition": "-1"}),
        (parse_filter, {"account": ["a"]}),
        (parse_filter, {"account": "a" * 2000}),
        (parse_options, {"rate": 0}),
        (parse_options, {"rate": "fast"}),
        (parse_options, {"rate": True}),
        (parse_options, {"again": 1}),
        (parse_options, {"limit": 0}),
        (lambda given: parse_number(given, "n"), {"n": 2**60}),
        (lambda given: parse_number(given, "n"), {"n": 1.5}),
        (lambda given: parse_instant(given, "t"), {"t": "0001-01-01T00:00:00+23:00"}),
    ],
)
def test_an_invalid_parameter_is_named(check: Any, given: dict[str, Any]) -> None:
    """The error begins with the parameter's name."""
    with pytest.raises(BadRequestError, match=f"^{next(iter(given))}: "):
        check(given)
