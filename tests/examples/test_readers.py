"""What all four readers of `examples/` have to do alike, seen in their text: three of them need tools to run."""

from pathlib import Path

import pytest

EXAMPLES = Path(__file__).parents[2] / "examples"
READERS = {
    "python/read_results.py": ("act(event)\n", "seen.add("),
    "go/read-results/main.go": ("act(event)\n", "ids.add("),
    "java/src/main/java/inmail/ReadResults.java": ("act(decided", "SEEN.add("),
    "typescript/src/read-results.ts": ("act(event)\n", "seen.add("),
}


@pytest.mark.parametrize("reader", READERS)
def test_an_id_is_remembered_after_the_work(reader: str) -> None:
    """A client that brings a failed record again, as kafkajs does, would find it known: its answer would be lost."""
    text = (EXAMPLES / reader).read_text()
    act, add = (text.index(part) for part in READERS[reader])

    assert 1 == text.count(READERS[reader][1])
    assert act < add
