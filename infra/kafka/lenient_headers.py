"""Reads records whose header names are not UTF-8, which aiokafka cannot decode.

Kafka accepts any bytes as a header's name. aiokafka decodes names strictly inside the fetcher, so one such record makes
every poll of its partition fail. Here the batch is decoded again leniently: the record has its whole value, and its
header's name has an escape for each invalid byte.
"""

from collections.abc import Iterator
from typing import Any

from aiokafka.consumer import fetcher
from aiokafka.errors import CorruptRecordException
from aiokafka.record.default_records import _DefaultRecordBatchPy, _DefaultRecordPy
from aiokafka.record.memory_records import MemoryRecords, _MemoryRecordsPy
from aiokafka.record.util import decode_varint

__all__ = ["LenientRecords", "install"]


def install() -> None:
    """Make all consumers of this process read leniently."""
    fetcher.MemoryRecords = LenientRecords


class LenientRecords:
    """The batches of a broker's answer to a fetch."""

    def __init__(self, data: bytes) -> None:
        self._data = data
        self._records = MemoryRecords(data)
        self._batches_read = 0

    def __getattr__(self, name: str) -> Any:  # noqa: ANN401 - aiokafka's attributes
        return getattr(self._records, name)

    def next_batch(self) -> "_Batch":
        """Return the next batch."""
        self._batches_read += 1
        return _Batch(self._records.next_batch(), self._data, self._batches_read - 1)


class _Batch:
    """A batch that is decoded again when the name of a header is not UTF-8."""

    def __init__(self, batch: Any, data: bytes, number: int) -> None:  # noqa: ANN401 - of aiokafka's compiled module
        self._batch = batch
        self._data = data
        self._number = number

    def __getattr__(self, name: str) -> Any:  # noqa: ANN401 - aiokafka's attributes
        return getattr(self._batch, name)

    def __next__(self) -> Any:  # noqa: ANN401 - for a control batch, whose one record has no headers
        return next(self._batch)

    def __iter__(self) -> Iterator[Any]:
        passed = 0
        try:
            for record in self._batch:
                yield record
                passed += 1
        except UnicodeDecodeError:
            for number, record in enumerate(self._decode_leniently()):
                if number >= passed:
                    yield record

    def _decode_leniently(self) -> Iterator[Any]:
        records = _MemoryRecordsPy(self._data)
        for _ in range(self._number):
            records.next_batch()
        return iter(_LenientBatch(records._next_slice))  # noqa: SLF001 - the bytes of the batch


class _LenientBatch(_DefaultRecordBatchPy):  # type: ignore[misc] # aiokafka is untyped
    """aiokafka's reader with lenient names of headers."""

    def _read_msg(self) -> Any:  # noqa: ANN401
        position: int = self._pos
        length, position = decode_varint(self._buffer, position)
        end = position + length
        _, position = decode_varint(self._buffer, position)  # attributes: none are defined
        ts_delta, position = decode_varint(self._buffer, position)
        offset_delta, position = decode_varint(self._buffer, position)
        key, position = self._bytes(position)
        value, position = self._bytes(position)
        count, position = decode_varint(self._buffer, position)
        headers = []
        for _ in range(count):
            name, position = self._bytes(position)
            body, position = self._bytes(position)
            headers.append(((name or b"").decode("utf-8", "backslashreplace"), body))
        if position != end:
            raise CorruptRecordException(f"Invalid record size: {length} bytes announced, {position - end} more read")
        self._pos: int = position
        by_broker = self.timestamp_type == self.LOG_APPEND_TIME
        timestamp = self.max_timestamp if by_broker else self.first_timestamp + ts_delta
        return _DefaultRecordPy(self.base_offset + offset_delta, timestamp, self.timestamp_type, key, value, headers)

    def _bytes(self, position: int) -> tuple[bytes | None, int]:
        size, position = decode_varint(self._buffer, position)
        if size < 0:
            return None, position
        return bytes(self._buffer[position : position + size]), position + size
