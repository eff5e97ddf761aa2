"""The wheel and the sdist: built, and installed into an empty environment beside another project's package."""

import os
import subprocess
import sys
import sysconfig
import tarfile
import venv
import zipfile
from dataclasses import dataclass
from pathlib import Path

import asyncpg
import pytest

from infra.local.stack import LocalStack
from infra.packaging.inmail_backend import FOLDERS, PACKAGE, ImportRewriteError, rewrite_imports

ROOT = Path(__file__).parents[2]
OTHER = 'NAME = "another project"\n'
# Prints each module that cannot be imported: an import that still names a folder of the repository finds the other
# project's package, or nothing.
IMPORT_ALL = f"""
import importlib, pkgutil, sys, {PACKAGE}
found = [each.name for each in pkgutil.walk_packages({PACKAGE}.__path__, "{PACKAGE}.", onerror=lambda name: None)]
for name in found:
    importlib.import_module(name)
import workers
assert workers.NAME == "another project"
assert not {{"infra", "schemas"}} & set(sys.modules), "a folder of the repository was imported"
print(len(found))
"""


@dataclass(frozen=True)
class Installed:
    """An environment with the wheel, and another project that has a package `workers`."""

    folder: Path
    wheel: Path
    sdist: Path
    before: frozenset[str]  # what was in its site-packages before the wheel

    @property
    def site_packages(self) -> Path:
        """Where the environment's packages are."""
        return Path(sysconfig.get_path("purelib", "venv", {"base": str(self.folder)}))

    def run(self, *command: str, **environment: str) -> "subprocess.CompletedProcess[str]":
        """Run a program of the environment, from a folder that holds nothing."""
        empty = self.folder / "empty"
        empty.mkdir(exist_ok=True)
        kept = {k: v for k, v in os.environ.items() if not k.startswith(("INMAIL_", "PYTHON"))}
        program = self.folder / "bin" / command[0]
        return subprocess.run(
            [program, *command[1:]],
            cwd=empty,
            env=kept | environment,
            capture_output=True,
            text=True,
            check=False,
            timeout=90,
        )


def _pip(*arguments: object) -> None:
    offline = ("--disable-pip-version-check", "--no-index", "--no-deps", "-q")
    command = [sys.executable, "-m", "pip", *map(str, arguments), *offline]
    done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=100)
    assert done.returncode == 0, done.stderr


def _build_sdist(folder: Path) -> Path:
    program = f"import inmail_backend; print(inmail_backend.build_sdist({str(folder)!r}))"
    path = {"PYTHONPATH": str(ROOT / "infra" / "packaging")}
    done = subprocess.run(
        [sys.executable, "-c", program], cwd=ROOT, env=os.environ | path, capture_output=True, text=True, check=True
    )
    return folder / done.stdout.splitlines()[-1]


@pytest.fixture(scope="module")
def installed(tmp_path_factory: pytest.TempPathFactory) -> Installed:
    """Build an sdist, a wheel from the sdist, and install the wheel; the dependencies are those of the tests."""
    folder = tmp_path_factory.mktemp("package")
    sdist = _build_sdist(folder)
    _pip("wheel", "--no-build-isolation", "-w", folder, sdist)
    (wheel,) = folder.glob("*.whl")
    home = folder / "environment"
    venv.create(home, with_pip=False)
    site = Installed(home, wheel, sdist, frozenset()).site_packages
    (site / "workers").mkdir()
    (site / "workers" / "__init__.py").write_text(OTHER)
    # A plain line takes the packages there and none of its .pth files, so not this project as it lies here.
    (site / "dependencies.pth").write_text(sysconfig.get_path("purelib") + "\n")
    before = frozenset(path.name for path in site.iterdir())
    _pip("--python", home / "bin" / "python", "install", wheel)
    return Installed(home, wheel, sdist, before)


@pytest.mark.whole
def test_the_wheel_occupies_one_name(installed: Installed) -> None:
    """Beside its metadata it brings one package, and another project's `workers` stays what it was."""
    new = {path.name for path in installed.site_packages.iterdir()} - installed.before

    assert {PACKAGE} == {name for name in new if not name.endswith(".dist-info")}
    assert len(new) == 2
    assert OTHER == (installed.site_packages / "workers" / "__init__.py").read_text()


@pytest.mark.whole
def test_every_installed_module_is_imported_by_the_packages_name(installed: Installed) -> None:
    """No module reaches for a folder of the repository."""
    done = installed.run("python", "-W", "error::ImportWarning", "-c", IMPORT_ALL)

    assert "" == done.stderr
    assert int(done.stdout) > 150


@pytest.mark.whole
def test_every_file_of_the_folders_is_in_the_wheel(installed: Installed) -> None:
    """SQL, the plan catalogue, the console's page and the demo's story too: what the editable install finds."""
    wanted = {
        f"{PACKAGE}/{path.relative_to(ROOT)}"
        for pattern in (
            "infra/migrations/*.sql",
            "workers/**/*.sql",
            "workers/**/*.toml",
            "workers/**/*.py",
            "workers/console/static/**/*.*",
            "schemas/generated/*",
            "schemas/*.py",
            "infra/**/*.lock.json",
            "examples/*.*",
        )
        for path in ROOT.glob(pattern)
    }
    found = set(zipfile.ZipFile(installed.wheel).namelist())

    assert len(wanted) > 250
    assert set() == wanted - found
    # The samples for other languages, and what their tools leave, stay in the repository.
    assert {2} == {name.count("/") for name in found if name.startswith(f"{PACKAGE}/examples/")}
    assert {PACKAGE} == {name.partition("/")[0] for name in found if ".dist-info/" not in name}


@pytest.mark.whole
def test_the_sdist_is_the_source_and_builds_itself(installed: Installed) -> None:
    """It holds the folders as they lie in the repository, with the backend that the wheel was just built by."""
    with tarfile.open(installed.sdist) as archive:
        names = {name.partition("/")[2] for name in archive.getnames()}

    assert {"pyproject.toml", "LICENSE", "CHANGELOG.md", "infra/packaging/inmail_backend.py"} <= names
    assert "workers/ledger/sql/debit.sql" in names


@pytest.mark.whole
@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["--version"], "inmail 0."),
        (["--help"], "dead-letters"),
        (["topics", "plan", "--help"], "Usage: inmail topics plan"),
        (["console", "--help"], "Usage: inmail console"),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, list) else "",
)
def test_the_installed_command_answers(installed: Installed, arguments: list[str], said: str) -> None:
    """From the environment's own `bin`, with the package's own modules."""
    done = installed.run("inmail", *arguments)

    assert (0, "") == (done.returncode, done.stderr)
    assert said in done.stdout


@pytest.mark.whole
async def test_the_installed_command_migrates_a_database(installed: Installed, stack: LocalStack) -> None:
    """All migrations and functions come out of the wheel, and the ledger answers from them."""
    admin = await asyncpg.connect(stack.database_url)
    await admin.execute("create database packaged")
    await admin.close()
    url = f"{stack.database_url.rpartition('/')[0]}/packaged"
    migrated = installed.run("inmail", "migrate", INMAIL_DATABASE_URL=url)
    unknown = installed.run("inmail", "balance", "nobody", INMAIL_DATABASE_URL=url)

    files = len(list((ROOT / "infra" / "migrations").glob("*.sql")))
    assert 0 == migrated.returncode, migrated.stderr
    assert f"{files} migrations applied" in migrated.stdout
    assert 1 == unknown.returncode
    assert "no account nobody" in unknown.stderr


@pytest.mark.whole
def test_child_processes_are_started_by_the_packages_name(installed: Installed) -> None:
    """What `inmail up` starts with `python -m` are the modules of the installed package."""
    program = (
        f"from {PACKAGE}.workers.local.processes import COMMAND_MODULE as module\n"
        "import subprocess, sys\n"
        "sys.exit(subprocess.run([sys.executable, '-m', module, '--version'], check=False).returncode)"
    )
    done = installed.run("python", "-c", program)

    assert (0, "") == (done.returncode, done.stderr)
    assert "inmail 0." in done.stdout


@pytest.mark.parametrize(
    ("source", "rewritten"),
    [
        (b"from workers.cli import main\n", b"from inmail_ledger.workers.cli import main\n"),
        (b"if x:\n    from  infra import log\n", b"if x:\n    from inmail_ledger.infra import log\n"),
        (b"from schemas.x import (\n    a,\n)\n", b"from inmail_ledger.schemas.x import (\n    a,\n)\n"),
        (b"from workersx import y\nfrom . import z\n", b"from workersx import y\nfrom . import z\n"),
        (b'"""from workers.cli import main"""\n', b'"""from workers.cli import main"""\n'),
    ],
)
def test_imports_are_rewritten_and_nothing_else(source: bytes, rewritten: bytes) -> None:
    """Text in a docstring, other packages and relative imports stay."""
    assert rewritten == rewrite_imports(source, "x.py")


@pytest.mark.parametrize(
    "source", [b"import workers.cli\n", b'run("-m", "workers.cli")\n', b'load(f"infra.{name}")\n'], ids=str
)
def test_what_cannot_be_rewritten_fails_the_build(source: bytes) -> None:
    """A name in a string would be found in the repository and nowhere else."""
    with pytest.raises(ImportRewriteError, match=r"x\.py:1"):
        rewrite_imports(source, "x.py")


@pytest.mark.parametrize("folder", FOLDERS)
def test_every_module_can_be_rewritten(folder: str) -> None:
    """Seen here rather than at a release."""
    modules = [path for path in (ROOT / folder).rglob("*.py") if "packaging" not in path.parts]

    assert len(modules) > 5
    for path in modules:
        compile(rewrite_imports(path.read_bytes(), str(path)), str(path), "exec")
