"""How much of itself a test plays: enough to show each kind of failure, or all there is (`make test-all`)."""

import os
from collections.abc import Iterable
from typing import Any

import pytest

__all__ = ["ALL", "whole", "whole_but"]

# Whether tests marked `whole` run (pyproject.toml says which those are), and the others with all their cases.
ALL = os.environ.get("TESTS") == "all"


def whole(*values: Any) -> Any:
    """Return the values of a test's parameters as a case that only `make test-all` runs."""
    return pytest.param(*values, marks=pytest.mark.whole)


def whole_but(cases: Iterable[str], *kept: str) -> list[Any]:
    """Return the cases of a test, all of which but those kept only `make test-all` runs."""
    names = list(cases)
    assert set(kept) <= set(names), f"{set(kept) - set(names)}: no such case"
    return [name if name in kept else whole(name) for name in names]
