"""Where a stack keeps its files, and how it is known whether it still lives.

Every stack has a run folder of its own among the temporary files; a stack without a data directory keeps its data there
too. A lock file in it is held by flock through the keeper and every server, so the lock is free exactly when the last
of them is gone: then the folder is a leftover, and the next start removes it.
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

__all__ = ["PORTS", "claim_data", "create_run", "keep_logs", "reachable", "sweep"]

LAYOUT = 1  # raise when files move inside a data directory
MARKER = "inmail-local-stack.json"
PORTS = "ports.json"
LOCK = "lock"
PREFIX = "inmail-stack-"
UNBORN = "inmail-unborn-"
UNBORN_SECONDS = 600
KEPT_LOGS = 10
IN_USE_SECONDS = 5.0  # servers of a killed keeper take a moment to go


def reachable(path: Path, user: int | None) -> bool:
    """Whether a user (None: this one) may pass every folder on the way to `path`, and run it when it is a file.

    Reads the permission bits of owner and others; access lists and groups are not asked.
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
    """Return a new run folder, and the descriptor of its lock, held. `user` may pass through it.

    It gets the name that `sweep` looks for only once its lock is held.
    """
    places = [Path(tempfile.gettempdir()).resolve(), Path("/tmp"), Path("/var/tmp")]  # noqa: S108 - not predictable names
    place = next((each for each in places if each.is_dir() and reachable(each, user)), None)
    if place is None:
        raise DataDirectoryError(f"Postgres does not run as root, and user {user} reaches none of {places}.")
    unborn = Path(tempfile.mkdtemp(prefix=UNBORN, dir=place))
    if user is not None:
        unborn.chmod(0o711)
    lock = os.open(unborn / LOCK, os.O_CREAT | os.O_RDWR | os.O_CLOEXEC, 0o600)
    fcntl.flock(lock, fcntl.LOCK_EX)
    return unborn.rename(unborn.with_name(unborn.name.replace(UNBORN, PREFIX))), lock


def sweep(folders: set[Path] | None = None) -> list[Path]:
    """Remove the run folders of this user whose keeper and servers are all gone; return them."""
    removed = []
    for place in folders or {Path(tempfile.gettempdir()).resolve(), Path("/tmp"), Path("/var/tmp")}:  # noqa: S108
        for folder in [*place.glob(f"{PREFIX}*"), *place.glob(f"{UNBORN}*")]:
            if _is_ours(folder) and _is_left(folder):
                shutil.rmtree(folder, ignore_errors=True)
                removed.append(folder)
    return removed


def _is_ours(folder: Path) -> bool:
    try:
        status = folder.lstat()
    except FileNotFoundError:
        return False
    return stat.S_ISDIR(status.st_mode) and status.st_uid == os.geteuid()


def _is_left(folder: Path) -> bool:
    try:
        if folder.name.startswith(UNBORN):
            return time.time() - folder.stat().st_mtime > UNBORN_SECONDS
        with (folder / LOCK).open("rb") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    except FileNotFoundError:  # its removal was cut short
        return True
    return True


def claim_data(folder: Path, versions: dict[str, str]) -> int:
    """Make `folder` a data directory of this stack, or check that it is one, and return its lock, held.

    Raises `DataDirectoryError` when it belongs to a running stack, to other versions, or to something else.
    """
    folder.mkdir(parents=True, exist_ok=True)
    marker = folder / MARKER
    fresh = marker.with_suffix(".new")
    expected = {"layout": str(LAYOUT)} | versions
    if not marker.exists() and any(each.name not in {LOCK, fresh.name} for each in folder.iterdir()):
        raise DataDirectoryError(
            f"{folder} holds files that are not of a local stack. Choose an empty or a new directory.",
        )
    lock = os.open(folder / LOCK, os.O_CREAT | os.O_RDWR | os.O_CLOEXEC, 0o600)
    try:
        _take(lock, folder)
        if not marker.exists():
            fresh.write_text(json.dumps(expected) + "\n", encoding="utf-8")
            fresh.rename(marker)
        _check_versions(marker, expected)
    except BaseException:
        os.close(lock)
        raise
    return lock


def _take(lock: int, folder: Path) -> None:
    deadline = time.monotonic() + IN_USE_SECONDS
    while True:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            if time.monotonic() > deadline:
                raise DataDirectoryError(
                    f"{folder} is in use by another local stack. Stop that one, or choose another directory.",
                ) from None
            time.sleep(0.1)
        else:
            return


def _check_versions(marker: Path, expected: dict[str, str]) -> None:
    try:
        found = dict(json.loads(marker.read_text(encoding="utf-8")))
    except ValueError:
        found = {}
    if found != expected:
        raise DataDirectoryError(
            f"{marker.parent} was made by {_versions(found)}; this is {_versions(expected)}. Data is not converted: "
            f"remove the directory to start afresh, choose another, or use the version that made it.",
        )


def _versions(marker: dict[str, str]) -> str:
    return ", ".join(f"{name} {version}" for name, version in sorted(marker.items())) or "something unknown"


def keep_logs(logs: Path, name: str) -> Path:
    """Copy a stack's logs to where they outlive it and return that folder; only the newest few are kept."""
    shelf = cache_directory() / "logs"
    kept = shelf / name
    shutil.copytree(logs, kept, dirs_exist_ok=True)
    os.utime(kept)
    with contextlib.suppress(FileNotFoundError):  # another stack tidies up, too
        for old in sorted(shelf.iterdir(), key=lambda each: each.stat().st_mtime, reverse=True)[KEPT_LOGS:]:
            shutil.rmtree(old, ignore_errors=True)
    return kept
