"""What a broker's data folder has before its first start: whose it is, and the features that its cluster begins with.

Kafka's own tool writes both, in 1.5 s of CPU. The features are the version's, whoever the broker is: once the tool has
written them they are kept beside the version's jars, and later folders get a copy.
"""

import os
import shutil
import uuid
from base64 import urlsafe_b64encode
from collections.abc import Iterable
from contextlib import suppress
from pathlib import Path

__all__ = ["copy_format", "is_formatted", "keep_format", "kept_cluster_id", "new_id"]

IDENTITY, FEATURES = "meta.properties", "bootstrap.checkpoint"


def new_id() -> str:
    """Return a new id of a cluster or a folder in Kafka's format."""
    return urlsafe_b64encode(uuid.uuid4().bytes).rstrip(b"=").decode()


def kept_cluster_id(folders: Iterable[Path]) -> str:
    """Return the cluster's id that some node has formatted its data with, or a new one where none has."""
    for folder in folders:
        with suppress(FileNotFoundError):
            for line in (folder / IDENTITY).read_text(encoding="utf-8").splitlines():
                if line.startswith("cluster.id="):
                    return line.removeprefix("cluster.id=")
    return new_id()


def is_formatted(data: Path) -> bool:
    """Tell whether a data folder is formatted."""
    return (data / IDENTITY).exists()


def copy_format(kept: Path, data: Path, cluster: str, node: int) -> bool:
    """Format a data folder with features that were kept; tell whether there were any. Raises `OSError`."""
    features = kept / FEATURES
    if not features.exists():
        return False
    data.mkdir(exist_ok=True)
    shutil.copyfile(features, data / FEATURES)
    identity = {"version": 1, "cluster.id": cluster, "node.id": node, "directory.id": new_id()}
    unfinished = data / f"{IDENTITY}.tmp"
    unfinished.write_text("".join(f"{name}={value}\n" for name, value in identity.items()), encoding="utf-8")
    unfinished.replace(data / IDENTITY)  # last: it says that the folder is formatted
    return True


def keep_format(data: Path, kept: Path) -> None:
    """Keep the features of a data folder that the tool has formatted, where the folder to keep them in takes files."""
    unfinished = kept / f".{FEATURES}.{os.getpid()}"
    with suppress(OSError):
        shutil.copyfile(data / FEATURES, unfinished)
        unfinished.replace(kept / FEATURES)
