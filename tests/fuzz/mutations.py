"""What can be wrong with a record: of its structure, of its bytes, and of everything around its value."""

import json
import random
from collections.abc import Callable
from dataclasses import replace
from uuid import UUID

from infra.kafka.clients import partition_of
from schemas.catalogue import INPUT_TOPICS
from tests.fuzz.records import PARTITIONS, Document, Record, dump, members, valid_record

__all__ = ["KINDS", "make_record"]

Mutation = Callable[[random.Random, Record, Document], Record]

_GZIP, _LZ4, _ZSTD = 1, 3, 4
_CONTROLS = ["\x00", "\n", "\x1b[2J", "\x7f", "\u0085", "\u202e", "\ud800", "Ω", " ", "\t", "'; drop table lots; --"]
_VALUES = [
    None, True, False, 0, -1, 1, 1.0, 1.5, 2**31, 2**53 + 1, 2**63, -(2**63) - 1, 10**30, float("nan"), float("inf"),
    "", "0", "none", "null", "a" * 129, "a" * 70_000, "\u0000", "\ud800", "1e3", [], {}, [[]], [None] * 1000, {"": ""},
    {"a": {"b": {}}}, "2026-01-01T00:00:00Z", "00000000-0000-4000-8000-000000000001",
]  # fmt: skip
_NUMBERS = [
    b"1e999", b"-1e999", b"1E-999", b"-0", b"-0.0", b"0x10", b"01", b".5", b"1.", b"+1", b"NaN", b"-NaN", b"Infinity",
    b"-Infinity", b"1" * 4300, b"9" * 4301, b"-" + b"9" * 20_000, b"9" * 60_000, b"1e5", b"1.0", b"1_000", b"1e+",
    b"0." + b"0" * 5000 + b"1", "\uff11".encode(), b"true1", b"nul",
]  # fmt: skip
_TIMES = [
    "", "now", "0", "1700000000", "2026-01-01", "2026-01-01T00:00:00", "2026-01-01 00:00:00Z", "2026-13-01T00:00:00Z",
    "2026-02-30T00:00:00Z", "2026-01-01T24:00:00Z", "2026-01-01T00:00:60Z", "1999-12-31T23:59:59Z",
    "2200-01-01T00:00:00Z", "9999-12-31T23:59:59Z", "0000-01-01T00:00:00Z", "2026-01-01T00:00:00+99:99",
    "2026-01-01T00:00:00-00:00", "2026-01-01T00:00:00.1234567890Z", "2026-01-01T00:00:00.123456789Z",
    "2026-01-01t00:00:00z", "-2026-01-01T00:00:00Z", "\uff12\uff10\uff12\uff16-01-01T00:00:00Z",
    "2026-01-01T00:00:00Z\n", "+002026-01-01T00:00:00Z",
    "2199-12-31T23:59:59.999999+14:00", "2000-01-01T00:00:00-23:59",
]  # fmt: skip
_BROKEN_UTF8 = [b"\xff", b"\xfe\xff", b"\xc0\x80", b"\xed\xa0\x80", b"\xf4\x90\x80\x80", b"\xe2\x82", b"\x80"]
_JSON = b'{}[]",:0123456789.eE+-truefalsn\\/ \t\r\nu\x00'


def _rewritten(dice: random.Random, record: Record, document: object) -> Record:
    return replace(record, value=dump(document, dice))


def _set(dice: random.Random, record: Record, document: Document) -> Record:
    holder, name = dice.choice(list(members(document)))
    holder[name] = dice.choice(_VALUES)
    return _rewritten(dice, record, document)


def _drop(dice: random.Random, record: Record, document: Document) -> Record:
    holder, name = dice.choice(list(members(document)))
    del holder[name]
    return _rewritten(dice, record, document)


def _add(dice: random.Random, record: Record, document: Document) -> Record:
    holder = dice.choice([document, document["data"]])
    names = ["extra", "", "Data", "recipient_id ", "traceparent", "\u0000", "x" * 5000, "data"]
    holder[dice.choice(names)] = dice.choice(_VALUES)
    return _rewritten(dice, record, document)


def _rename(dice: random.Random, record: Record, document: Document) -> Record:
    holder, name = dice.choice(list(members(document)))
    holder[dice.choice([name.upper(), name + " ", name[:-1], "\ufeff" + name, name.title()])] = holder.pop(name)
    return _rewritten(dice, record, document)


def _twice(dice: random.Random, record: Record, document: Document) -> Record:
    holder, name = dice.choice(list(members(document)))
    value = dice.choice([holder[name], *_VALUES])
    text = dump(document, dice).replace(b"\\ud800", b"")
    member = b"%s:%s" % (json.dumps(name).encode(), dump(value, dice))
    open_ = text.find(b"{", 0 if holder is document else 1)
    return replace(record, value=text[: open_ + 1] + member + b"," + text[open_ + 1 :])


def _spelt(dice: random.Random, document: Document, spelling: bytes) -> bytes:
    """Return a document in which one member's value is spelt so."""
    holder, name = dice.choice(list(members(document)))
    holder[name] = "<here>"
    return dump(document, dice).replace(b'"<here>"', spelling)


def _deep(dice: random.Random, record: Record, document: Document) -> Record:
    depth = dice.choice([10, 100, 198, 199, 200, 201, 202, 255, 1000, 20_000])
    open_, close = dice.choice([(b"[", b"]"), (b'{"a":', b"}")])
    closed = dice.random() < 0.7
    inner = b"1" if closed else b""
    return replace(record, value=_spelt(dice, document, open_ * depth + inner + (close * depth if closed else b"")))


def _number(dice: random.Random, record: Record, document: Document) -> Record:
    return replace(record, value=_spelt(dice, document, dice.choice(_NUMBERS)))


def _surrogate(dice: random.Random, record: Record, document: Document) -> Record:
    text = dice.choice(
        [rb'"\ud800"', rb'"\udc00\ud800"', b'"\xed\xa0\x80"', rb'"\u0000"', rb'"\uD83D\uDE00"', rb'"\u12"']
    )
    return replace(record, value=_spelt(dice, document, text))


def _time(dice: random.Random, record: Record, document: Document) -> Record:
    places = [place for place in members(document) if place[1] in ("time", "as_of") or place[1].startswith("period")]
    holder, name = dice.choice(places)
    holder[name] = dice.choice(_TIMES)
    return _rewritten(dice, record, document)


def _id(dice: random.Random, record: Record, document: Document) -> Record:
    """Control characters and look-alikes in an id, and in the key where it is the account's."""
    places = [place for place in members(document) if place[1].endswith("id") or place[1] in ("subject", "source")]
    holder, name = dice.choice(places)
    at = dice.randrange(3)
    holder[name] = str(holder[name])[:at] + dice.choice(_CONTROLS) + str(holder[name])[at:]
    if name == "subject" and record.key is not None:
        record = replace(record, key=holder[name].encode("utf-8", "surrogatepass"))
    return _rewritten(dice, record, document)


def _uuid(dice: random.Random, record: Record, document: Document) -> Record:
    id_ = UUID(document["id"])
    forms = [
        id_.hex,
        str(id_).upper(),
        f"{{{id_}}}",
        id_.urn,
        str(id_)[:-1],
        f" {id_}",
        str(UUID(int=0)),
        "f" * 32,
        id_.int,
    ]
    document["id"] = dice.choice(forms)
    return _rewritten(dice, record, document)


def _type(dice: random.Random, record: Record, document: Document) -> Record:
    name = document["type"]
    forms = [name[:-1] + "2", name[:-1] + "9" * 20, name + "\u0000", name.upper(), "inmail", "", "a" * 9000,
             name + "." * 400, "inmail.send.decided.v1", "inmail.message.dead-lettered.v1"]  # fmt: skip
    document["type"] = dice.choice(forms)
    return _rewritten(dice, record, document)


def _plan(dice: random.Random, record: Record, document: Document) -> Record:
    document["data"]["plan"] = dice.choice(["platinum", "", "basic", "premium_career ", "\u0000", "a" * 300])
    return _rewritten(dice, record, document)


def _wrong_topic(dice: random.Random, record: Record, document: Document) -> Record:
    del document
    return replace(record, topic=dice.choice(INPUT_TOPICS))


def _key(dice: random.Random, record: Record, document: Document) -> Record:
    del document
    key = record.key or b"tick"
    keys = [None, b"", key + b" ", key[:-1], key.upper(), b"\xff", b"\x00", key + b"\x00", b"k" * 10_000,
            b"k" * 200_000, dice.randbytes(16), "ключ".encode()]  # fmt: skip
    return replace(record, key=dice.choice(keys))


def _no_value(dice: random.Random, record: Record, document: Document) -> Record:
    del document
    return replace(record, value=dice.choice([None, None, b"", b" ", b"null", b"\x00", b"{}", b"[]", b'""', b"0"]))


def _headers(dice: random.Random, record: Record, document: Document) -> Record:
    """Any headers at all: a record that is valid stays so."""
    del document
    header = dice.choice(
        [
            (b"", b""),
            (b"trace", None),
            (b"k\xff\xfe", b"not UTF-8"),
            (b"\xc3\x28" * 50, dice.randbytes(30)),
            (b"\x00\x1b[2J", b"\x00"),
            (b"n" * 3000, b"v" * 30_000),
            (b"ce_type", b"inmail.send.requested.v1"),
            (b"content-type", b"application/cloudevents+json"),
            ("заголовок".encode(), b"1"),
        ]
    )
    count = dice.choice([1, 1, 2, 20, 300]) if len(header[0]) < 1000 else dice.choice([1, 3])
    headers = [header] * count
    return replace(record, headers=tuple(headers))


def _binary(dice: random.Random, record: Record, document: Document) -> Record:
    """The same event in binary mode: a record that is valid stays so."""
    attributes = [
        (f"ce_{name}".encode(), value.encode())
        for name, value in document.items()
        if isinstance(value, str) and name != "datacontenttype"
    ]
    dice.shuffle(attributes)
    content_type = [(b"content-type", dice.choice([b"application/json", b"application/json; charset=UTF-8"]))]
    headers = attributes + content_type * dice.choice([0, 1, 1])
    return replace(record, value=json.dumps(document["data"]).encode(), headers=tuple(headers))


def _cut(dice: random.Random, record: Record, document: Document) -> Record:
    del document
    value = record.value or b""
    start = dice.choice([0, 0, 0, 1, dice.randrange(len(value))])
    return replace(record, value=value[start : start + dice.randrange(len(value))])


def _flipped(dice: random.Random, record: Record, document: Document) -> Record:
    del document
    value = bytearray(record.value or b"")
    for _ in range(dice.choice([1, 1, 2, 8])):
        value[dice.randrange(len(value))] ^= 1 << dice.randrange(8)
    return replace(record, value=bytes(value))


def _spliced(dice: random.Random, record: Record, document: Document) -> Record:
    del document
    value = record.value or b""
    at, to = sorted(dice.randrange(len(value)) for _ in range(2))
    piece = dice.choice([b"", value[at:to] * 2, *_BROKEN_UTF8, dice.randbytes(3), b"\\", b'"', b"\x00", b",", b"}"])
    return replace(record, value=value[:at] + piece + value[dice.choice([at, to]) :])


def _encoded(dice: random.Random, record: Record, document: Document) -> Record:
    text = json.dumps(document)
    forms = [text.encode("utf-8-sig"), text.encode("utf-16"), text.encode("utf-16-le"), text.encode("utf-32"),
             text.encode() + b"\x00", b"\r\n " + text.encode() + b"\t ", text.encode() * 2, b"[" + text.encode() + b"]",
             json.dumps(text).encode(), text.replace('"', "'").encode(), text.encode() + b"//",
             text[:-1].encode() + b",}", b"/**/" + text.encode()]  # fmt: skip
    return replace(record, value=dice.choice(forms))


def _raw(dice: random.Random, record: Record, document: Document) -> Record:
    del document
    size = dice.choice([0, 1, 2, 5, 20, 100, 1000])
    value = dice.randbytes(size) if dice.random() < 0.5 else bytes(dice.choice(_JSON) for _ in range(size))
    return replace(record, value=value)


def _large(dice: random.Random, record: Record, document: Document) -> Record:
    """Around the limit of a value, around that of a topic, and beyond it where it compresses."""
    text = json.dumps(document).encode()
    size = dice.choice([65_535, 65_536, 65_537, 65_537, 100_000, 100_000, 900_000])
    if dice.random() < 0.05:
        return replace(record, value=text + b" " * 5_000_000, codec=dice.choice([_GZIP, _LZ4, _ZSTD]))
    return replace(record, value=text + b" " * (size - len(text)))


def _conflict(dice: random.Random, record: Record, document: Document) -> Record:
    """Another body under the same id: whichever comes first is decided, the other one refused."""
    del record
    original, first = valid_record(dice.choice(["a", "b"]), dice.randrange(50))
    document = first | {
        "data": first["data"] | {name: value for name, value in document["data"].items() if name in first["data"]}
    }
    return replace(original, value=dump(document, dice), valid=False)


def _misplaced(dice: random.Random, record: Record, document: Document) -> Record:
    del document
    return replace(record, partition=dice.randrange(PARTITIONS))


KINDS: dict[str, tuple[float, Mutation]] = {
    "member set": (14, _set), "member dropped": (4, _drop), "member added": (4, _add), "member renamed": (4, _rename),
    "member twice": (6, _twice), "nested deep": (4, _deep), "odd number": (6, _number), "surrogates": (4, _surrogate),
    "odd time": (5, _time), "odd id": (6, _id), "odd UUID": (3, _uuid), "odd type": (4, _type), "odd plan": (3, _plan),
    "wrong topic": (3, _wrong_topic), "odd key": (6, _key), "no value": (4, _no_value), "headers": (3, _headers),
    "binary mode": (3, _binary),
    "cut": (5, _cut), "bits flipped": (8, _flipped), "spliced": (8, _spliced), "encoded otherwise": (4, _encoded),
    "raw bytes": (8, _raw), "large": (0.3, _large), "conflict": (1, _conflict), "misplaced": (1, _misplaced),
}  # fmt: skip
_STAY_VALID = {"headers", "binary mode", "misplaced"}
_VALID_SHARE = 0.04
_REPEAT_SHARE = 0.02
_TWO_SHARE = 0.15  # of records with a second thing wrong around the value


def make_record(seed: str, number: int) -> Record:
    """Return a record of the fuzz. The same arguments give the same one."""
    dice = random.Random(f"{seed}/{number}")  # noqa: S311 - a workload
    name = f"{seed}/{number}"
    draw = dice.random()
    if draw < _VALID_SHARE:
        return valid_record(seed, number)[0]
    if draw < _VALID_SHARE + _REPEAT_SHARE:
        repeated, _ = valid_record(seed, dice.randrange(max(1, number // 20), number + 2) if number else 0)
        return replace(repeated, kind="repeat", name=name)
    record, document = valid_record(seed, number)
    kind = dice.choices(list(KINDS), [weight for weight, _ in KINDS.values()])[0]
    record = KINDS[kind][1](dice, record, document)
    if dice.random() < _TWO_SHARE:
        second = dice.choice([_headers, _key, _misplaced])
        record = second(dice, record, document)
        kind += " and more"
    partition = record.partition
    if record.key and kind == "odd key":
        partition = partition_of(record.key, PARTITIONS)
    return replace(record, partition=partition, kind=kind, name=name, valid=record.valid and kind in _STAY_VALID)
