"""What Prometheus and Grafana are given: rules that fire and stay quiet, runbooks behind links, dashboards that fit."""

import json
import re
import subprocess
from collections.abc import Iterator
from functools import cache
from pathlib import Path
from typing import Any

import pytest
import yaml

from tests.house.manifests import BY_KIND
from tests.tools import tool
from workers.telemetry.dashboards import DASHBOARDS
from workers.telemetry.grafana import SOURCE
from workers.telemetry.metric_table import TABLE

ROOT = Path(__file__).parents[2]
PROMETHEUS = ROOT / "infra" / "prometheus"
GRAFANA = ROOT / "infra" / "grafana"
NOT_OURS = {"up", "process_cpu_seconds_total", "process_resident_memory_bytes"}  # Prometheus', and its client's
# Labels that scrapes give a series, or that its kind has.
SCRAPED = {"job", "instance", "le"}
LABELS = {metric.name: set(metric.labels) for metric in TABLE} | {name: set[str]() for name in NOT_OURS}
_OURS = r"\b(?:(?:inmail|process|kafka)_[a-z0-9_]*|inmail:[a-z0-9_:]*|up)\b"


def _rules(file: str) -> list[dict[str, Any]]:
    groups = yaml.load((PROMETHEUS / "rules" / file).read_text(), yaml.CSafeLoader)["groups"]
    return [rule for group in groups for rule in group["rules"]]


ALERTS = {rule["alert"]: rule for rule in _rules("alerts.yml")}
RECORDED = {rule["record"]: rule["expr"] for rule in _rules("recording.yml")}
EXPRESSIONS = [
    *(rule["expr"] for rule in ALERTS.values()),
    *RECORDED.values(),
    *(query for view in DASHBOARDS for row in view.rows.values() for panel in row for query in panel.queries.values()),
    *(each["metadata"]["query"] for scaled in BY_KIND["ScaledObject"].values() for each in scaled["spec"]["triggers"]),
]


def _run(*command: str) -> None:
    done = subprocess.run(command, cwd=PROMETHEUS, capture_output=True, text=True, check=False)
    assert 0 == done.returncode, done.stdout + done.stderr


def test_prometheus_takes_its_configuration() -> None:
    """And every rule in it."""
    _run(tool("promtool"), "check", "config", "prometheus.yml")


def test_prometheus_takes_the_alertmanager_that_the_comment_shows(tmp_path: Path) -> None:
    """Without the signs of a comment, the lines are those of the configuration."""
    text = (PROMETHEUS / "prometheus.yml").read_text()
    (comment,) = re.findall(r"^# alerting:(?:\n# .+)+", text, re.MULTILINE)
    shown = text.replace(comment, re.sub("^# ", "", comment, flags=re.MULTILINE))
    (tmp_path / "prometheus.yml").write_text(shown)

    assert ["alertmanagers"] == list(yaml.safe_load(shown)["alerting"])
    _run(tool("promtool"), "check", "config", "--syntax-only", str(tmp_path / "prometheus.yml"))


def test_in_a_cluster_prometheus_reads_the_same_rules_under_the_same_job_as_often() -> None:
    """Alerts and dashboards ask for the job by its name, and rest on the time between two scrapes."""
    compose, cluster = (
        yaml.safe_load((PROMETHEUS / file).read_text()) for file in ("prometheus.yml", "kubernetes.yml")
    )
    keys = ("global", "rule_files")

    assert [compose[key] for key in keys] == [cluster[key] for key in keys]
    assert [["inmail"]] * 2 == [[job["job_name"] for job in each["scrape_configs"]] for each in (compose, cluster)]


@cache
def _pods() -> dict[str, dict[str, Any]]:
    """Return the pod of each deployment of the manifests."""
    paths = sorted((ROOT / "infra" / "kubernetes").glob("*.yaml"))
    documents = [each for path in paths for each in yaml.safe_load_all(path.read_text())]
    return {each["metadata"]["name"]: each["spec"]["template"] for each in documents if each["kind"] == "Deployment"}


def _discovered(name: str, pod: dict[str, Any], phase: str) -> Iterator[dict[str, Any]]:
    """Yield what Prometheus finds of a pod: a target for each port, its annotations with underscores in their names."""
    annotations = pod["metadata"].get("annotations", {})
    labels = {"__meta_kubernetes_pod_name": name, "__meta_kubernetes_pod_phase": phase}
    for key, value in annotations.items():
        labels[f"__meta_kubernetes_pod_annotation_{re.sub('[^a-zA-Z0-9_]', '_', key)}"] = value
    for port in pod["spec"]["containers"][0]["ports"]:
        number = str(port["containerPort"])
        found = labels | {"__meta_kubernetes_pod_container_port_number": number}
        yield {"targets": [f"{name}:{number}"], "labels": found}


def test_in_a_cluster_prometheus_scrapes_every_pod_that_has_metrics(tmp_path: Path) -> None:
    """At the port of its annotation, under its name; neither the console, nor a pod that was evicted."""
    configuration = yaml.safe_load((PROMETHEUS / "kubernetes.yml").read_text())
    (job,) = configuration["scrape_configs"]
    (discovery,) = job.pop("kubernetes_sd_configs")  # Debian builds Prometheus without: its rules are tried by hand
    namespace = yaml.safe_load((ROOT / "infra/kubernetes/kustomization.yaml").read_text())["namespace"]
    assert {"role": "pod", "namespaces": {"names": [namespace]}} == discovery

    job["static_configs"] = [each for name, pod in _pods().items() for each in _discovered(name, pod, "Running")]
    job["static_configs"] += _discovered("evicted", _pods()["inmail-send"], "Failed")
    (tmp_path / "prometheus.yml").write_text(yaml.safe_dump(configuration | {"rule_files": []}))
    command = [tool("promtool"), "check", "service-discovery", "--timeout=2s", "prometheus.yml", "inmail"]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=True)
    kept = [each["labels"] for each in json.loads(done.stdout) if each.get("labels")]

    expected = {(name, f"{name}:8080", "inmail") for name in _pods() if name != "inmail-console"}
    assert expected == {(each["instance"], each["__address__"], each["job"]) for each in kept}
    assert len(expected) == len(kept)


@cache
def _test_files() -> list[dict[str, Any]]:
    """Return the files with the alerts' tests."""
    return [yaml.load(path.read_text(), yaml.CSafeLoader) for path in (PROMETHEUS / "tests").glob("*.yml")]


def _alert_tests(name: str) -> dict[str, Any]:
    """Return the file with the tests of an alert, and of its tests these."""
    found = [
        file | {"tests": tests}
        for file in _test_files()
        for tests in [[each for each in file["tests"] if each["alert_rule_test"][0]["alertname"] == name]]
        if tests
    ]
    assert 1 == len(found)
    return found[0]


def _write_tests(folder: Path, name: str, expression: str) -> Path:
    """Write the tests of an alert, and rules in which it has an expression; return the tests' file.

    Its rules are itself and what it asks for: all the rules would be evaluated at each step of each test.
    """
    alert = {"name": "one", "rules": [ALERTS[name] | {"expr": expression}]}
    recorded = [rule for rule in _rules("recording.yml") if rule["record"] in expression]
    for each in ("rules", "tests"):
        (folder / each).mkdir(parents=True)
    recording = {"groups": [{"name": "recorded", "rules": recorded}]}
    (folder / "rules" / "recording.yml").write_text(yaml.safe_dump(recording))
    (folder / "rules" / "alerts.yml").write_text(yaml.safe_dump({"groups": [alert]}))
    file = folder / "tests" / "alerts.yml"
    file.write_text(yaml.safe_dump(_alert_tests(name)))
    return file


def test_alerts_fire_and_stay_quiet(tmp_path: Path) -> None:
    """As their tests say."""
    files = [_write_tests(tmp_path / name, name, alert["expr"]) for name, alert in ALERTS.items()]

    _run(tool("promtool"), "test", "rules", *map(str, files))


@pytest.mark.whole
def test_alerts_fire_and_stay_quiet_beside_all_the_others() -> None:
    """By the files as they are, which an operator runs."""
    files = [f"tests/{path.name}" for path in (PROMETHEUS / "tests").glob("*.yml")]
    assert 2 == len(files)
    _run(tool("promtool"), "test", "rules", *files)


def test_an_alert_has_tests_both_ways() -> None:
    """One without would not be missed by the checks before and after this one."""
    assert {name: {f"{name} fires", f"{name} stays quiet"} for name in ALERTS} == {
        name: {each["name"] for each in _alert_tests(name)["tests"]} for name in ALERTS
    }


@pytest.mark.whole
def test_an_alert_that_never_or_always_fired_would_be_noticed(tmp_path: Path) -> None:
    """Each has a test that it fires and one that it stays quiet: without its condition one of them fails."""
    never_or_always = {"never": "vector(1) > 2", "always": "vector(1)"}
    files = {
        str(_write_tests(tmp_path / name / what, name, expression)): (name, what)
        for name, alert in ALERTS.items()
        for what, expression in ({"as it is": alert["expr"]} | never_or_always).items()
    }
    done = subprocess.run(
        [tool("promtool"), "test", "rules", *files],
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        check=False,
    )
    said = dict(re.findall(r"Unit Testing: +(.+)\s+(SUCCESS|FAILED)", done.stdout))

    assert {file: "SUCCESS" if what == "as it is" else "FAILED" for file, (_, what) in files.items()} == said


@pytest.mark.parametrize("name", ALERTS)
def test_an_alert_says_what_is_wrong_and_leads_to_its_section_of_the_runbook(name: str) -> None:
    """Meaning, where to look, what to do; and how urgent it is."""
    alert = ALERTS[name]
    file, _, anchor = alert["annotations"]["runbook_url"].partition("#")
    sections = re.split(r"^## ", (ROOT / file).read_text(), flags=re.MULTILINE)[1:]
    found = {section.splitlines()[0].lower(): section for section in sections}

    assert set(ALERTS) == {section.splitlines()[0] for section in sections}
    assert alert["labels"]["severity"] in ("page", "ticket")
    assert f"*{alert['labels']['severity']}*" in found[anchor]
    assert all(f"**{word}.**" in found[anchor] for word in ("Meaning", "Look", "Do"))
    assert alert["annotations"]["summary"].endswith(".")


def _metric(name: str) -> str:
    """Return the metric that a series is of."""
    return re.sub("_(bucket|count|sum)$", "", name)


def _series(text: str) -> Iterator[tuple[str, set[str]]]:
    """Yield the metric of each series, or selector of series, in an expression, with the labels in its braces."""
    bare = re.sub('"[^"]*"', '""', text)
    for name, labels in re.findall(rf"({_OURS})(?:{{([^}}]*)}})?", re.sub(r"\b(by|on|ignoring) *\([^)]*\)", "", bare)):
        yield name if name in LABELS else _metric(name), set(re.findall(r"(\w+) *(?:=|!)", labels))


def test_every_name_that_is_asked_for_is_in_the_table() -> None:
    """A metric or a label renamed would leave a rule that never fires, or workers that are never scaled."""
    known = LABELS | {name: {"worker", "stage", "operation", "code", "class", "reason"} for name in RECORDED}
    asked = [each for expression in EXPRESSIONS for each in _series(expression)]

    assert len({name for name, _ in asked}) > 30
    assert [] == [each for each in asked if each[0] not in known]
    assert [] == [(name, labels) for name, labels in asked if not labels <= known[name] | SCRAPED]


def test_the_series_of_the_alerts_tests_are_ours() -> None:
    """By name and with all labels: after a renaming an alert would stay quiet, and its test would not tell."""
    texts = {each["series"] for file in _test_files() for test in file["tests"] for each in test["input_series"]}
    found = {text: each for text in texts for each in _series(text)}

    assert texts == set(found)
    assert {} == {
        text: labels - SCRAPED for text, (name, labels) in found.items() if labels - SCRAPED != LABELS.get(name)
    }


def test_prometheus_scrapes_every_process_of_compose() -> None:
    """By the port that it answers on. The console is a page, and has no metrics."""
    services = yaml.safe_load((ROOT / "docker-compose.yml").read_text())["services"]
    (job,) = yaml.safe_load((PROMETHEUS / "prometheus.yml").read_text())["scrape_configs"]
    answering = {
        f"{name}:{service['environment']['INMAIL_HEALTH_PORT']}"
        for name, service in services.items()
        if service["image"].startswith("inmail-ledger")
        and service.get("healthcheck") != {"disable": True}
        and name != "console"  # which has nothing to tell but of others
    }

    assert answering == set(job["static_configs"][0]["targets"])


def test_grafana_finds_the_dashboards_and_what_they_ask() -> None:
    """The data source by its uid, the files where they are mounted."""
    (source,) = yaml.safe_load((GRAFANA / "provisioning/datasources/prometheus.yml").read_text())["datasources"]
    (provider,) = yaml.safe_load((GRAFANA / "provisioning/dashboards/inmail.yml").read_text())["providers"]
    grafana = yaml.safe_load((ROOT / "docker-compose.yml").read_text())["services"]["grafana"]
    boards = {path.name: json.loads(path.read_text()) for path in (GRAFANA / "dashboards").glob("*.json")}
    panels = [panel for board in boards.values() for panel in board["panels"] if panel["type"] != "row"]

    scraped = yaml.safe_load((PROMETHEUS / "prometheus.yml").read_text())["global"]["scrape_interval"]
    assert scraped == source["jsonData"]["timeInterval"]  # by which Grafana chooses the least step and rate interval
    assert SOURCE == source["uid"]
    assert f"./infra/grafana/dashboards:{provider['options']['path']}:ro" in grafana["volumes"]
    assert {f"{view.uid}.json" for view in DASHBOARDS} == set(boards)
    assert sum(len(row) for view in DASHBOARDS for row in view.rows.values()) == len(panels)
    assert {SOURCE} == {panel["datasource"]["uid"] for panel in panels}
    assert Path(grafana["environment"]["GF_DASHBOARDS_DEFAULT_HOME_DASHBOARD_PATH"]).name in boards
