"""Where a page of dead letters ends, as a parameter: short enough for a request line with a thousand partitions.

By partition in order: how many partitions are left out before it, and the offset, each as a varint; then base64 for
URLs. At an offset of a million that is four bytes a partition: a thousand partitions have 5.5 kB. aiohttp takes a
request line of 8 kB.
"""

import base64
import binascii
from collections.abc import Iterator, Mapping
from typing import Final

from workers.ops.dead_letters.pages import LetterCursor

__all__ = ["cursor_text", "read_cursor"]

_MOST_CHARACTERS: Final = 8000
_MOST_BITS: Final = 63
_BITS: Final = 7
_MORE: Final = 1 << _BITS


def cursor_text(cursor: LetterCursor) -> str:
    """Return the text of a page's end."""
    packed, next_partition = bytearray(), 0
    for partition, offset in sorted(cursor.items()):
        packed += _varint(partition - next_partition) + _varint(offset)
        next_partition = partition + 1
    return base64.urlsafe_b64encode(packed).decode().rstrip("=")


def read_cursor(text: object) -> Mapping[int, int]:
    """Return the page's end that a text names.

    Raises:
        ValueError: when it is none that `cursor_text` wrote.

    """
    if not isinstance(text, str) or not 0 < len(text) <= _MOST_CHARACTERS:
        raise ValueError("expected a text of bounded length")
    try:
        packed = base64.b64decode(text.encode("ascii") + b"=" * (-len(text) % 4), b"-_", validate=True)
    except binascii.Error as error:
        raise ValueError("expected base64 for URLs") from error
    numbers = list(_numbers(packed))
    if len(numbers) % 2:
        raise ValueError("expected a partition and an offset each")
    cursor, partition = {}, 0
    for skipped, offset in zip(numbers[::2], numbers[1::2], strict=True):
        partition += skipped
        cursor[partition] = offset
        partition += 1
    return cursor


def _varint(number: int) -> bytes:
    packed = bytearray()
    while number >= _MORE:
        packed.append(number % _MORE | _MORE)
        number >>= _BITS
    packed.append(number)
    return bytes(packed)


def _numbers(packed: bytes) -> Iterator[int]:
    number, bits = 0, 0
    for byte in packed:
        number |= (byte % _MORE) << bits
        bits += _BITS
        if byte < _MORE:
            if number >> _MOST_BITS:
                raise ValueError("expected no larger number than Kafka's")
            yield number
            number, bits = 0, 0
    if bits:
        raise ValueError("expected whole numbers")
