"""Reading results where a stranger wrote to their topics: what is no event is named, and costs no other its place."""

import json
from collections.abc import AsyncIterator

import pytest
from aiokafka.structs import ConsumerRecord
from typer.testing import CliRunner

from schemas.catalogue import SEND_RESULTS
from workers.cli import app
from workers.commands.running import Exit
from workers.ops.topics import results as module

EVENT = {
    "type": "inmail.send.decided.v1",
    "subject": "a-1",
    "time": "2026-01-31T09:30:00Z",
    "data": {"code": "charged", "balance_before": 1, "balance_after": 0, "sequence": 1},
}


def _record(offset: int, value: bytes | None) -> ConsumerRecord:
    return ConsumerRecord(SEND_RESULTS, 3, offset, 1_900_000_000_000, 0, b"a-1", value, None, 0, 0, ())


@pytest.mark.parametrize("options", [[], ["--json"]])
@pytest.mark.parametrize(
    "value",
    [b"\xff", b"{", b"[]", b'"text"', b"{}", b'{"type": "t", "time": "now", "data": {}}', b"[" * 100_000, None],
    ids=["bytes", "cut", "list", "text", "empty", "no time", "deep", "none"],
)
def test_a_record_that_is_no_event_is_passed_over_with_its_place(
    value: bytes | None, options: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """The one behind it is shown, alone, and standard error says where the record is."""

    async def partition_counts(*_: object) -> dict[str, int]:
        return {SEND_RESULTS: 4}

    async def read_records(*_: object, **__: object) -> AsyncIterator[ConsumerRecord]:
        yield _record(7, value)
        yield _record(8, json.dumps(EVENT).encode())

    monkeypatch.setattr(module, "partition_counts", partition_counts)
    monkeypatch.setattr(module, "read_records", read_records)
    done = CliRunner().invoke(app, ["results", *options])

    assert done.exit_code == Exit.DONE
    (line,) = done.stdout.splitlines()
    assert EVENT == json.loads(line) if options else "charged" in line
    (warning,) = [json.loads(each) for each in done.stderr.splitlines()]
    assert ("not_an_event", SEND_RESULTS, 3, 7) == (
        warning["event"],
        warning["topic"],
        warning["partition"],
        warning["offset"],
    )
