"""The shape of the house: imports point one way, and pieces stay small enough to read."""

import ast
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
MAY_IMPORT = {"schemas": {"schemas"}, "infra": {"infra"}, "workers": {"workers", "infra", "schemas"}}
MODULES = sorted(path for folder in MAY_IMPORT for path in (ROOT / folder).rglob("*.py"))

MAX_MODULE_LINES = 300
MAX_FUNCTION_LINES = 50
# Longer on purpose; each with its reason.
LONG: dict[str, str] = {}


def _imports(tree: ast.Module) -> Iterator[str]:
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from (alias.name.split(".")[0] for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            yield (node.module or "").split(".")[0]


def _name(path: Path) -> str:
    return path.relative_to(ROOT).as_posix()


def test_there_are_modules_to_check() -> None:
    """A wrong path would make every test below pass."""
    assert len(MODULES) > 30


@pytest.mark.parametrize("path", MODULES, ids=_name)
def test_imports_point_one_way(path: Path) -> None:
    """The workers may import infra and schemas; those two import neither each other nor workers."""
    home = path.relative_to(ROOT).parts[0]
    foreign = {"schemas", "infra", "workers", "tests"} - MAY_IMPORT[home]

    assert set() == foreign & set(_imports(ast.parse(path.read_text())))


@pytest.mark.parametrize("path", MODULES, ids=_name)
def test_modules_and_functions_stay_short(path: Path) -> None:
    """A longer one wants a reason, written in LONG."""
    text = path.read_text()
    lengths = {_name(path): (len(text.splitlines()), MAX_MODULE_LINES)}
    for node in ast.walk(ast.parse(text)):
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            length = (node.end_lineno or node.lineno) - node.lineno + 1
            lengths[f"{_name(path)}:{node.name}"] = (length, MAX_FUNCTION_LINES)

    assert [] == [name for name, (length, most) in lengths.items() if length > most and name not in LONG]


def test_a_command_that_serves_nothing_loads_no_web_server() -> None:
    """Every start of the command would take a fifth of a second longer."""
    asked = "import sys, workers.cli; print('aiohttp' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", asked], cwd=ROOT, capture_output=True, text=True, check=True)

    assert "False\n" == done.stdout


def test_the_newcomers_path_is_short() -> None:
    """What a newcomer reads first, in one sitting: 800 lines. Nobody reads the table of events through."""
    path = [
        "README.md",
        "workers/ledger/README.md",
        "workers/ledger/model.py",
        "workers/ledger/sql/debit.sql",
        "workers/jobs/send.py",
        "workers/lane/lane.py",
    ]

    texts = [
        re.sub("<!-- events:begin -->.*<!-- events:end -->", "", (ROOT / name).read_text(), flags=re.DOTALL)
        for name in path
    ]
    assert sum(len(text.splitlines()) for text in texts) < 800
