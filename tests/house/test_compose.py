"""docker-compose.yml, checked without an engine: against the Compose Specification's schema, and for what it promises.

The schema (compose-spec.schema.json, Apache-2.0) is the one in version 2.16.2 of the specification's Go library.
"""

import ast
import json
import os
import re
import shlex
import shutil
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import jsonschema
import psutil
import pytest
import yaml

from infra.local.artifacts import read_lock
from infra.local.bundled_binaries import postgres_install
from infra.local.postgres_server import TUNING
from infra.settings import Settings, load_settings
from tests.house.command_line import parse
from tests.house.image_check import excluded_folders
from tests.house.manifests import BY_KIND
from workers.api.tokens import api_tokens
from workers.console.access import load_access
from workers.console.health import probe_addresses
from workers.ledger.plans import SHIPPED, load_catalogue

ROOT = Path(__file__).parents[2]
SCHEMA = Path(__file__).with_name("compose-spec.schema.json")
WORKERS = ("send", "billing", "expiry", "ticker")


@pytest.fixture(scope="module")
def compose() -> dict[str, Any]:
    """The file as a Compose implementation reads it, variables not yet filled in."""
    return yaml.safe_load((ROOT / "docker-compose.yml").read_text())


def test_it_is_valid_by_the_specification(compose: dict[str, Any]) -> None:
    """Every key is one that Compose knows, with a value of its type."""
    problems = [
        error.message for error in jsonschema.Draft7Validator(json.loads(SCHEMA.read_text())).iter_errors(compose)
    ]

    assert [] == problems


def test_the_schema_would_notice_a_mistake(compose: dict[str, Any]) -> None:
    """The check above can fail."""
    broken = compose | {"services": {"send": {"imagee": "x"}}}

    with pytest.raises(jsonschema.ValidationError):
        jsonschema.validate(broken, json.loads(SCHEMA.read_text()))


@pytest.mark.parametrize("name", WORKERS)
def test_workers_wait_for_migrations_and_topics(compose: dict[str, Any], name: str) -> None:
    """They start when `topics` has succeeded, which starts when `migrate` has."""
    services = compose["services"]

    assert ["worker", name] == services[name]["command"]
    assert {"condition": "service_completed_successfully"} == services[name]["depends_on"]["topics"]
    assert {"condition": "service_completed_successfully"} == services["topics"]["depends_on"]["migrate"]
    assert {"condition": "service_healthy"} == services["migrate"]["depends_on"]["postgres"]


def test_the_doctor_looks_once_topics_are_there(compose: dict[str, Any]) -> None:
    """As the workers, and before them; as in `inmail up`, whatever it finds keeps none of them from starting."""
    service = compose["services"]["doctor"]

    assert ["doctor", "--before-start"] == service["command"]
    assert compose["services"]["send"]["environment"] == service["environment"]
    assert ("no", {"topics"}) == (service["restart"], set(service["depends_on"]))


@pytest.mark.parametrize("name", WORKERS)
def test_workers_are_probed_where_they_answer(compose: dict[str, Any], name: str) -> None:
    """On the port that they are given, and only whether they are alive."""
    service = compose["services"][name]
    probe = f"http://127.0.0.1:{service['environment']['INMAIL_HEALTH_PORT']}/livez"

    assert any(probe in word for word in service["healthcheck"]["test"])
    assert {"migrate", "topics", "doctor"} == {
        each for each, other in compose["services"].items() if other.get("healthcheck") == {"disable": True}
    }


@pytest.mark.parametrize("name", ["kafka", "postgres"])
def test_servers_have_health_checks_and_listen_on_this_machine_only(compose: dict[str, Any], name: str) -> None:
    """A published port without an address would be open to the network."""
    service = compose["services"][name]

    assert "test" in service["healthcheck"]
    assert all(port.startswith("127.0.0.1:") for port in service["ports"])


def test_nothing_is_open_to_the_network(compose: dict[str, Any]) -> None:
    """Neither the servers nor what watches them."""
    published = {name: service["ports"] for name, service in compose["services"].items() if "ports" in service}

    assert {"kafka", "postgres", "prometheus", "grafana", "console", "api"} == set(published)
    assert all(port.startswith("127.0.0.1:") for ports in published.values() for port in ports)


def test_images_are_pinned_and_no_secret_has_a_default(compose: dict[str, Any]) -> None:
    """An image by its version; a password from outside, or an error that names it."""
    text = (ROOT / "docker-compose.yml").read_text()

    assert all(re.search(r":v?\d+\.\d+", service["image"]) for service in compose["services"].values())
    secrets = re.findall(r"\$\{[^}]*(?:PASSWORD|TOKEN)[^}]*\}", text)
    assert {"POSTGRES_PASSWORD", "CONSOLE_READER_TOKEN", "CONSOLE_OPERATOR_TOKEN", "API_TOKENS"} == {
        re.split("[:}]", each)[0].removeprefix("${") for each in secrets
    }
    assert all(re.fullmatch(r"\$\{\w+:\?[^}]+\}", each) for each in secrets)


def test_the_console_is_served_with_tokens_and_asks_each_worker(compose: dict[str, Any]) -> None:
    """It starts with what is set there, beyond loopback, and where the probes of the workers are."""
    given = compose["services"]["console"]["environment"]
    names = {name.removeprefix("INMAIL_").lower() for name in given if name.startswith("INMAIL_")}
    assert names <= set(Settings.model_fields)
    tokens = {name: f"{name}-of-a-test" for name in given if name.endswith("_TOKEN")}
    read = {name.removeprefix("INMAIL_").lower(): value for name, value in (given | tokens).items()}
    settings = load_settings(**{n: v for n, v in read.items() if n.startswith("console_")})

    assert not load_access(settings).open_to_all
    assert load_access(settings).operator_token is not None
    assert {name: f"{name}:{given['INMAIL_HEALTH_PORT']}" for name in WORKERS} == probe_addresses(settings)
    assert compose["services"]["console"]["ports"][0].endswith(f":{settings.console_port}")


def test_the_api_takes_the_token_that_the_head_of_the_file_makes(compose: dict[str, Any], tmp_path: Path) -> None:
    """The lines are run as they stand: the API knows the token by the hash that they write, and serves with it."""
    head = (ROOT / "docker-compose.yml").read_text().partition("\nname:")[0]
    (lines,) = re.findall(r"((?:#   .*\n)+)#   docker compose up", head)
    subprocess.run(["bash", "-euc", lines.replace("#   ", "")], cwd=tmp_path, check=True, timeout=60)
    (asks,) = re.findall(r"# +(.*)curl (-H \".*?\")", head)
    shown = ["bash", "-euc", f"{asks[0]} printf '%s\\n' {asks[1]}"]
    sent = subprocess.run(shown, cwd=tmp_path, check=True, timeout=60, capture_output=True, text=True, env={}).stdout
    made = dict(line.split("=", 1) for line in (tmp_path / ".env").read_text().splitlines())
    given = compose["services"]["api"]["environment"]
    read = {"api_address": given["INMAIL_API_ADDRESS"], "api_tokens": made["API_TOKENS"]}

    assert f"-H\nAuthorization: Bearer {made['API_TOKEN']}\n" == sent
    assert "app" == api_tokens(load_settings(**read)).client_of(f"Bearer {made['API_TOKEN']}")
    assert api_tokens(load_settings(**read)).client_of(f"Bearer {made['CONSOLE_READER_TOKEN']}") is None
    assert compose["services"]["api"]["ports"][0].endswith(f":{Settings.model_fields['api_port'].default}")


def test_commands_of_the_head_leave_alone_what_runs_and_those_of_a_crontab_need_no_folder(
    compose: dict[str, Any],
) -> None:
    """With dependencies `run` starts what has ended: migrations, topics. What a crontab runs, the manifests run too."""
    head = (ROOT / "docker-compose.yml").read_text().partition("\nname:")[0]
    scheduled = {}
    for before, options, rest in re.findall(r"^# +(.*?)docker compose (.*?)run (-.*)$", head, re.MULTILINE):
        words = shlex.split(rest)
        place = [word.startswith("-") for word in words].index(False)
        flags, service, arguments = words[:place], words[place], words[place + 1 :]
        parse(arguments)
        assert {"--rm", "--no-deps"} <= set(flags)
        assert service in compose["services"]
        if schedule := re.fullmatch(r"((?:[\d*,-]+ ){5})", before):
            assert re.fullmatch("-f /.+/docker-compose.yml ", options)
            assert "-T" in flags
            scheduled[schedule[1].strip()] = arguments

    jobs = [job["spec"] for job in BY_KIND["CronJob"].values()]
    containers = [job["jobTemplate"]["spec"]["template"]["spec"]["containers"][0] for job in jobs]
    assert scheduled == {
        job["schedule"]: [each for each in container["args"] if each != "--json"]
        for job, container in zip(jobs, containers, strict=True)
    }
    assert "docker compose run --rm --no-deps send doctor" in head


def test_plans_are_those_of_a_file_of_yours_or_the_shipped_ones(compose: dict[str, Any]) -> None:
    """Every process of ours has both, the path in a container and the file there; an empty path is none."""
    for service in compose["services"].values():
        if not service["image"].startswith("inmail-ledger:"):
            continue
        (mount,) = [each for each in service["volumes"] if "PLANS_FILE" in each]
        default, place = re.findall(r"^\$\{PLANS_FILE:-(\./\S+)\}:(\S+):ro$", mount)[0]
        assert SHIPPED == ROOT / default
        assert f"${{PLANS_FILE:+{place}}}" == service["environment"]["INMAIL_PLANS_FILE"]

    assert load_catalogue() == load_catalogue(load_settings(plans_file="").plans_file)


def test_kafka_is_the_one_of_the_local_stack(compose: dict[str, Any]) -> None:
    """Which it is decides whether a promise is kept: docs/kafka-versions.md."""
    version = read_lock().kafka

    assert f"apache/kafka:{version}" == compose["services"]["kafka"]["image"]
    assert f"({version} in the local stack" in (ROOT / "docs" / "kafka-versions.md").read_text()


def test_postgres_is_the_one_of_the_local_stack(compose: dict[str, Any]) -> None:
    """All tests run on that one."""
    header = (postgres_install() / "include" / "pg_config.h").read_text()
    (version,) = re.findall(r'^#define PG_VERSION "([\d.]+)"$', header, re.MULTILINE)

    assert f"postgres:{version}-trixie" == compose["services"]["postgres"]["image"]


def test_postgres_is_asked_where_others_connect(compose: dict[str, Any]) -> None:
    """On the Unix socket, the server that the image runs for its set-up answers too, and ends."""
    asked = shlex.split(compose["services"]["postgres"]["healthcheck"]["test"][1])

    assert ["pg_isready", "--host", "127.0.0.1"] == asked[:3]


def test_one_service_builds_the_image_and_nobody_pulls_it(compose: dict[str, Any]) -> None:
    """Builds side by side would write one tag; a registry's image of this name would be somebody else's."""
    ours = {name: each for name, each in compose["services"].items() if each["image"].startswith("inmail-ledger:")}

    assert ["migrate"] == [name for name, each in compose["services"].items() if "build" in each]
    assert {"never"} == {each.get("pull_policy") for each in ours.values()}
    assert "migrate" in compose["services"]["topics"]["depends_on"]
    assert all("topics" in each["depends_on"] for name, each in ours.items() if name not in {"migrate", "topics"})


def test_health_checks_are_frequent_at_the_start_only(compose: dict[str, Any]) -> None:
    """Each one starts a Python, or a Java. `start_interval` is refused without a `start_period`."""
    checks = [each["healthcheck"] for each in compose["services"].values() if "test" in each.get("healthcheck", {})]

    assert 10 == len(checks)
    assert {("30s", "2s", "60s")} == {
        tuple(each.get(key) for key in ("interval", "start_interval", "start_period")) for each in checks
    }
    assert "Compose 2.24.1" in (ROOT / "docker-compose.yml").read_text().partition("\nname:")[0]


def test_the_image_has_bytecode_of_all_that_starts() -> None:
    """On a read-only file system each start would compile it again, and each health check what Python comes with."""
    steps = (ROOT / "infra" / "compose" / "Dockerfile").read_text().rpartition("\nFROM python:")[2]
    folders = re.findall(r"^COPY (\w+) \./\1$", steps, re.MULTILINE)
    compiled = re.findall(r"^RUN \S*python -m compileall -q (?:-x \S+ )?(.+)$", steps, re.MULTILINE)
    release = ".".join(steps.split(".")[:2])

    assert {"schemas", "infra", "workers"} == set(folders)
    assert [" ".join(folders), f"/usr/local/lib/python{release}"] == compiled


def test_the_image_s_stop_signal_ends_also_what_serves_without_a_handler() -> None:
    """The first process of a container hears no signal for which it has no handler."""
    name = re.findall(r"^STOPSIGNAL (\w+)$", (ROOT / "infra" / "compose" / "Dockerfile").read_text(), re.MULTILINE)
    if os.geteuid() != 0 or (unshare := shutil.which("unshare")) is None:
        pytest.skip("only root makes a process the first of its kind")
    command = [unshare, "-pf", sys.executable, "-m", "workers.cli", "lag", "--serve", "127.0.0.1:0"]
    away = {"INMAIL_KAFKA_BOOTSTRAP_SERVERS": "127.0.0.1:1", "INMAIL_DATABASE_URL": "postgresql://x@127.0.0.1:1/x"}
    with subprocess.Popen(command, env=os.environ | away, stderr=subprocess.PIPE, text=True) as parent:
        assert parent.stderr is not None
        assert "lag is served" in parent.stderr.readline()
        (first,) = psutil.Process(parent.pid).children()
        first.send_signal(signal.Signals[name[-1]])
        try:
            assert 0 == parent.wait(10)
        except subprocess.TimeoutExpired:
            first.kill()
            raise


def test_what_the_image_copies_is_sent_to_its_build() -> None:
    """Of all that lies in the repository, .dockerignore lets only that through."""
    lines = (ROOT / "infra" / "compose" / "Dockerfile").read_text().splitlines()
    copied = {line.split()[1] for line in lines if line.startswith("COPY ") and "--from" not in line}
    ignored = (ROOT / ".dockerignore").read_text().split()

    assert copied == {line.removeprefix("!") for line in ignored if line.startswith("!")}


def test_workers_have_longer_to_stop_than_they_take(compose: dict[str, Any]) -> None:
    """SIGKILL must not come before a drain can have ended."""
    grace = int(compose["services"]["send"]["stop_grace_period"].removesuffix("s"))

    assert grace > Settings.model_fields["drain_seconds"].default * 1.5


def test_postgres_is_tuned_as_on_the_local_stack(compose: dict[str, Any]) -> None:
    """What the bench measures is what compose runs."""
    program, *arguments = compose["services"]["postgres"]["command"]
    assert "postgres" == program
    assert {"-c"} == set(arguments[::2])
    assert TUNING == dict(each.split("=") for each in arguments[1::2])


def test_nothing_that_the_image_has_imports_what_it_leaves_out() -> None:
    """Every verb ended with an error of an import: only the start of `inmail` was tried in such a folder."""
    left_out = [folder.replace("/", ".") for folder in excluded_folders() if (ROOT / folder).is_dir()]
    imported = {
        f"{path.relative_to(ROOT)} imports {module}"
        for path in (
            *(ROOT / "infra").rglob("*.py"),
            *(ROOT / "schemas").rglob("*.py"),
            *(ROOT / "workers").rglob("*.py"),
        )
        for statement in ast.parse(path.read_text()).body
        if isinstance(statement, ast.ImportFrom)
        for module in [statement.module or ""]
        if any(f"{module}.".startswith(f"{each}.") for each in left_out)
        and not any(path.is_relative_to(ROOT / each.replace(".", "/")) for each in left_out)
    }

    assert left_out
    assert set() == imported
