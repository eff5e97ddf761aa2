"""The folders of a stack, and the locks that show whether the stack still runs.

Every stack has its own run folder among the temporary files; a stack without a data directory keeps its data there too.
The supervisor and every server hold the folder's lock file by flock, so the lock is free exactly when the last of these
processes has ended. Then the folder is a leftover, and the next start removes it.
"""

import contextlib
import fcntl
import json
import os
import shutil
import stat
import tempfile
import time
from pathlib import Path

from infra.local.artifacts import cache_directory
from infra.local.errors import DataDirectoryError

__all__ = [
    "PORTS",
    "claim_data",
    "create_run",
    "is_reachable",
    "keep_logs",
    "kept_brokers",
    "kept_databases",
    "remove_leftovers",
]

LAYOUT = 1  # increase when files move inside a data directory
MARKER = "inmail-local-stack.json"
BROKERS, DATABASES = "brokers", "databases"  # in the marker, where there are several
PORTS = "ports.json"
LOCK = "lock"
PREFIX = "inmail-stack-"
UNBORN = "inmail-unborn-"
UNBORN_SECONDS = 600
KEPT_LOGS = 10
IN_USE_SECONDS = 5.0  # servers of a killed supervisor take a moment to end


def is_reachable(path: Path, user: int | None) -> bool:
    """Return whether a user (None: this user) may enter every folder on the way to `path`, and run `path` if a file.

    Reads the permission bits of owner and others, and ignores groups and access lists.
    """
    if user is None:
        return True
    for step in [path, *path.parents]:
        status = step.stat()
        bits = status.st_mode >> 6 if status.st_uid == user else status.st_mode
        needed = 0o1 if stat.S_ISDIR(status.st_mode) else 0o5
        if bits & needed != needed:
            return False
    return True


def create_run(user: int | None) -> tuple[Path, int]:
    """Return a new run folder that `user` may enter, and the descriptor of its lock, which is held.

    The folder gets the name that `remove_leftovers` searches for after its lock is held.
    """
    places = [Path(tempfile.gettempdir()).resolve(), Path("/tmp"), Path("/var/tmp")]  # noqa: S108 - not predictable names
    place = next((each for each in places if each.is_dir() and is_reachable(each, user)), None)
    if place is None:
        raise DataDirectoryError(f"Postgres does not run as root, and user {user} reaches none of {places}.")
    unborn = Path(tempfile.mkdtemp(prefix=UNBORN, dir=place))
    if user is not None:
        unborn.chmod(0o711)
    lock = os.open(unborn / LOCK, os.O_CREAT | os.O_RDWR | os.O_CLOEXEC, 0o600)
    fcntl.flock(lock, fcntl.LOCK_EX)
    return unborn.rename(unborn.with_name(unborn.name.replace(UNBORN, PREFIX))), lock


def remove_leftovers(folders: set[Path] | None = None) -> list[Path]:
    """Remove the run folders of this user whose supervisor and servers have all ended; return them."""
    removed = []
    for place in folders or {Path(tempfile.gettempdir()).resolve(), Path("/tmp"), Path("/var/tmp")}:  # noqa: S108
        for folder in [*place.glob(f"{PREFIX}*"), *place.glob(f"{UNBORN}*")]:
            if _is_ours(folder) and _is_leftover(folder):
                shutil.rmtree(folder, ignore_errors=True)
                removed.append(folder)
    return removed


def _is_ours(folder: Path) -> bool:
    try:
        status = folder.lstat()
    except FileNotFoundError:
        return False
    return stat.S_ISDIR(status.st_mode) and status.st_uid == os.geteuid()


def _is_leftover(folder: Path) -> bool:
    try:
        if folder.name.startswith(UNBORN):
            return time.time() - folder.stat().st_mtime > UNBORN_SECONDS
        with (folder / LOCK).open("rb") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    except FileNotFoundError:  # an earlier removal was interrupted
        return True
    return True


def kept_brokers(folder: Path) -> int | None:
    """Return how many brokers have their data in a data directory; None for a directory that is none yet."""
    marker = folder / MARKER
    return int(_read_marker(marker).get(BROKERS, "1")) if marker.exists() else None


def kept_databases(folder: Path) -> int | None:
    """Return how many Postgres servers have their data in a data directory; None for a directory that is none yet."""
    marker = folder / MARKER
    return int(_read_marker(marker).get(DATABASES, "1")) if marker.exists() else None


def claim_data(folder: Path, versions: dict[str, str], brokers: int = 1, databases: int = 1) -> int:
    """Make `folder` a data directory of this stack, or check that it is one; return its lock, which is held.

    More Postgres servers than before are noted in it. Raises `DataDirectoryError` when a running stack or another
    version owns the folder, when it holds other files, the data of another number of brokers, or of more Postgres
    servers.
    """
    folder.mkdir(parents=True, exist_ok=True)
    marker = folder / MARKER
    fresh = marker.with_suffix(".new")
    counts = {name: str(count) for name, count in ((BROKERS, brokers), (DATABASES, databases)) if count > 1}
    expected = {"layout": str(LAYOUT)} | versions | counts
    if not marker.exists() and any(each.name not in {LOCK, fresh.name} for each in folder.iterdir()):
        raise DataDirectoryError(
            f"{folder} holds files that do not belong to a local stack. Choose an empty or a new directory.",
        )
    lock = os.open(folder / LOCK, os.O_CREAT | os.O_RDWR | os.O_CLOEXEC, 0o600)
    try:
        _acquire(lock, folder)
        if marker.exists():
            _check_databases(folder, databases)
            _check_versions(marker, expected)
        if _read_marker(marker) != expected:
            fresh.write_text(json.dumps(expected) + "\n", encoding="utf-8")
            fresh.rename(marker)
    except BaseException:
        os.close(lock)
        raise
    return lock


def _acquire(lock: int, folder: Path) -> None:
    deadline = time.monotonic() + IN_USE_SECONDS
    while True:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            if time.monotonic() > deadline:
                raise DataDirectoryError(
                    f"{folder} is in use by another local stack. Stop that stack, or choose another directory.",
                ) from None
            time.sleep(0.1)
        else:
            return


def _check_databases(folder: Path, wanted: int) -> None:
    if (had := kept_databases(folder) or 1) > wanted:
        raise DataDirectoryError(
            f"{folder} holds the books of {_postgres_servers(had)}, and {_postgres_servers(wanted)} would be without"
            f" the accounts of the rest: start {_postgres_servers(had)} again, or choose another directory for"
            f" {_postgres_servers(wanted)}.",
        )


def _check_versions(marker: Path, expected: dict[str, str]) -> None:
    found, expected = ({k: v for k, v in each.items() if k != DATABASES} for each in (_read_marker(marker), expected))
    had, wanted = (each.get(BROKERS, "1") for each in (found, expected))
    if had != wanted and found | {BROKERS: ""} == expected | {BROKERS: ""}:
        raise DataDirectoryError(
            f"{marker.parent} holds the data of {_brokers(had)}, and {_brokers(wanted)} cannot begin with it: start"
            f" {_brokers(had)} again, or choose another directory for {_brokers(wanted)}.",
        )
    if found != expected:
        raise DataDirectoryError(
            f"{marker.parent} was created by {_versions(found)}; this is {_versions(expected)}. Data is not converted: "
            f"remove the directory to start with no data, choose another, or use the version that created it.",
        )


def _read_marker(marker: Path) -> dict[str, str]:
    try:
        return dict(json.loads(marker.read_text(encoding="utf-8")))
    except (FileNotFoundError, ValueError):
        return {}


def _brokers(count: str) -> str:
    return "1 broker" if count == "1" else f"{count} brokers"


def _postgres_servers(count: int) -> str:
    return "1 Postgres server" if count == 1 else f"{count} Postgres servers"


def _versions(marker: dict[str, str]) -> str:
    return ", ".join(f"{name} {version}" for name, version in sorted(marker.items())) or "something unknown"


def keep_logs(logs: Path, name: str) -> Path:
    """Copy a stack's logs to a folder of the cache and return the folder; only the newest 10 copies are kept."""
    shelf = cache_directory() / "logs"
    kept = shelf / name
    shutil.copytree(logs, kept, dirs_exist_ok=True)
    os.utime(kept)
    with contextlib.suppress(FileNotFoundError):  # another stack may remove old logs at the same time
        for old in sorted(shelf.iterdir(), key=lambda each: each.stat().st_mtime, reverse=True)[KEPT_LOGS:]:
            shutil.rmtree(old, ignore_errors=True)
    return kept
