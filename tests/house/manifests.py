"""The manifests of `infra/kubernetes`, by kind and name, and the pods that they describe."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import yaml

__all__ = ["BY_KIND", "DOCUMENTS", "FOLDER", "containers", "pods"]

FOLDER = Path(__file__).parents[2] / "infra" / "kubernetes"
_KINDS = (
    *("Deployment", "Job", "CronJob", "PodDisruptionBudget", "ScaledObject", "ConfigMap", "Service"),
    *("Namespace", "NetworkPolicy"),
)


def _documents() -> Iterator[tuple[str, dict[str, Any]]]:
    for path in sorted(FOLDER.glob("*.yaml")):
        for document in yaml.load_all(path.read_text(), yaml.CSafeLoader):
            yield f"{path.name}: {document['kind']} {document.get('metadata', {}).get('name', '')}", document


DOCUMENTS = dict(_documents())
BY_KIND = {
    kind: {each["metadata"]["name"]: each for each in DOCUMENTS.values() if each["kind"] == kind} for kind in _KINDS
}


def pods() -> dict[str, dict[str, Any]]:
    """Return the template of the pods of each deployment, job and scheduled job, by the name of the latter."""
    specs = {name: each["spec"] for kind in ("Deployment", "Job") for name, each in BY_KIND[kind].items()}
    specs |= {name: each["spec"]["jobTemplate"]["spec"] for name, each in BY_KIND["CronJob"].items()}
    return {name: spec["template"] for name, spec in specs.items()}


def containers() -> Iterator[dict[str, Any]]:
    """Yield the containers of all pods, those that run before the others included."""
    for each in pods().values():
        yield from (*each["spec"].get("initContainers", ()), *each["spec"]["containers"])
