"""The build backend: setuptools', except that a wheel has all of this code in one package, `inmail_ledger`.

In the repository the code lies in `workers`, `infra` and `schemas`. These names belong to nobody, and another project's
package may have one of them. So a wheel is built from a copy in which the three folders are sub-packages of
`inmail_ledger` and each import says so. An editable install takes the folders as they are: it is for a virtual
environment of this project alone. Setuptools is imported only to build.
"""

import ast
import os
import re
import shutil
import tempfile
import tomllib
from collections.abc import Iterator
from contextlib import chdir, contextmanager
from pathlib import Path
from typing import Any, Final

from setuptools import build_meta

__all__ = [
    "FOLDERS",
    "PACKAGE",
    "ImportRewriteError",
    "build_editable",
    "build_sdist",
    "build_wheel",
    "get_requires_for_build_editable",
    "get_requires_for_build_sdist",
    "get_requires_for_build_wheel",
    "prepare_metadata_for_build_editable",
    "rewrite_imports",
]

PACKAGE: Final = "inmail_ledger"
FOLDERS: Final = ("workers", "infra", "schemas")

_ROOT: Final = Path(__file__).parents[2]
_DATA: Final = ("examples",)  # read by the demo, from beside the three folders
_TEXTS: Final = ("README.md", "LICENSE", "CHANGELOG.md")
_ONLY_IN_SDIST: Final = "infra/packaging"  # it needs setuptools, which an installed package does not
_OWN_MODULE: Final = re.compile(rf"({'|'.join(FOLDERS)})\.[\w.]*")
_SETUPTOOLS_SECTIONS: Final = f"""
[tool.setuptools.packages.find]
include = ["{PACKAGE}*"]

[tool.setuptools.package-data]
"*" = ["*"]
"""

# An editable install and the questions about requirements are setuptools' own. `prepare_metadata_for_build_wheel` is
# left out on purpose: setuptools would take it from the folders as they are, with another entry point than the wheel's.
build_editable = build_meta.build_editable
prepare_metadata_for_build_editable = build_meta.prepare_metadata_for_build_editable
get_requires_for_build_editable = build_meta.get_requires_for_build_editable
get_requires_for_build_sdist = build_meta.get_requires_for_build_sdist
get_requires_for_build_wheel = build_meta.get_requires_for_build_wheel

_Config = dict[str, Any] | None


class ImportRewriteError(Exception):
    """A module names another one in a way that cannot be rewritten. The message says where."""


def build_wheel(wheel_directory: str, config_settings: _Config = None, metadata_directory: str | None = None) -> str:  # noqa: ARG001
    """Build a wheel with one top-level package; return its file name.

    Raises:
        ImportRewriteError: when an import cannot be rewritten.

    """
    target = str(Path(wheel_directory).resolve())
    with _staging() as stage:
        _stage_package(stage)
        with chdir(stage):
            return str(build_meta.build_wheel(target, config_settings))


def build_sdist(sdist_directory: str, config_settings: _Config = None) -> str:
    """Build an sdist of the folders as they are in the repository, and of this backend; return its file name."""
    target = str(Path(sdist_directory).resolve())
    with _staging() as stage:
        for folder in FOLDERS:
            _copy(_ROOT / folder, stage / folder)
        for folder in _DATA:
            _copy_files(_ROOT / folder, stage / folder)
        for name in ("pyproject.toml", *_TEXTS):
            shutil.copy2(_ROOT / name, stage / name)
        (stage / "MANIFEST.in").write_text(f"include {' '.join(_TEXTS)}\ngraft {' '.join(_DATA)}\n", encoding="utf-8")
        with chdir(stage):
            return str(build_meta.build_sdist(target, config_settings))


def rewrite_imports(source: bytes, name: str) -> bytes:
    """Return a module's source with each absolute import of the three folders below `PACKAGE`.

    Args:
        source: the module's text in UTF-8.
        name: where the module is, for the error.

    Raises:
        ImportRewriteError: when the module imports one of the folders as a plain name, or has a module's name in a
            string: where the module that names is inside the same package, `__package__` says the beginning.

    """
    lines = source.splitlines(keepends=True)
    for node in ast.walk(ast.parse(source, name)):
        if isinstance(node, ast.ImportFrom) and node.level == 0 and _root(node.module or "") in FOLDERS:
            line = lines[node.lineno - 1]
            before, statement = line[: node.col_offset], line[node.col_offset :]
            lines[node.lineno - 1] = before + re.sub(rb"^from\s+", f"from {PACKAGE}.".encode(), statement, count=1)
        elif isinstance(node, ast.Import) and any(_root(alias.name) in FOLDERS for alias in node.names):
            raise ImportRewriteError(f"{name}:{node.lineno}: write `from ... import ...`")
        elif isinstance(node, ast.Constant) and isinstance(node.value, str) and _OWN_MODULE.fullmatch(node.value):
            raise ImportRewriteError(f"{name}:{node.lineno}: {node.value!r} names a module of ours in a string")
    return b"".join(lines)


def _root(module: str) -> str:
    return module.partition(".")[0]


@contextmanager
def _staging() -> Iterator[Path]:
    with tempfile.TemporaryDirectory(prefix="inmail-package-") as folder:
        yield Path(folder)


def _copy(source: Path, target: Path) -> None:
    shutil.copytree(source, target, ignore=shutil.ignore_patterns("__pycache__", "*.pyc", ".*"))


def _copy_files(source: Path, target: Path) -> None:
    """Copy the files of a folder, not the folders in it: samples for other languages, and what their tools leave."""
    target.mkdir()
    for path in source.iterdir():
        if path.is_file():
            shutil.copy2(path, target / path.name)


def _stage_package(stage: Path) -> None:
    """Write the project that the wheel is built from: the same metadata, one package."""
    text = (_ROOT / "pyproject.toml").read_text(encoding="utf-8")
    described = tomllib.loads(text)
    package = stage / PACKAGE
    package.mkdir()
    (package / "__init__.py").write_text(f'"""{described["project"]["description"]}"""\n', encoding="utf-8")
    data = described["tool"]["setuptools"]["package-data"]
    for folder in FOLDERS:
        for path in sorted((_ROOT / folder).rglob("*.py")):
            if not path.relative_to(_ROOT).is_relative_to(_ONLY_IN_SDIST):
                _write_module(path, package / path.relative_to(_ROOT))
        for path in sorted({path for pattern in data[folder] for path in (_ROOT / folder).glob(pattern)}):
            if path.is_file():
                target = package / path.relative_to(_ROOT)
                target.parent.mkdir(parents=True, exist_ok=True)
                shutil.copy2(path, target)
    for folder in _DATA:
        _copy_files(_ROOT / folder, package / folder)
    for name in _TEXTS:
        shutil.copy2(_ROOT / name, stage / name)
    (stage / "pyproject.toml").write_text(_package_project(text), encoding="utf-8")


def _write_module(source: Path, target: Path) -> None:
    target.parent.mkdir(parents=True, exist_ok=True)
    target.write_bytes(rewrite_imports(source.read_bytes(), source.relative_to(_ROOT).as_posix()))
    times = source.stat()
    os.utime(target, (times.st_atime, times.st_mtime))


def _package_project(text: str) -> str:
    """Return pyproject.toml for the package: its entry points in `PACKAGE`, setuptools' sections for its folders."""
    project = text[text.index("[project]") : text.index("[tool.")]
    head, mark, scripts = project.partition("[project.scripts]")
    return head + mark + re.sub(rf'"({"|".join(FOLDERS)})\.', rf'"{PACKAGE}.\1.', scripts) + _SETUPTOOLS_SECTIONS
