"""docs/producers.md says of each client what `make clients` checks, and its own examples are true."""

import json
import re
from collections.abc import Mapping
from pathlib import Path

import pytest

from infra.kafka.clients import partition_of
from schemas.catalogue import SEND_REQUESTS, decode
from tests.clients.client_table import ALL_READ, CLIENTS, COMMITTED, MARKERS_TOO, SDKS, Client

PAGE = (Path(__file__).parents[2] / "docs" / "producers.md").read_text()
READS = {
    COMMITTED: "committed ones",
    ALL_READ: "aborted ones too",
    MARKERS_TOO: "aborted ones too, and each transaction's end",
}


def _row(heading: str, client: Client) -> list[str]:
    """Return the cells of a client's row in the table below a heading."""
    section = PAGE.partition(f"\n## {heading}\n")[2].partition("\n## ")[0]
    rows = [line for line in section.splitlines() if re.match(rf"\| (\S+, )?{re.escape(client.package)} \|", line)]
    assert len(rows) == 1, (heading, client.package)
    return [cell.strip() for cell in rows[0].strip("|").split("|")]


@pytest.mark.parametrize("client", CLIENTS, ids=lambda client: client.name)
def test_the_page_has_what_is_measured(client: Client) -> None:
    """With the version that is installed: what it does by default, and each setting by its name and value."""
    _, _, agree, sent, to_send = _row("Clients that send", client)
    _, reads, to_read = _row("Clients that read", client)

    assert agree == f"{client.agreeing[0]:,} and {client.agreeing[1]}"
    assert sent == client.confirmed_by
    assert reads.startswith(READS.get(tuple(client.reads), "[some aborted ones]"))
    assert ("another client" in to_read) == (tuple(client.reads_as_set) != COMMITTED and bool(client.to_read))
    assert [] == [word for word in _words(client.to_send) if word not in to_send]
    assert [] == [word for word in _words(client.to_read) if word not in to_read]


def _words(given: Mapping[str, str]) -> list[str]:
    return [word for setting in given.items() for word in setting]


def test_the_page_names_the_sdks_that_are_run() -> None:
    """By language and version."""
    listed = re.search(r"SDKs of Python \((\S+), .*\) and\s+Java \((\S+), ", PAGE)

    assert listed is not None
    assert {sdk.language: sdk.version for sdk in SDKS} == {"python": listed.group(1), "java": listed.group(2)}


def test_the_keys_of_the_page_are_on_the_partitions_that_it_names() -> None:
    """A producer's author checks a partitioner with them."""
    rows = re.findall(r"^\| `([\w-]+)` \| `0x[0-9a-f]{8}` \| (\d+) \|$", PAGE, re.MULTILINE)

    assert len(rows) == 3
    assert [(key, str(partition_of(key.encode(), 12))) for key, _ in rows] == rows


def test_the_record_of_the_page_is_a_request() -> None:
    """Key, header and value as they stand there."""
    found = re.search(r"^key +(\S+)\nheader +(\S+): (\S+)\nvalue +(\{.*?\}\})$", PAGE, re.MULTILINE | re.DOTALL)
    assert found is not None
    key, name, content, value = found.groups()
    event = decode(SEND_REQUESTS, key.encode(), json.dumps(json.loads(value)).encode(), [(name, content.encode())])

    assert event.subject == key
