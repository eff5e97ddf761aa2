"""Runs the Dockerfile's steps in a clean folder, where no Docker engine is at hand: `make image-check`.

It builds no image and proves nothing about the base image. It does prove that the lock file installs with its hashes,
that what is copied is enough to run on and is compiled, and that the entry point answers.
"""

import os
import re
import shutil
import subprocess
import sys
import tempfile
import tomllib
from importlib.util import cache_from_source
from pathlib import Path

ROOT = Path(__file__).parents[2]
_BASE_LIBRARY = "/usr/local/lib/python"


def main() -> None:
    """Carry out each step of the Dockerfile, with its absolute paths moved into a temporary folder."""
    steps = re.sub(r"\\\n", " ", (ROOT / "infra" / "compose" / "Dockerfile").read_text()).splitlines()
    with tempfile.TemporaryDirectory(prefix="inmail-image-") as folder:
        image = Path(folder)
        where = image
        environment = {"PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}", "HOME": folder}
        environment |= {name: value for name, value in os.environ.items() if name.startswith("PIP_") or "CERT" in name}
        for step in steps:
            word, _, rest = step.partition(" ")
            print(step, flush=True)
            match word:
                case "WORKDIR":
                    where = image / rest.strip("/")
                    where.mkdir(parents=True, exist_ok=True)
                case "COPY" if not rest.startswith("--from"):
                    source, target = rest.split()
                    _copy(ROOT / source, where / target)
                case "ENV":
                    pairs = dict(pair.split("=", 1) for pair in rest.split())
                    environment |= {key: _moved(value, image) for key, value in pairs.items()}
                case "RUN" if _BASE_LIBRARY in rest:
                    print("  left out: this machine's Python is not the base image's")
                case "RUN":
                    (image / "usr/local/bin").mkdir(parents=True, exist_ok=True)
                    subprocess.run(["sh", "-ec", _moved(rest, image)], cwd=where, env=environment, check=True)
                case "ENTRYPOINT":
                    _is_compiled(image)
                    _answers(image / "usr/local/bin/inmail", environment)
    print("the steps work; no image was built")


def _copy(source: Path, target: Path) -> None:
    if source.is_dir():
        shutil.copytree(source, target, ignore=_ignored)
    else:
        shutil.copy(source, target)


def _ignored(folder: str, names: list[str]) -> set[str]:
    """Return what the image leaves out, as .dockerignore says."""
    left_out = {ROOT / path for path in excluded_folders()}
    return {name for name in names if name == "__pycache__" or Path(folder) / name in left_out}


def excluded_folders() -> list[str]:
    """Return the folders of the repository that .dockerignore leaves out of what it takes in."""
    lines = (ROOT / ".dockerignore").read_text().splitlines()
    return [line for line in lines if not line.startswith(("!", "*"))]


def _moved(text: str, image: Path) -> str:
    return re.sub(r"(?<![\w.])/(opt|app|usr/local/bin)\b", lambda path: f"{image}/{path[1]}", text)


def _is_compiled(image: Path) -> None:
    """Refuse a file of ours without bytecode, which each start would compile again, and an environment with pip."""
    sources = [*(image / "app").rglob("*.py")]
    packages = [path for path in (image / "opt/inmail").rglob("*.py") if "site-packages" in path.parts]
    bare = [path for path in (*sources, *packages) if not Path(cache_from_source(str(path))).exists()]
    if bare or not sources or not packages:
        raise SystemExit(f"{len(bare)} of {len(sources) + len(packages)} files are not compiled: {bare[:5]}")
    if [*(image / "opt/inmail").glob("lib/python*/site-packages/pip")]:
        raise SystemExit("the environment has pip, which nothing needs that runs")


def _answers(inmail: Path, environment: dict[str, str]) -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    told = subprocess.run([inmail, "--version"], env=environment, check=True, capture_output=True, text=True).stdout
    if told != f"inmail {project['version']}\n":
        raise SystemExit(f"not the version of pyproject.toml: {told}")
    for arguments in (["--help"], ["worker", "--help"]):
        subprocess.run([inmail, *arguments], env=environment, check=True, stdout=subprocess.DEVNULL)
    refused = subprocess.run(
        [inmail, "lag"],
        env=environment | {"INMAIL_BATCH_RECORDS": "none"},
        check=False,
        capture_output=True,
        text=True,
    )
    if refused.returncode != 2 or "INMAIL_BATCH_RECORDS" not in refused.stderr:
        raise SystemExit(f"a wrong setting was not refused by name: {refused}")


if __name__ == "__main__":
    main()
