"""The pods of the manifests: what they may, who reaches them, how they are probed, and what runs by the calendar."""

import json
import re
from typing import Any
from urllib.parse import urlsplit

import pytest
import yaml

from tests.house.manifests import BY_KIND, FOLDER, containers, pods
from workers.api.server import _SHUTDOWN_SECONDS
from workers.error_table import ERROR_TABLE, Exit
from workers.ops.books.audit_mark import AuditUnderWayError

_VOLUMES = {"configMap", "csi", "downwardAPI", "emptyDir", "ephemeral", "persistentVolumeClaim", "projected", "secret"}
_GRACE_SECONDS = 30  # a cluster's default


@pytest.mark.parametrize("name", pods())
def test_a_pod_is_what_its_namespace_lets_in(name: str) -> None:
    """By https://kubernetes.io/docs/concepts/security/pod-security-standards/#restricted, which its labels enforce."""
    pod = pods()[name]["spec"]
    context = pod["securityContext"]
    assert context["runAsNonRoot"]
    assert "RuntimeDefault" == context["seccompProfile"]["type"]
    assert not {"hostNetwork", "hostPID", "hostIPC"} & set(pod)
    assert {kind for volume in pod.get("volumes", ()) for kind in volume if kind != "name"} <= _VOLUMES
    for container in (*pod.get("initContainers", ()), *pod["containers"]):
        assert {"allowPrivilegeEscalation", "readOnlyRootFilesystem", "capabilities"} == set(
            container["securityContext"]
        )
        assert container["securityContext"]["allowPrivilegeEscalation"] is False
        assert container["securityContext"]["readOnlyRootFilesystem"]
        assert {"drop": ["ALL"]} == container["securityContext"]["capabilities"]
        assert all("hostPort" not in port for port in container.get("ports", ()))
    (namespace,) = BY_KIND["Namespace"].values()
    modes = {f"pod-security.kubernetes.io/{mode}": "restricted" for mode in ("enforce", "warn", "audit")}
    assert modes.items() <= namespace["metadata"]["labels"].items()
    assert namespace["metadata"]["name"] == yaml.safe_load((FOLDER / "kustomization.yaml").read_text())["namespace"]


@pytest.mark.parametrize("name", pods())
def test_a_pod_is_of_the_images_user_and_group_and_says_what_it_is(name: str) -> None:
    """With a user and no group, a container's primary group is root's."""
    dockerfile = (FOLDER.parent / "compose" / "Dockerfile").read_text()
    ((user, group),) = re.findall(r"^USER (\d+):(\d+)$", dockerfile, re.MULTILINE)
    context = pods()[name]["spec"]["securityContext"]
    assert (int(user), int(group)) == (context["runAsUser"], context.get("runAsGroup"))
    assert pods()[name]["spec"]["automountServiceAccountToken"] is False
    labels = pods()[name]["metadata"]["labels"]
    assert "inmail-ledger" == labels["app.kubernetes.io/part-of"]
    assert "app.kubernetes.io/component" in labels


def test_the_namespace_is_there_before_what_is_put_into_it() -> None:
    """With its labels: one that `kubectl create namespace` made would let any pod in."""
    head = (FOLDER / "kustomization.yaml").read_text()
    assert head.index("apply -f infra/kubernetes/namespace.yaml") < head.index("create secret")
    assert "create namespace" not in head


def _policies() -> dict[str, tuple[dict[str, str], dict[str, str], list[int]]]:
    """Return of each policy the labels of the pods, of the namespaces that may connect to them, and the ports."""
    found = {}
    for name, policy in BY_KIND["NetworkPolicy"].items():
        (rule,) = policy["spec"]["ingress"]
        (source,) = rule["from"]
        assert {"namespaceSelector"} == set(source)
        assert ["Ingress"] == policy["spec"]["policyTypes"]
        found[name] = (
            policy["spec"]["podSelector"].get("matchLabels", {}),
            source["namespaceSelector"]["matchLabels"],
            [each["port"] for each in rule["ports"]],
        )
    return found


def test_nobody_reads_the_health_pages_but_the_cluster_and_prometheus() -> None:
    """They need no token, and name sessions of Postgres. The policy is about every pod, and refuses what it lacks."""
    pods_of_it, monitoring, ports = _policies()["inmail-metrics-from-monitoring"]
    (trigger,) = BY_KIND["ScaledObject"]["inmail-send"]["spec"]["triggers"]
    host = urlsplit(trigger["metadata"]["serverAddress"]).hostname or ""
    assert {} == pods_of_it
    assert {"kubernetes.io/metadata.name": host.split(".")[1]} == monitoring
    assert {int(each["metadata"]["annotations"]["prometheus.io/port"]) for each in _scraped()} == set(ports)


def _scraped() -> list[dict[str, Any]]:
    return [each for each in pods().values() if "annotations" in each["metadata"]]


@pytest.mark.parametrize(
    ("policy", "service", "label"),
    [
        ("inmail-api-from-applications", "api", "inmail-api=client"),
        ("inmail-console-from-proxy", "console", "inmail-console=proxy"),
    ],
)
def test_a_service_is_reached_from_namespaces_that_have_its_label(policy: str, service: str, label: str) -> None:
    """On its own port, which the head of the file says how to open."""
    selected, sources, ports = _policies()[policy]
    assert BY_KIND["Service"][service]["spec"]["selector"] == selected
    assert [each["port"] for each in BY_KIND["Service"][service]["spec"]["ports"]] == ports
    assert dict([label.split("=")]) == sources
    assert f"{label}\n" in (FOLDER / "network.yaml").read_text()


@pytest.mark.parametrize("name", ["inmail-metrics", "inmail-lag"])
def test_an_observer_is_asked_whether_it_is_ready_and_not_for_all_that_it_knows(name: str) -> None:
    """Of 5,000 partitions the metrics are megabytes of text, four times a minute."""
    (container,) = pods()[name]["spec"]["containers"]
    assert ("/livez", "/readyz") == tuple(
        container[probe]["httpGet"]["path"] for probe in ("livenessProbe", "readinessProbe")
    )


def test_the_apis_two_pods_are_apart_and_one_that_ends_gets_no_more_requests() -> None:
    """A node that goes takes one of them. The endpoints are withdrawn before the socket closes, in the grace time."""
    template = pods()["inmail-api"]
    (spread,) = template["spec"].get("topologySpreadConstraints", [{}])
    (container,) = template["spec"]["containers"]
    assert "kubernetes.io/hostname" == spread["topologyKey"]
    assert spread["labelSelector"]["matchLabels"].items() <= template["metadata"]["labels"].items()
    program, seconds = container["lifecycle"]["preStop"]["exec"]["command"]  # clusters of 1.29 know no other way
    assert "sleep" == program
    assert 0 < int(seconds) + 2 * _SHUTDOWN_SECONDS < _GRACE_SECONDS  # requests, then connections


def test_the_log_of_a_migration_that_failed_stays() -> None:
    """The cluster deletes a pod that it restarts too often, with its log. One that it does not restart stays."""
    (job,) = BY_KIND["Job"].values()
    assert "Never" == job["spec"]["template"]["spec"]["restartPolicy"]
    assert job["spec"]["backoffLimit"] < 6  # a cluster's default
    assert job["spec"]["ttlSecondsAfterFinished"] >= 24 * 3600


@pytest.mark.parametrize(
    ("name", "option", "often", "days"),
    [("inmail-audit", "--new", "every night", "2-31 * *"), ("inmail-audit-whole", "--mark", "every month", "1 * *")],
)
def test_the_audits_of_the_docs_are_run(name: str, option: str, often: str, days: str) -> None:
    """As often as the page says, by whom may write the mark, one at a time; what one has found is not asked again.

    One that met another is: by the code that it ends with. They are of different days, so that they never meet.
    """
    page = (FOLDER.parents[1] / "docs" / "operate.md").read_text()
    (line,) = [each for each in page.splitlines() if each.startswith(f"    inmail audit {option}")]
    spec = BY_KIND["CronJob"].get(name, {}).get("spec", {})
    assert often in line
    assert "Forbid" == spec["concurrencyPolicy"]
    assert re.fullmatch(rf"\d+ \d+ {re.escape(days)}", spec["schedule"])
    (container,) = pods()[name]["spec"]["containers"]
    assert ["audit", option, "--json"] == container["args"]
    assert {"secretRef": {"name": "inmail-database-operator"}} in container["envFrom"]
    job = spec["jobTemplate"]["spec"]
    (rule,) = job["podFailurePolicy"]["rules"]
    assert ("FailJob", container["name"]) == (rule["action"], rule["onExitCodes"]["containerName"])
    assert [Exit.NO, Exit.WRONG_USAGE] == rule["onExitCodes"]["values"]
    met = next(kind for kind in ERROR_TABLE if AuditUnderWayError in kind.classes)
    assert met.exit not in rule["onExitCodes"]["values"]
    assert job["backoffLimit"] >= 6  # a cluster's default: the waits before them add up to ten minutes
    assert "Never" == job["template"]["spec"]["restartPolicy"]


def test_what_ticks_leave_is_pruned_each_month_by_who_may_and_a_refusal_is_not_asked_again() -> None:
    """As the page of retention says; one that was drained goes on. Not beside the audit of everything."""
    spec = BY_KIND["CronJob"].get("inmail-prune", {}).get("spec", {})
    assert "Forbid" == spec["concurrencyPolicy"]
    assert re.fullmatch(r"\d+ \d+ (?!1 )\d+ \* \*", spec["schedule"])
    (container,) = pods()["inmail-prune"]["spec"]["containers"]
    assert ["prune", "--by", "cronjob", "--because", "monthly", "--yes"] == container["args"][:6]
    assert {"secretRef": {"name": "inmail-database-operator"}} in container["envFrom"]
    (rule,) = spec["jobTemplate"]["spec"]["podFailurePolicy"]["rules"]
    assert ("FailJob", container["name"]) == (rule["action"], rule["onExitCodes"]["containerName"])
    assert [Exit.NO, Exit.WRONG_USAGE] == rule["onExitCodes"]["values"]
    assert "(../infra/kubernetes/prune.yaml)" in (FOLDER.parents[1] / "docs" / "retention.md").read_text()


@pytest.mark.parametrize("name", pods())
def test_a_pod_has_a_login_of_kafka_files_of_tls_and_a_plan_catalogue_where_there_are_any(name: str) -> None:
    """A role's secret counts over the login of all. Without them a pod starts as it always did."""
    pod = pods()[name]["spec"]
    (files,) = [volume["projected"] for volume in pod["volumes"] if volume["name"] == "files"]
    assert [
        {"secret": {"name": "inmail-files", "optional": True}},
        {"configMap": {"name": "inmail-plans", "optional": True}},
    ] == files["sources"]
    for container in (*pod.get("initContainers", ()), *pod["containers"]):
        assert {"name": "files", "mountPath": "/etc/inmail", "readOnly": True} in container["volumeMounts"]
        settings, kafka, *secrets = container["envFrom"]
        assert {"configMapRef": {"name": "inmail-settings"}} == settings
        assert {"secretRef": {"name": "inmail-kafka", "optional": True}} == kafka
        assert all(each["secretRef"]["name"] != "inmail-kafka" for each in secrets)


def test_every_container_says_what_it_takes() -> None:
    """A request for both, a limit of memory; no limit of CPU, which would slow lanes that have room beside them."""
    wants = [json.dumps(each["resources"], sort_keys=True) for each in containers()]
    shape = re.compile(r'\{"limits": \{"memory": "\d+Mi"\}, "requests": \{"cpu": "\d+m", "memory": "\d+Mi"\}\}')
    assert [] == [each for each in wants if not shape.fullmatch(each)]
