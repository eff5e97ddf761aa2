"""Builds the programs of a language from pinned packages, in build/clients."""

import os
import shutil
import subprocess
import sys
import venv
from collections.abc import Callable, Mapping
from pathlib import Path

__all__ = ["BUILDS", "NEEDS", "Command"]

HERE = Path(__file__).parent
ROOT = HERE.parents[1]
MADE = ROOT / "build" / "clients"
BUILD_SECONDS = 600

Command = tuple[str, ...]  # is given a client's name, and JSON on its standard input


def _run(folder: Path, *command: str, **variables: str) -> None:
    subprocess.run(command, cwd=folder, check=True, timeout=BUILD_SECONDS, env=os.environ | variables)


def _python() -> Command:
    venv.create(MADE / "python", with_pip=True)
    python = str(MADE / "python" / "bin" / "python")
    pip = ("-m", "pip", "install", "--disable-pip-version-check", "--progress-bar", "off", "-q")
    _run(HERE / "python", python, *pip, "-r", "requirements.txt")
    return (python, str(HERE / "python" / "clients.py"))


def _java() -> Command:
    shutil.rmtree(MADE / "java", ignore_errors=True)  # else libraries of before stay among those of now
    _run(HERE / "java", "mvn", "--batch-mode", "--quiet", "package")
    return ("java", "-cp", f"{MADE / 'java' / 'classes'}:{MADE / 'java' / 'lib'}/*", "inmail.clients.Clients")


def _go() -> Command:
    _run(HERE / "go", "go", "build", "-mod=readonly", "-o", str(MADE / "go" / "clients"), ".")
    return (str(MADE / "go" / "clients"),)


def _javascript() -> Command:
    folder = MADE / "javascript"
    shutil.copytree(HERE / "javascript", folder, dirs_exist_ok=True)
    _run(folder, "npm", "ci", "--no-audit", "--no-fund", "--loglevel=error")
    return ("node", str(folder / "clients.js"))


def _kcat() -> Command:
    _run(ROOT, "infra/local/debian.sh", "kcat")
    if shutil.which("kcat") is None:
        sys.exit("install kcat (on Debian, as root: apt-get install kcat), or name the languages to run")
    return (sys.executable, str(HERE / "kcat.py"))


BUILDS: Mapping[str, Callable[[], Command]] = {
    "python": _python, "java": _java, "go": _go, "javascript": _javascript, "kcat": _kcat,
}  # fmt: skip
NEEDS = {
    "python": (),
    "java": ("java", "mvn"),
    "go": ("go",),
    "javascript": ("node", "npm"),
    "kcat": (),
}
