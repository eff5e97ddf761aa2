"""Records for the fuzzer: each made from a seed and a number alone, so that any of them can be made again."""

import json
import random
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any
from uuid import UUID

import schemas
from infra.kafka.clients import partition_of
from schemas.catalogue import BILLING_EVENTS, CATALOGUE, EXPIRY_TICKS, SEND_REQUESTS

__all__ = ["PARTITIONS", "Document", "Record", "dump", "members", "valid_record"]

PARTITIONS = 4
ACCOUNTS = 40
NONE = 0  # a codec, as a batch's header names it

Document = dict[str, Any]
Headers = tuple[tuple[bytes, bytes | None], ...]

EXAMPLES: dict[str, list[Document]] = {
    topic: [
        json.loads((Path(schemas.__file__).parent / "examples" / f"{row.name}.json").read_bytes())
        for row in CATALOGUE
        if row.topic == topic
    ]
    for topic in (SEND_REQUESTS, BILLING_EVENTS, EXPIRY_TICKS)
}
# A tick is decided in a transaction of its own, and so is whatever else lies on its topic.
_WEIGHTS = {SEND_REQUESTS: 55, BILLING_EVENTS: 40, EXPIRY_TICKS: 5}


@dataclass(frozen=True, slots=True)
class Record:
    """One record as it is put down in a batch. What is printed of it makes it again."""

    topic: str
    partition: int
    key: bytes | None
    value: bytes | None
    headers: Headers = ()
    timestamp: int | None = None
    codec: int = NONE
    valid: bool = False  # whether it has to be decided; what is not may be either
    kind: str = "pasted"
    name: str = ""  # seed and number

    @property
    def size(self) -> int:
        """About how many bytes it takes."""
        return len(self.key or b"") + len(self.value or b"") + sum(len(n) + len(v or b"") for n, v in self.headers) + 64


def dump(document: object, dice: random.Random) -> bytes:
    """Return a document as one of the producers that there are might write it."""
    separators = dice.choice([(",", ":"), (", ", ": ")])
    # Half of a surrogate pair is no UTF-8, but there are writers of it.
    text = json.dumps(document, separators=separators, ensure_ascii=dice.random() < 0.5)
    return text.encode("utf-8", "surrogatepass")


def members(document: Document) -> Iterator[tuple[Document, str]]:
    """Yield every member of every object as its holder and name."""
    for name, value in document.items():
        yield document, name
        if isinstance(value, dict):
            yield from members(value)


def valid_record(seed: str, number: int) -> tuple[Record, Document]:
    """Return an event as the contract wants it, and its document. The same arguments give the same."""
    name = f"{seed}/{number}"
    dice = random.Random(f"valid {name}")  # noqa: S311 - a workload
    topic = dice.choices(list(_WEIGHTS), list(_WEIGHTS.values()))[0]
    document: Document = json.loads(json.dumps(dice.choice(EXAMPLES[topic])))
    document["id"] = str(UUID(int=dice.getrandbits(128), version=4))
    if topic == EXPIRY_TICKS:
        partition, key = dice.randrange(PARTITIONS), None
    else:
        account = f"fuzz-{seed}-{dice.randrange(ACCOUNTS)}"
        document["subject"] = account
        key = account.encode()
        partition = partition_of(key, PARTITIONS)
    record = Record(topic, partition, key, dump(document, dice), valid=True, kind="valid", name=name)
    return replace(record, codec=dice.randrange(5)), document
