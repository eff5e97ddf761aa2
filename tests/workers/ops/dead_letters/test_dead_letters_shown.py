"""Dead letters on a terminal: what a stranger wrote is shown, and does nothing."""

from base64 import b64encode
from dataclasses import replace
from typing import Any
from uuid import uuid4

import pytest
from aiokafka.structs import ConsumerRecord
from pydantic_core import to_json
from rich.text import Text

from schemas.catalogue import DEAD_LETTERS
from tests.ledger.book import NEW_YEAR
from workers.commands.views.dead_letters import (
    format_account,
    show_dead_letter,
    show_dead_letter_counts,
    show_dead_letters,
)
from workers.commands.views.trace import _dead_letter_facts
from workers.ops.dead_letters.history import LetterHistory
from workers.ops.dead_letters.letters import DeadLetter, LetterFilter, parse_dead_letter, readable_text
from workers.ops.dead_letters.report import DeadLetterReport


@pytest.mark.parametrize("text", ["", "plain", '{"a": 1}\n\t"b"', "Zoë 日本"])
def test_text_is_shown_as_it_is(text: str) -> None:
    """Most refused messages are JSON with a mistake in it."""
    assert text == readable_text(text.encode())


@pytest.mark.parametrize(
    "data",
    [b"\xff\xfe", b"a\x00b", b"\x1b[2J", b"line\rover", "\u202egnp.exe".encode(), "\u0085".encode()],
    ids=["not UTF-8", "NUL", "escape", "carriage return", "right to left", "C1 control"],
)
def test_what_could_command_the_terminal_is_dumped_in_hex(data: bytes) -> None:
    """Control characters and overrides reach nobody's terminal."""
    shown = readable_text(data)

    assert shown.isascii()
    assert shown.startswith("00000000  ")
    assert all(character.isprintable() or character == "\n" for character in shown)


def test_a_hex_dump_has_sixteen_bytes_a_row() -> None:
    """Offset, bytes and text in columns, as in every other dump."""
    assert readable_text(bytes(range(0x3E, 0x50)) + b"\x00").splitlines() == [
        "00000000  3e 3f 40 41 42 43 44 45 46 47 48 49 4a 4b 4c 4d  >?@ABCDEFGHIJKLM",
        "00000010  4e 4f 00                                         NO.",
    ]


# -- what a stranger wrote to their topic -----------------------------------------------------------------------------


def _read(
    error: str = "planted", name: str = "trace", value: str = "e30=", *, reason: str = "not_json", **origin: Any
) -> DeadLetter:
    """Return what is made of a record whose body is nearly that of a dead letter."""
    where = {"topic": "t", "partition": 0, "offset": 7, "timestamp": "2026-01-31T10:30:00+01:00"} | origin
    headers = [{"key": name, "value_base64": None}]
    kept = {"key_base64": None, "value_base64": value, "headers": headers, "cut": None}
    body = {
        "specversion": "1.0",
        "id": uuid4(),
        "source": "/stranger",
        "type": "inmail.message.dead-lettered.v1",
        "time": NEW_YEAR,
        "data": {"reason": reason, "error": error, "origin": where, **kept},
    }
    return parse_dead_letter(
        ConsumerRecord(DEAD_LETTERS, 2, 5, 1_900_000_000_000, 0, None, to_json(body), None, 0, 0, ())
    )


@pytest.mark.parametrize(
    "wrong",
    [
        {"value": "é"},
        {"value": "e30"},
        {"timestamp": "0001-01-01T00:00:00+23:59"},
        {"timestamp": "9999-12-31T23:59:59-23:59"},
        {"reason": "\x1b[2J"},
    ],
    ids=["not ASCII", "not base64", "before the calendar", "after the calendar", "a reason that is no word"],
)
def test_a_record_that_only_looks_like_a_dead_letter_is_unreadable(wrong: dict[str, Any]) -> None:
    """It costs no other letter its place in the list."""
    letter = _read(**wrong)

    assert ("unreadable", "2/5", DEAD_LETTERS) == (letter.reason, letter.place, letter.origin_topic)
    assert letter.error.startswith("not a dead letter: ")


def test_a_letter_of_a_later_version_has_the_reason_that_it_gives() -> None:
    """The list of reasons is open: with one that this version does not know, a letter can be shown and sent back."""
    letter = _read(reason="of_a_later_version")

    assert ("of_a_later_version", "t", 7) == (letter.reason, letter.origin_topic, letter.origin_offset)
    assert letter.id is not None


def test_the_time_of_a_letter_is_in_utc() -> None:
    """Whatever zone its writer was in."""
    assert "2026-01-31T09:30:00+00:00" == _read().origin_time.isoformat()


def test_what_a_letter_says_commands_no_terminal(capsys: pytest.CaptureFixture[str]) -> None:
    """Its error, its topic and its headers' names are text wherever they are shown; JSON has them as they are."""
    command = "\x1b[2J\u202e\r"
    letter = _read(error=f"an {command}error", name=f"a {command}header", topic=f"a {command}topic")
    fate = LetterHistory((), None, None)
    told = DeadLetterReport([(letter, fate)], None)

    show_dead_letter(letter, fate)
    show_dead_letters(told)
    show_dead_letter_counts([(letter.origin_topic, letter.reason, 1)])
    shown = capsys.readouterr().out + "".join(str(Text.assemble(*told)) for _, told in _dead_letter_facts(letter, fate))

    assert all(character.isprintable() or character == "\n" for character in shown)
    assert [4, 3, 1] == [shown.count("\\x1b[2J\\u202e\\r" + what) for what in ("topic", "error", "header")]
    assert f"an {command}error" == told.summary()[0]["error"]


def test_a_letter_is_found_by_its_subject_and_by_its_key() -> None:
    """A wrong key is a reason to be dead-lettered; whoever misses a message knows its subject."""
    event = b64encode(b'{"specversion": "1.0", "subject": "dora"}').decode()
    letter = replace(_read(value=event), account_id="bob")

    assert [True, True, False] == [LetterFilter(account=each).matches(letter) for each in ("dora", "bob", "eve")]
    assert "dora (key bob)" == format_account(letter)


def test_the_list_shows_the_account_whole(capsys: pytest.CaptureFixture[str]) -> None:
    """So that it can be copied into a redrive."""
    account = str(uuid4())
    letter = replace(_read(), account_id=account)

    show_dead_letters(DeadLetterReport([(letter, None)], None))

    assert account in capsys.readouterr().out
