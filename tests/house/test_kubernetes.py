"""The manifests: against the schemas of a cluster, and against what the programs are."""

import re
import shlex
import subprocess
from pathlib import Path
from typing import Any

import jsonschema
import kubernetes_validate
import pytest
import yaml

from infra.settings import Settings
from tests.house.command_line import parse
from tests.house.manifests import BY_KIND, DOCUMENTS, FOLDER, containers
from tests.tools import tool
from tests.whole import whole_but
from workers.ops.lag import Status

CLUSTERS = ("1.29", "1.37")  # the oldest and the newest that the schemas at hand are tried for

_COUNT = {"type": "integer", "minimum": 0}
_RULES = {
    "type": "object",
    "additionalProperties": False,
    "properties": {
        "stabilizationWindowSeconds": {"type": "integer", "maximum": 3600},
        "policies": {
            "type": "array",
            "items": {
                "type": "object",
                "additionalProperties": False,
                "required": ["type", "value", "periodSeconds"],
                "properties": {"type": {"enum": ["Pods", "Percent"]}, "value": _COUNT, "periodSeconds": _COUNT},
            },
        },
    },
}
# KEDA's own schema is a file of its release; these are the members that are used here, as its documentation has them:
# https://keda.sh/docs/latest/reference/scaledobject-spec/ and .../scalers/prometheus/. Without those that are about
# scaling to 0 alone: beside a least number of replicas they say what never happens.
SCALED_OBJECT = {
    "type": "object",
    "additionalProperties": False,
    "required": ["scaleTargetRef", "triggers"],
    "properties": {
        "scaleTargetRef": {
            "type": "object",
            "required": ["name"],
            "additionalProperties": False,
            "properties": {"name": {}},
        },
        "minReplicaCount": _COUNT,
        "maxReplicaCount": _COUNT,
        "advanced": {
            "type": "object",
            "additionalProperties": False,
            "properties": {
                "horizontalPodAutoscalerConfig": {
                    "type": "object",
                    "additionalProperties": False,
                    "properties": {
                        "behavior": {
                            "type": "object",
                            "additionalProperties": False,
                            "properties": {"scaleUp": _RULES, "scaleDown": _RULES},
                        }
                    },
                }
            },
        },
        "triggers": {
            "type": "array",
            "items": {
                "type": "object",
                "additionalProperties": False,
                "required": ["type", "metadata"],
                "properties": {
                    "type": {"const": "prometheus"},
                    "metricType": {"enum": ["AverageValue", "Value"]},
                    "metadata": {
                        "type": "object",
                        "required": ["serverAddress", "query", "threshold"],
                        "properties": {"activationThreshold": False},
                        "additionalProperties": {"type": "string"},
                    },
                },
            },
        },
    },
}


@pytest.mark.parametrize("name", [name for name in DOCUMENTS if "Kustomization" not in name and "Scaled" not in name])
@pytest.mark.parametrize("cluster", whole_but(CLUSTERS, CLUSTERS[-1]))
def test_a_manifest_is_what_a_cluster_takes(name: str, cluster: str) -> None:
    """Strictly: a member that is misspelt is passed over by a cluster, and found here."""
    kubernetes_validate.validate(DOCUMENTS[name], cluster, strict=True)


def test_a_misspelt_member_is_found() -> None:
    """The check bites."""
    broken = yaml.safe_load((FOLDER / "send.yaml").read_text().replace("minReadySeconds", "minReadySecond"))
    with pytest.raises(kubernetes_validate.ValidationError):
        kubernetes_validate.validate(broken, CLUSTERS[0], strict=True)


def test_scaling_is_what_keda_takes() -> None:
    """By the members of its documentation; no replicas beside it, which would fight it at each deployment."""
    for scaled in BY_KIND["ScaledObject"].values():
        jsonschema.validate(scaled["spec"], SCALED_OBJECT)
        target = BY_KIND["Deployment"][scaled["spec"]["scaleTargetRef"]["name"]]
        assert "replicas" not in target["spec"]
        assert scaled["spec"]["minReplicaCount"] > 0
        partitions = BY_KIND["ConfigMap"]["inmail-settings"]["data"]["INMAIL_TOPIC_PARTITIONS"]
        assert scaled["spec"]["maxReplicaCount"] == int(partitions)
        assert {"Value"} == {each["metricType"] for each in scaled["spec"]["triggers"]}  # seconds are not shared


def _decides(deployment: dict[str, Any]) -> bool:
    """Return whether a deployment is of a worker that decides; the ticker decides nothing."""
    (container,) = deployment["spec"]["template"]["spec"]["containers"]
    return container["args"][0] == "worker" and container["args"][1] != "ticker"


def test_the_head_of_scaling_stops_all_workers_and_starts_them_again() -> None:
    """KEDA never leaves fewer than its least number, unless it is told to pause: a restore would race with workers."""
    head = (FOLDER / "scaling.yaml").read_text().partition("\napiVersion")[0]
    commands = [shlex.split(line) for line in re.findall(r"^# +kubectl (.+)$", head, re.MULTILINE)]
    workers = {name for name, each in BY_KIND["Deployment"].items() if _decides(each)}
    scaled = [(each[4:-1], each[-1]) for each in commands if each[2] == "scale"]
    paused = [(each[4], each[5]) for each in commands if each[2] == "annotate"]

    assert {"inmail"} == {each[1] for each in commands if each[0] == "-n"}
    assert [(sorted(workers), "--replicas=0"), (sorted(workers), "--replicas=2")] == [
        (sorted(names), count) for names, count in scaled
    ]
    (name,) = BY_KIND["ScaledObject"]
    annotation = "autoscaling.keda.sh/paused-replicas"
    assert [(name, f"{annotation}=0"), (name, f"{annotation}-")] == paused


_LAG = 'inmail_lag_seconds{{consumergroup="{}", topic="inmail.send-requests", partition="{}"}}'
_STATUS = (
    'inmail_lag_status{{consumergroup="{}", topic="inmail.send-requests", partition="{}", inmail_lag_status="{}"}}'
)


def _lags(**lanes: tuple[Status, float]) -> dict[str, float]:
    """Return the observer's series where `send_0` is partition 0 of the group inmail-send."""
    series = {"inmail_lag_looked_timestamp_seconds": 1_800_000_000.0}
    for lane, (status, seconds) in lanes.items():
        worker, _, partition = lane.partition("_")
        series[_LAG.format(f"inmail-{worker}", partition)] = seconds
        series |= {_STATUS.format(f"inmail-{worker}", partition, each): float(each is status) for each in Status}
    return series


def _check_scaling(folder: Path, *cases: tuple[list[float], dict[str, float]]) -> None:
    """Compare what Prometheus answers to the query of scaling.yaml, for series, with what is expected."""
    (trigger,) = BY_KIND["ScaledObject"]["inmail-send"]["spec"]["triggers"]
    query = trigger["metadata"]["query"]
    rules = {"groups": [{"name": "one", "rules": [{"record": "asked", "expr": query}]}]}
    (folder / "rules.yml").write_text(yaml.safe_dump(rules))
    tests = [
        {
            "interval": "15s",
            "input_series": [{"series": name, "values": f"{value}x8"} for name, value in series.items()],
            "promql_expr_test": [
                {
                    "expr": "asked",
                    "eval_time": "1m",
                    "exp_samples": [{"labels": "asked", "value": value} for value in expected],
                }
            ],
        }
        for expected, series in cases
    ]
    (folder / "test.yml").write_text(
        yaml.safe_dump({"rule_files": ["rules.yml"], "evaluation_interval": "15s", "tests": tests})
    )
    command = [tool("promtool"), "test", "rules", "test.yml"]
    done = subprocess.run(command, cwd=folder, capture_output=True, text=True, check=False)
    assert 0 == done.returncode, done.stdout + done.stderr


def test_only_lanes_that_more_workers_would_help_scale(tmp_path: Path) -> None:
    """What an error holds, or another group, counts as read, however old it grows; lanes beside it as they are."""
    helped = {Status.OK, Status.SLOW, Status.REWOUND, Status.STOPPED}
    cases = [
        ([60.0 if status in helped else beside], _lags(send_0=(status, 60.0), send_1=(Status.OK, beside)))
        for status in Status
        for beside in (0.0, 7.0)
    ]

    _check_scaling(tmp_path, *cases)


def test_other_groups_do_not_scale_the_send_worker_and_no_answer_is_none(tmp_path: Path) -> None:
    """KEDA keeps the number of workers without an answer; before the group is there the answer is 0."""
    _check_scaling(
        tmp_path,
        ([0.0], _lags(billing_0=(Status.SLOW, 60.0))),
        ([7.0], _lags(billing_0=(Status.SLOW, 60.0), send_0=(Status.SLOW, 7.0))),
        ([], {}),
    )


def test_every_file_is_applied() -> None:
    """What stands in the folder stands in the list."""
    listed = yaml.safe_load((FOLDER / "kustomization.yaml").read_text())["resources"]
    assert sorted(listed) == sorted(path.name for path in FOLDER.glob("*.yaml") if path.name != "kustomization.yaml")


def test_settings_and_arguments_are_known() -> None:
    """A setting or a command that does not exist would end each pod at its start."""
    known = {f"INMAIL_{name.upper()}" for name in Settings.model_fields}
    assert set(BY_KIND["ConfigMap"]["inmail-settings"]["data"]) <= known
    for container in containers():
        assert {each["name"] for each in container.get("env", ())} <= known
        parse(container["args"])
    with pytest.raises(Exception, match="--servee"):
        parse(["metrics", "--servee"])


def test_settings_that_are_commented_out_are_known_and_name_files_that_the_head_makes() -> None:
    """Where every container has them: a path that nobody mounts would end each pod at its start."""
    shown = re.findall(r"^  # (INMAIL_\w+): (\S+)", (FOLDER / "settings.yaml").read_text(), re.MULTILINE)
    head = (FOLDER / "kustomization.yaml").read_text().partition("\napiVersion")[0]
    paths = [value for _, value in shown if value.startswith("/")]

    names = {name for name, _ in shown}
    assert {"INMAIL_KAFKA_SECURITY_PROTOCOL", "INMAIL_KAFKA_SSL_CA_FILE", "INMAIL_PLANS_FILE"} == names
    assert names <= {f"INMAIL_{name.upper()}" for name in Settings.model_fields}
    assert {path.rpartition("/")[2] for path in paths} <= set(re.findall(r"--from-file=(\S+)", head))
    assert {"/etc/inmail"} == {path.rpartition("/")[0] for path in paths}
    for secret in ("inmail-kafka", "inmail-files"):
        assert f"create secret generic {secret} " in head
    assert "create configmap inmail-plans " in head


def test_a_version_begins_with_the_database_then_topics_and_a_look_at_everything() -> None:
    """One after the other; the last one as the workers' user, whose rights it asks for."""
    pod = BY_KIND["Job"]["inmail-migrate"]["spec"]["template"]["spec"]
    steps = [*pod["initContainers"], *pod["containers"]]

    assert [["migrate"], ["topics", "apply", "--yes"], ["doctor", "--before-start"]] == [each["args"] for each in steps]
    users = [each["envFrom"][-1]["secretRef"]["name"] for each in steps]
    assert ["inmail-database-owner", "inmail-database-owner", "inmail-database"] == users


def test_commands_of_the_heads_run_in_the_image() -> None:
    """What a comment says to `exec` in a pod is the image's entry point, with arguments that it takes."""
    heads = "\n".join(path.read_text() for path in sorted(FOLDER.glob("*.yaml")))
    dockerfile = (FOLDER.parent / "compose" / "Dockerfile").read_text()
    commands = [shlex.split(each) for each in re.findall(r"^#.* exec \S+ -- (.+)$", heads, re.MULTILINE)]
    assert ["inmail", "doctor"] in commands
    for program, *arguments in commands:
        assert f"> /usr/local/bin/{program}\n" in dockerfile
        parse(arguments)


def test_the_head_gives_readers_and_operators_their_rights_before_their_pods_start() -> None:
    """For each version: a pod whose role may read nothing would not become ready. The block that it names is there."""
    head = (FOLDER / "kustomization.yaml").read_text()
    steps = ["inmail apply -f infra/kubernetes/settings.yaml", "job/inmail-migrate\n", "$RIGHTS", "apply -k"]
    places = [head.index(step, head.index("for each version")) for step in steps]
    rights = (FOLDER.parents[1] / "docs" / "operate.md").read_text().split("\n## Rights\n")[1].split("\n## ")[0]

    assert sorted(places) == places
    assert "to inmail_reader;" in re.findall(r"```sql\n(.*?)```", rights, re.DOTALL)[1]


def test_a_budget_and_a_probe_for_each_worker() -> None:
    """They name the pods that there are; a drain has the time that a worker takes for it."""
    drain = Settings.model_fields["drain_seconds"].default
    for name in ("inmail-send", "inmail-billing", "inmail-expiry"):
        labels = BY_KIND["Deployment"][name]["spec"]["template"]["metadata"]["labels"]
        assert BY_KIND["PodDisruptionBudget"][name]["spec"]["selector"]["matchLabels"].items() <= labels.items()
        pod = BY_KIND["Deployment"][name]["spec"]["template"]["spec"]
        assert pod["terminationGracePeriodSeconds"] > drain + 5
        probes = {pod["containers"][0][probe]["httpGet"]["path"] for probe in ("livenessProbe", "readinessProbe")}
        assert probes == {"/livez", "/readyz"}


def test_the_api_is_reached_inside_the_cluster_and_connects_as_a_reader() -> None:
    """Not with the workers' rights; its tokens, of which it needs hashes only, are in a secret, as its address is."""
    service, deployed = BY_KIND["Service"]["api"]["spec"], BY_KIND["Deployment"]["inmail-api"]["spec"]
    labels, container = deployed["template"]["metadata"]["labels"], deployed["template"]["spec"]["containers"][0]
    given = {each["name"]: each["value"] for each in container["env"]}
    ports = {each["name"]: each["containerPort"] for each in container["ports"]}
    given_secrets = [each["secretRef"] for each in container["envFrom"] if "secretRef" in each]
    secrets = [each["name"] for each in given_secrets if not each.get("optional")]
    settings = BY_KIND["ConfigMap"]["inmail-settings"]["data"]
    assert ["inmail-database-reader", "inmail-api"] == secrets
    assert {"http": int(given["INMAIL_API_PORT"]), "health": int(settings["INMAIL_HEALTH_PORT"])} == ports
    assert ("ClusterIP", "http") == (service["type"], service["ports"][0]["targetPort"])
    assert service["selector"].items() <= labels.items()
    assert BY_KIND["PodDisruptionBudget"]["inmail-api"]["spec"]["selector"]["matchLabels"].items() <= labels.items()


def test_the_console_is_reached_inside_the_cluster_only_and_has_its_tokens_from_a_secret() -> None:
    """Its service is that of its pod, on the port that it listens on; no token stands in a file."""
    service, deployed = BY_KIND["Service"]["console"]["spec"], BY_KIND["Deployment"]["inmail-console"]["spec"]
    container = deployed["template"]["spec"]["containers"][0]
    given = {each["name"]: each["value"] for each in container["env"]}
    assert ("ClusterIP", "Recreate") == (service["type"], deployed["strategy"]["type"])
    assert service["selector"].items() <= deployed["template"]["metadata"]["labels"].items()
    assert given["INMAIL_CONSOLE_PORT"] == str(container["ports"][0]["containerPort"])
    assert {"secretRef": {"name": "inmail-console"}} in container["envFrom"]
    # For each service the cluster gives every pod variables of its name: none may be one of our settings.
    assert not [name for name in BY_KIND["Service"] if name.startswith("inmail")]
    assert not [name for name in (*given, *BY_KIND["ConfigMap"]["inmail-settings"]["data"]) if "TOKEN" in name]
