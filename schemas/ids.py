"""Ids of results, derived from what they answer: the same answer has the same id however often it is written.

All are UUIDv5 under one namespace. No two names can meet: account ids hold no blank, and of the names that
begin with one, an answer's ends with a UUID, a conflict's with a UUID and a number, and that of a movement or
notice has a blank and a number behind it and nothing else, where a tick's and a dead letter's go on. A balance's has a
word between two blanks.
"""

from datetime import datetime
from hashlib import sha1
from uuid import UUID

__all__ = [
    "NAMESPACE",
    "REQUESTS",
    "DerivedId",
    "answer_id",
    "balance_id",
    "conflict_id",
    "dead_letter_id",
    "derive_id",
    "movement_id",
    "tick_answer_id",
    "tick_conflict_id",
]

# Every id ever published hangs on this: it never changes.
NAMESPACE = UUID("6f1d3f0e-5a0b-4c58-9d57-2b7d1f0f6c11")

# The namespace of request ids that are derived: part of the contract, so that producers can compute them.
REQUESTS = UUID("8a4c1f5e-3d27-4f0b-b1c9-6e2a90d7c354")

_request_hash = sha1(REQUESTS.bytes, usedforsecurity=False)
_hash = sha1(NAMESPACE.bytes, usedforsecurity=False)
_VARIANT = dict(zip("0123456789abcdef", "89ab" * 4, strict=True))  # its two highest bits are 10 (RFC 9562)


def _uuid5(name: str) -> str:
    """Return str(uuid.uuid5(NAMESPACE, name)) in a third of the time: the namespace is hashed once, no UUID built."""
    digest = _hash.copy()
    digest.update(name.encode())
    text = digest.hexdigest()
    return f"{text[:8]}-{text[8:12]}-5{text[13:16]}-{_VARIANT[text[16]]}{text[17:20]}-{text[20:32]}"


class DerivedId(UUID):
    """The request id of an event whose own id, `original`, is no UUID."""

    __slots__ = ("original",)
    original: str

    def __init__(self, digest: bytes, original: str) -> None:
        super().__init__(bytes=digest[:16], version=5)
        object.__setattr__(self, "original", original)  # a UUID refuses to be written to


def derive_id(source: str, id_: str) -> DerivedId:
    """Return the request id of an event whose id is no UUID: UUIDv5 of its source, a line feed and its id."""
    digest = _request_hash.copy()
    digest.update(f"{source}\n{id_}".encode())
    return DerivedId(digest.digest(), id_)


def answer_id(account_id: str, request_id: UUID) -> str:
    """Return the id of the first final answer to a request of an account."""
    return _uuid5(f"{account_id}/{request_id}")


def conflict_id(account_id: str, request_id: UUID, fingerprint: int) -> str:
    """Return the id of the answer to a request whose id had been used with another body."""
    return _uuid5(f"{account_id}/{request_id}/{fingerprint}")


def movement_id(account_id: str, sequence: int) -> str:
    """Return the id of a movement or notice that is not itself an answer, such as the expiry of a lot.

    And of an answer that is not final (`balance_not_current`): its request may have several, and a final one.

    By its number in the account, since one request or tick may cause several that are alike.
    """
    return _uuid5(f"{account_id} {sequence}")


def balance_id(account_id: str, sequence: int) -> str:
    """Return the id of the balance of an account after the journal row with number `sequence`."""
    return _uuid5(f"{account_id} balance {sequence}")


def tick_answer_id(partition: int, request_id: UUID) -> str:
    """Return the id of the first answer to a tick in a partition."""
    return _uuid5(f"tick {partition}/{request_id}")


def tick_conflict_id(partition: int, request_id: UUID, fingerprint: int) -> str:
    """Return the id of the answer to a tick whose id had been used with another body."""
    return _uuid5(f"tick {partition}/{request_id}/{fingerprint}")


def dead_letter_id(topic: str, partition: int, offset: int, since: datetime | None = None) -> str:
    """Return the id of the dead letter of an input record.

    Args:
        topic: of the record.
        partition: of the record.
        offset: of the record.
        since: when its topic followed another one of this name, whose records had the same places; None: it is the
            first.

    """
    return _uuid5(f"dead-letter {topic}/{partition}/{offset}" + (f" {since.isoformat()}" if since else ""))
