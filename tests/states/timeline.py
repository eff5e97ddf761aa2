"""What surfaces said and when: words by subject, kept as they change, and what a state's clock reads off them."""

import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from time import monotonic
from typing import NamedTuple

__all__ = ["CALM", "Heard", "Right", "Timeline", "Word"]

CALM = frozenset({"OK", "ready", "ok", "readable", "none", "pending"})  # a pending alert calls nobody
# For minutes, by design, or written once and for good: calm is asked of the others.
_LASTING = re.compile(r"some|firing as a ticket|logged|.*, (many )?arriving|.*, N dead letters in the last N minutes")


class Word(NamedTuple):
    """What a surface says of one subject: the word that is judged, and its sentence."""

    word: str
    said: str = ""


Words = Mapping[str, Word]


class Right(NamedTuple):
    """What counts as right: one of these words of one of these subjects, both patterns."""

    subject: str
    word: str

    def of(self, words: Words) -> tuple[str, Word] | None:
        """Return the subject and the word that are right, if there are."""
        found = ((name, word) for name, word in words.items() if re.fullmatch(self.subject, name))
        return next(((name, word) for name, word in found if re.fullmatch(self.word, word.word)), None)


@dataclass(slots=True)
class Heard:
    """What one surface said of one state. Seconds are None where it did not say so in time."""

    told_seconds: float | None  # from the cause to the right word
    said: str  # the sentence beside it
    before: list[str]  # other words of the same subjects on the way there
    beside: list[str]  # words of other subjects while the state lasted, and until it was calm
    calm_seconds: float | None  # from the end of the cause until all its words are calm, and stay so


class _Note(NamedTuple):
    at: float
    words: dict[str, Word]


@dataclass(slots=True)
class Timeline:
    """The notes of all surfaces, on this process's own clock."""

    notes: dict[str, list[_Note]] = field(default_factory=dict)
    looked_at: dict[str, float] = field(default_factory=dict)

    def note(self, surface: str, words: Words, at: float | None = None) -> None:
        """Keep what a surface says now, where it is not what it said before."""
        now = monotonic() if at is None else at
        self.looked_at[surface] = now
        notes = self.notes.setdefault(surface, [])
        if not notes or _plain(notes[-1].words) != _plain(words):
            notes.append(_Note(now, dict(words)))

    def words(self, surface: str) -> Words:
        """Return what a surface said last; nothing before it was asked."""
        notes = self.notes.get(surface)
        return notes[-1].words if notes else {}

    def told(self, surface: str, right: Right, since: float) -> _Note | None:
        """Return the first note that was made since a moment and says the right thing: not one that held already."""
        notes = self.notes.get(surface, [])
        return next((note for note in notes if note.at >= since and right.of(note.words)), None)

    def is_calm(self, surface: str, before: Words) -> bool:
        """Tell whether a surface says now nothing but calm words, or those it said before the cause."""
        return surface in self.notes and _is_calm(self.words(surface), before)

    def heard(self, surface: str, right: Right, caused_at: float, ended_at: float, before: Words) -> Heard:
        """Read off what a surface said of a state that was caused and ended at these moments.

        Args:
            surface: whose notes.
            right: what it should have said.
            caused_at: on the monotonic clock, in seconds.
            ended_at: the same.
            before: what it said before the cause: no news.

        """
        note = self.told(surface, right, caused_at)
        until = note.at if note is not None else ended_at
        on_the_way: list[str] = []
        beside: list[str] = []
        for each in self._since(surface, caused_at):
            seconds = each.at - caused_at
            for subject, word in _troubles(each.words, before).items():
                if not re.fullmatch(right.subject, subject):
                    _add(beside, f"{subject}: {word.word}", seconds)
                elif each.at < until and not re.fullmatch(right.word, word.word):
                    _add(on_the_way, f"{subject}: {word.word}", seconds)
        found = right.of(note.words) if note is not None else None
        return Heard(
            None if note is None else note.at - caused_at,
            f"{found[0]}: {found[1].word}. {found[1].said}".strip() if found else "",
            on_the_way,
            beside,
            self._calm_seconds(surface, ended_at, before),
        )

    def troubles(self, surface: str, since: float, until: float, before: Words) -> list[str]:
        """Return every word that was not calm between two moments."""
        found: list[str] = []
        for note in (each for each in self._since(surface, since) if each.at < until):
            for subject, word in _troubles(note.words, before).items():
                _add(found, f"{subject}: {word.word}", note.at - since)
        return found

    def _calm_seconds(self, surface: str, ended_at: float, before: Words) -> float | None:
        calm_at: float | None = None
        for note in self._since(surface, ended_at):
            if not _is_calm(note.words, before):
                calm_at = None
            elif calm_at is None:
                calm_at = max(note.at, ended_at)
        return None if calm_at is None else calm_at - ended_at

    def _since(self, surface: str, moment: float) -> list[_Note]:
        """Return the notes since a moment, and the one that held then."""
        notes = self.notes.get(surface, [])
        first = next((i for i, note in enumerate(notes) if note.at >= moment), len(notes))
        held = [_Note(moment, notes[first - 1].words)] if first else []
        return held + notes[first:]


def _plain(words: Words) -> dict[str, str]:
    return {subject: word.word for subject, word in words.items()}


def _troubles(words: Words, before: Words) -> dict[str, Word]:
    known = _plain(before)
    return {
        subject: word for subject, word in words.items() if word.word not in CALM and known.get(subject) != word.word
    }


def _is_calm(words: Words, before: Words) -> bool:
    return all(_LASTING.fullmatch(word.word) for word in _troubles(words, before).values())


def _add(found: list[str], text: str, seconds: float) -> None:
    """Add what was not said before, and when it was said first."""
    if not any(each.startswith(f"{text} (") for each in found):
        found.append(f"{text} ({max(0.0, seconds):.0f} s)")
