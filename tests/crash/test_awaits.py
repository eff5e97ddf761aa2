"""Every await of the lane's protocol has its point in the matrix, or a reason why a fault there would show nothing."""

import ast
from collections.abc import Iterator
from pathlib import Path

from tests.crash.awaits import AWAITS, OUTSIDE, WITHOUT_AWAIT
from tests.crash.gate import PATCHED
from tests.crash.points import OPENING_REQUESTS, POINTS

ROOT = Path(__file__).parents[2]
MODULES = [*sorted((ROOT / "workers" / "lane").glob("*.py")), ROOT / "infra" / "kafka" / "transactions.py"]


def _awaits(path: Path) -> Iterator[str]:
    """Yield what a module awaits, with the function that does; but its own coroutines, whose awaits are there too."""
    tree = ast.parse(path.read_text())
    methods = {id(each) for node in ast.walk(tree) if isinstance(node, ast.ClassDef) for each in node.body}
    functions = [node for node in ast.walk(tree) if isinstance(node, ast.AsyncFunctionDef)]
    own = {f"self.{each.name}" if id(each) in methods else each.name for each in functions}
    for function in functions:
        for awaited in (each for node in ast.walk(function) for each in _awaited(node)):
            called = ast.unparse(awaited.func if isinstance(awaited, ast.Call) else awaited)
            if called not in own:
                yield f"{function.name}: {called}"


def _awaited(node: ast.AST) -> list[ast.expr]:
    match node:
        case ast.Await():
            return [node.value]
        case ast.AsyncWith():
            return [item.context_expr for item in node.items]
        case ast.AsyncFor():
            return [node.iter]
    return []


def test_each_await_of_the_protocol_has_a_point_or_a_reason() -> None:
    """One that is new, or has another name, is to be thought about: see `tests/crash/awaits.py`."""
    found = {path.stem: sorted(set(_awaits(path))) for path in MODULES if path.stem not in OUTSIDE}

    assert {name: each for name, each in found.items() if each} == {name: sorted(each) for name, each in AWAITS.items()}


def test_what_an_await_says_is_a_point_or_a_reason_in_words() -> None:
    """And each point is one that workers are made to stand at, and that an await names, or says why none does."""
    said = {each for module in AWAITS.values() for each in module.values()}

    assert [] == sorted(each for each in said - set(POINTS) if " " not in each)
    assert set(POINTS) == PATCHED == (said & set(POINTS)) | set(WITHOUT_AWAIT)
    assert set(POINTS) > OPENING_REQUESTS
