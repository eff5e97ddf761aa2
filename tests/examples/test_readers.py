"""What all four samples of `examples/` have to do alike, seen in their text: three of them need tools to run."""

import re
from pathlib import Path

import pytest

EXAMPLES = Path(__file__).parents[2] / "examples"
READERS = {
    "python/read_results.py": ("to_thread(act, event)\n", "seen.add("),
    "go/read-results/main.go": ("act(event)\n", "ids.add("),
    "java/src/main/java/inmail/ReadResults.java": ("act(decided", "SEEN.add("),
    "typescript/src/read-results.ts": ("act(event)\n", "seen.add("),
}


SENDERS = (
    "python/send_inmail.py",
    "go/send-inmail/main.go",
    "java/src/main/java/inmail/SendInMail.java",
    "typescript/src/send-inmail.ts",
)


@pytest.mark.parametrize("reader", READERS)
def test_an_id_is_remembered_after_the_work(reader: str) -> None:
    """A client that brings a failed record again, as kafkajs does, would find it known: its answer would be lost."""
    text = (EXAMPLES / reader).read_text()
    act, add = (text.index(part) for part in READERS[reader])

    assert 1 == text.count(READERS[reader][1])
    assert act < add


@pytest.mark.parametrize("reader", READERS)
def test_a_conflict_refuses_nothing(reader: str) -> None:
    """It is about another body: the answer before it stands, and its message may have been delivered."""
    text = (EXAMPLES / reader).read_text()

    assert re.search(r"key_conflict.{0,300}ignore", text, re.DOTALL)


@pytest.mark.parametrize("sender", SENDERS)
def test_a_sender_that_has_no_answer_says_where_it_may_be(sender: str) -> None:
    """A request that is no valid event gets none: it is a dead letter."""
    assert "again, or look for it on inmail.dead-letters" in (EXAMPLES / sender).read_text()
