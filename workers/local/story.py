"""A story to play: chapters of events, with the expected outcome of each line."""

import json
import tomllib
from dataclasses import dataclass
from itertools import groupby
from pathlib import Path

from infra.kafka.sender import Outgoing
from workers.ops.topics.record_lines import PublishTime, parse_line

__all__ = ["Chapter", "StoryLine", "load_story"]

_STORY_FILE = "story.toml"


@dataclass(frozen=True, slots=True)
class StoryLine:
    """One line of a chapter: the message to publish and its expected outcome."""

    outgoing: Outgoing
    request_id: str | None  # None where the line holds no event
    text: str
    expected: str

    @property
    def is_dead_letter(self) -> bool:
        """Whether the line must become a dead letter."""
        return self.expected.startswith("dead letter: ")


@dataclass(frozen=True, slots=True)
class Chapter:
    """A chapter of the story."""

    title: str
    text: str
    lines: tuple[StoryLine, ...]

    def topic_runs(self) -> list[list[StoryLine]]:
        """Return the lines in runs of one topic. Topics are read concurrently, so a story waits between runs."""
        return [list(run) for _, run in groupby(self.lines, key=lambda line: line.outgoing.topic)]


def load_story(folder: Path) -> list[Chapter]:
    """Read a story: `story.toml` and the files named in it.

    Raises:
        OSError: when a file is missing.
        ValueError: when the number of expectations differs from a file's lines, or a line cannot be published.

    """
    chapters = []
    for chapter in tomllib.loads((folder / _STORY_FILE).read_text())["chapter"]:
        texts = (folder / chapter["file"]).read_bytes().splitlines()
        if len(texts) != len(chapter["expect"]):
            raise ValueError(
                f"{chapter['file']} has {len(texts)} lines, {_STORY_FILE} expects {len(chapter['expect'])}"
            )
        lines = tuple(
            _parse_story_line(text, expected) for text, expected in zip(texts, chapter["expect"], strict=True)
        )
        chapters.append(Chapter(chapter["title"], chapter["text"], lines))
    return chapters


def _parse_story_line(text: bytes, expected: str) -> StoryLine:
    document = json.loads(text)
    return StoryLine(parse_line(text, record_time=PublishTime.EVENT), document.get("id"), text.decode(), expected)
