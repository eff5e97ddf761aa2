"""Servers of other versions than the project's own, each file pinned by its SHA-256."""

import json
import shutil
import subprocess
import tempfile
import zipfile
from pathlib import Path
from typing import Final

from infra.local.artifacts import Jar, Lock, cache_directory, download, read_lock, sha256_of

__all__ = ["KAFKA", "POSTGRES", "kafka_lock", "postgres_folder"]

_FOLDER: Final = Path(__file__).parent
_POSTGRES: Final = {
    major: Jar(**row) for major, row in json.loads((_FOLDER / "postgres.lock.json").read_text(encoding="utf-8")).items()
}
_KAFKA: Final = {
    lock.kafka: lock for lock in (read_lock(), *(read_lock(file) for file in _FOLDER.glob("kafka-*.lock.json")))
}
KAFKA: Final = tuple(sorted(_KAFKA))
POSTGRES: Final = tuple(sorted(_POSTGRES))


def kafka_lock(version: str) -> Lock:
    """Return the pinned jars of a version of Kafka."""
    return _KAFKA[version]


def postgres_folder(major: str, folder: Path) -> Path:
    """Unpack the newest pinned release of a major version below a folder, readable by anybody; return where it is."""
    jar = _POSTGRES[major]
    kept = cache_directory() / jar.file
    if not kept.exists() or sha256_of(kept) != jar.sha256:
        kept.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=kept.parent) as scratch:
            fetched = download(jar.artifact, Path(scratch))
            assert sha256_of(fetched) == jar.sha256, f"{jar.artifact} is not what the lock says"
            shutil.move(fetched, kept)
    installed = folder / f"postgres-{major}"
    installed.mkdir()
    with zipfile.ZipFile(kept) as archive:
        (name,) = [each for each in archive.namelist() if each.endswith(".txz")]
        packed = Path(archive.extract(name, folder))
    subprocess.run(["tar", "-xJf", packed, "-C", installed], check=True)
    packed.unlink()
    for each in (folder, installed):
        each.chmod(0o755)  # Postgres does not run as root
    return installed
