"""Kafka's jars: pinned by SHA-256 in `kafka.lock.json`, downloaded once, checked at every start.

The lock was resolved once (`python -m infra.local.artifacts --relock`); an install downloads exactly the files of the
lock and resolves nothing, so that every install is the same. A jar is renamed to its final name after its digest was
checked, so a file with a final name was complete. docs/kafka-versions.md says why this version of Kafka is used.
"""

import argparse
import fcntl
import hashlib
import json
import os
import shutil
import sys
import tempfile
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from queue import Empty, SimpleQueue
from threading import Event, Thread

from infra.local.bundled_binaries import find_package
from infra.local.errors import ArtifactError, LocalStackError, StartInterruptedError, as_local_stack_error
from infra.local.progress import Progress, Report

__all__ = ["LOCK_FILE", "Jar", "Lock", "cache_directory", "download", "install_kafka", "read_lock", "sha256_of"]

LOCK_FILE = Path(__file__).with_name("kafka.lock.json")
DOWNLOADS_AT_ONCE = 8
TIMEOUT_SECONDS = 60
ATTEMPTS = 3
_LOG4J = "org.apache.logging.log4j:log4j-core"
POLL_SECONDS = 0.1  # between two checks whether the start was cancelled

Fetch = Callable[[str, Path], Path]


@dataclass(frozen=True, slots=True)
class Jar:
    """One file of Kafka: its artifact (`group:artifact:version`), its file name, its SHA-256 in hex."""

    artifact: str
    file: str
    sha256: str


@dataclass(frozen=True, slots=True)
class Lock:
    """The version of Kafka and all jars of its class path."""

    kafka: str
    jars: tuple[Jar, ...]


def read_lock(path: Path = LOCK_FILE) -> Lock:
    """Return the pinned jars."""
    raw = json.loads(path.read_text(encoding="utf-8"))
    return Lock(raw["kafka"], tuple(Jar(**each) for each in raw["jars"]))


def cache_directory() -> Path:
    """Return the folder of downloads, which is kept between runs and may not exist yet."""
    base = os.environ.get("XDG_CACHE_HOME", "")
    # The XDG specification says to ignore a relative path.
    root = Path(base) if Path(base).is_absolute() else Path.home() / ".cache"
    return root / "inmail-ledger"


def sha256_of(path: Path) -> str:
    """Return the SHA-256 of a file in hex."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def download(artifact: str, folder: Path) -> Path:
    """Download one jar (`group:artifact:version`) to a place below `folder` and return its path, digest unchecked.

    Raises `ArtifactError` when the download fails three times.
    """
    find_package("jgo")
    import requests  # noqa: PLC0415 - takes half a second with jgo, and only downloads need them
    from jgo.maven import MavenContext  # noqa: PLC0415

    for attempt in range(1, ATTEMPTS + 1):
        # A new folder for each attempt: jgo would take a broken download's remains for the file.
        context = MavenContext(repo_cache=Path(tempfile.mkdtemp(dir=folder)), timeout=TIMEOUT_SECONDS)
        try:
            return Path(context.create_dependency(f"{artifact}!").artifact.resolve())
        except (requests.RequestException, RuntimeError) as error:
            if attempt == ATTEMPTS:
                raise ArtifactError(
                    f"Could not download {artifact}: {error}. Is this machine online? HTTPS_PROXY sets a proxy. "
                    f"Files downloaded so far are kept; start again to continue.",
                ) from error
    raise AssertionError("unreachable")


def install_kafka(
    report: Report, fetcher: Fetch = download, lock: Lock | None = None, interrupted: Event | None = None
) -> list[Path]:
    """Return the class path of Kafka, every jar checked against the lock; download missing and damaged jars.

    Works offline once all jars are in the cache. Several processes may install at once: one downloads, the others wait.
    Raises `ArtifactError`, and `StartInterruptedError` soon after `interrupted` was set.
    """
    lock = lock or read_lock()
    interrupted = interrupted or Event()
    folder = cache_directory() / f"kafka-{lock.kafka}"
    with as_local_stack_error("writing the download cache (XDG_CACHE_HOME chooses another place)", folder):
        folder.mkdir(parents=True, exist_ok=True)
        if _jars_to_fetch(folder, lock.jars):
            with _locked(folder / ".lock", report, interrupted):
                for leftover in folder.glob(".fetching-*"):  # left by a killed process
                    shutil.rmtree(leftover)
                _fetch_all(folder, _jars_to_fetch(folder, lock.jars), report, fetcher, interrupted)
    return [folder / jar.file for jar in lock.jars]


def _jars_to_fetch(folder: Path, jars: Iterable[Jar]) -> list[Jar]:
    """Return the jars that are absent or differ from the lock."""

    def fits(jar: Jar) -> bool:
        path = folder / jar.file
        return path.is_file() and sha256_of(path) == jar.sha256

    jars = list(jars)
    with ThreadPoolExecutor(min(4, os.cpu_count() or 1)) as pool:
        return [jar for jar, fit in zip(jars, pool.map(fits, jars), strict=True) if not fit]


def _fetch_all(folder: Path, jars: Sequence[Jar], report: Report, fetcher: Fetch, interrupted: Event) -> None:
    for jar in jars:
        if (folder / jar.file).exists():
            report(f"{folder / jar.file} is damaged: downloading it again")
    waiting = deque(jars)
    fetched: SimpleQueue[tuple[Jar, Path | Exception]] = SimpleQueue()
    # The next install removes what an abandoned download still writes.
    with tempfile.TemporaryDirectory(prefix=".fetching-", dir=folder, ignore_cleanup_errors=True) as staging:
        try:
            for _ in range(min(DOWNLOADS_AT_ONCE, len(jars))):
                # Daemon threads instead of a pool: the process can end while a download hangs.
                Thread(target=_fetch_each, args=(waiting, fetched, fetcher, Path(staging)), daemon=True).start()
            for number in range(1, len(jars) + 1):
                jar, outcome = _next_download(fetched, interrupted)
                if isinstance(outcome, Exception):
                    raise outcome
                _accept(folder, jar, outcome)
                report(Progress(f"Downloading Apache Kafka: {number} of {len(jars)} files", number, len(jars)))
        finally:
            waiting.clear()


def _fetch_each(
    waiting: deque[Jar], fetched: "SimpleQueue[tuple[Jar, Path | Exception]]", fetcher: Fetch, staging: Path
) -> None:
    """Download jars until none is left."""
    while waiting:
        try:
            jar = waiting.popleft()
        except IndexError:  # another thread was faster
            return
        outcome: Path | Exception = ArtifactError(f"{jar.artifact}: the download ended by a defect in this program.")
        try:
            outcome = fetcher(jar.artifact, staging)
        except (LocalStackError, OSError) as error:
            outcome = error
        finally:
            fetched.put((jar, outcome))


def _next_download(
    fetched: "SimpleQueue[tuple[Jar, Path | Exception]]", interrupted: Event
) -> tuple[Jar, Path | Exception]:
    while not interrupted.is_set():
        try:
            return fetched.get(timeout=POLL_SECONDS)
        except Empty:
            continue
    raise StartInterruptedError("The download was cancelled; files downloaded so far are kept.")


def _accept(folder: Path, jar: Jar, fetched: Path) -> None:
    digest = sha256_of(fetched)
    if digest != jar.sha256:
        raise ArtifactError(
            f"{jar.artifact} was refused: its SHA-256 is {digest}, the lock ({LOCK_FILE.name}) says {jar.sha256}. "
            f"A proxy changed the file, or the download was incomplete; try again.",
        )
    with fetched.open("rb") as file:
        os.fsync(file.fileno())
    fetched.replace(folder / jar.file)


@contextmanager
def _locked(path: Path, report: Report, interrupted: Event) -> Iterator[None]:
    with path.open("w") as file:
        reported = False
        while True:
            try:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                if not reported:
                    report("Another process is downloading Apache Kafka: waiting for it")
                reported = True
                if interrupted.wait(POLL_SECONDS):
                    raise StartInterruptedError("The wait for another download was cancelled.") from None
            else:
                break
        yield


def resolve_lock(kafka: str) -> Lock:
    """Resolve version `kafka` of Kafka and its log binding, download every jar and return the lock."""
    find_package("jgo")
    from jgo.maven import MavenContext  # noqa: PLC0415

    scratch = Path(tempfile.mkdtemp(prefix="inmail-relock-"))
    try:
        context = MavenContext(repo_cache=scratch, timeout=TIMEOUT_SECONDS)

        def resolved(root: str) -> dict[str, str]:
            inputs, rest = context.resolver.resolve([context.create_dependency(f"{root}!")])
            return {f"{each.groupId}:{each.artifactId}": each.version for each in [*inputs, *rest]}

        versions = resolved(f"org.apache.kafka:kafka_2.13:{kafka}")
        # Kafka depends on slf4j without a binding, and from 4.2 on log4j: the binding must have log4j's version.
        log4j = versions.get(_LOG4J, _version_in_lock(_LOG4J))
        binding = f"org.apache.logging.log4j:log4j-slf4j-impl:{log4j}"
        names = sorted(f"{name}:{version}" for name, version in (resolved(binding) | versions).items())
        with ThreadPoolExecutor(DOWNLOADS_AT_ONCE) as pool:
            paths = list(pool.map(lambda name: download(name, scratch), names))
        return Lock(kafka, tuple(Jar(n, p.name, sha256_of(p)) for n, p in zip(names, paths, strict=True)))
    finally:
        shutil.rmtree(scratch)


def _version_in_lock(name: str) -> str:
    """Return the version of an artifact (`group:artifact`) in the lock."""
    start = f"{name}:"
    return next(jar.artifact.removeprefix(start) for jar in read_lock().jars if jar.artifact.startswith(start))


def write_lock(lock: Lock) -> None:
    """Write the lock file."""
    jars = [{"artifact": jar.artifact, "file": jar.file, "sha256": jar.sha256} for jar in lock.jars]
    LOCK_FILE.write_text(json.dumps({"kafka": lock.kafka, "jars": jars}, indent=2) + "\n", encoding="utf-8")


def _main() -> None:
    parser = argparse.ArgumentParser(description="Download Kafka's jars to the cache, or write a new lock.")
    parser.add_argument("--relock", metavar="VERSION", nargs="?", const="", help="write the lock for this Kafka")
    arguments = parser.parse_args()
    if arguments.relock is not None:
        write_lock(resolve_lock(arguments.relock or read_lock().kafka))
    for path in install_kafka(lambda line: print(line, file=sys.stderr)):  # noqa: T201
        print(path)  # noqa: T201


if __name__ == "__main__":
    _main()
