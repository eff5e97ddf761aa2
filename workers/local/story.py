"""A story to play: chapters of events, and what must come of each line."""

import json
import tomllib
from dataclasses import dataclass
from itertools import groupby
from pathlib import Path

from infra.kafka.sender import Outgoing
from workers.ops.topics.publish import PublishTime, parse_line

__all__ = ["Chapter", "StoryLine", "load_story"]

_FILE = "story.toml"


@dataclass(frozen=True, slots=True)
class StoryLine:
    """One line of a chapter: what is published, and what is to come of it."""

    outgoing: Outgoing
    request_id: str | None  # None where the line holds no event
    text: str
    expect: str

    @property
    def is_dead_letter(self) -> bool:
        """Whether it must become a dead letter."""
        return self.expect.startswith("dead letter: ")


@dataclass(frozen=True, slots=True)
class Chapter:
    """A part of the story."""

    title: str
    text: str
    lines: tuple[StoryLine, ...]

    def blocks(self) -> list[list[StoryLine]]:
        """Return the lines in runs of one topic: topics are read side by side, so a story waits between runs."""
        return [list(run) for _, run in groupby(self.lines, key=lambda line: line.outgoing.topic)]


def load_story(folder: Path) -> list[Chapter]:
    """Read a story: its `story.toml` and the files that names.

    Raises:
        OSError: when a file is missing.
        ValueError: when the expectations do not match a file's lines, or a line cannot be published.

    """
    chapters = []
    for chapter in tomllib.loads((folder / _FILE).read_text())["chapter"]:
        texts = (folder / chapter["file"]).read_bytes().splitlines()
        if len(texts) != len(chapter["expect"]):
            raise ValueError(f"{chapter['file']} has {len(texts)} lines, {_FILE} expects {len(chapter['expect'])}")
        lines = tuple(_line(text, expect) for text, expect in zip(texts, chapter["expect"], strict=True))
        chapters.append(Chapter(chapter["title"], chapter["text"], lines))
    return chapters


def _line(text: bytes, expect: str) -> StoryLine:
    document = json.loads(text)
    return StoryLine(parse_line(text, record_time=PublishTime.EVENT), document.get("id"), text.decode(), expect)
