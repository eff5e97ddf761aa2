"""Dead letters on a terminal: what a stranger wrote is shown, and does nothing."""

import pytest

from workers.ops.dead_letters import readable


@pytest.mark.parametrize("text", ["", "plain", '{"a": 1}\n\t"b"', "Zoë 日本"])
def test_text_is_shown_as_it_is(text: str) -> None:
    """Most refused messages are JSON with a mistake in it."""
    assert text == readable(text.encode())


@pytest.mark.parametrize(
    "data",
    [b"\xff\xfe", b"a\x00b", b"\x1b[2J", b"line\rover", "\u202egnp.exe".encode(), "\u0085".encode()],
    ids=["not UTF-8", "NUL", "escape", "carriage return", "right to left", "C1 control"],
)
def test_what_could_command_the_terminal_is_dumped_in_hex(data: bytes) -> None:
    """Control characters and overrides reach nobody's terminal."""
    shown = readable(data)

    assert shown.isascii()
    assert shown.startswith("00000000  ")
    assert all(character.isprintable() or character == "\n" for character in shown)


def test_a_hex_dump_has_sixteen_bytes_a_row() -> None:
    """Offset, bytes and text in columns, as in every other dump."""
    assert readable(bytes(range(0x3E, 0x50)) + b"\x00").splitlines() == [
        "00000000  3e 3f 40 41 42 43 44 45 46 47 48 49 4a 4b 4c 4d  >?@ABCDEFGHIJKLM",
        "00000010  4e 4f 00                                         NO.",
    ]
