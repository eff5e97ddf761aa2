"""Requests that aiokafka lacks, or has with an answer it cannot read: each in one version, in aiokafka's types.

A field is a name and a type, as `aiokafka.protocol.types.Schema` takes them.
"""

from typing import Any, Final

from aiokafka.protocol.api import Request, RequestStruct, Response
from aiokafka.protocol.types import CompactArray, CompactString, Int32, Schema, TaggedFields

__all__ = ["BROKERS", "TEXT", "RawRequest", "request_struct", "table"]

TEXT: Final = CompactString("utf-8")
_TAGS: Final = ("tags", TaggedFields)


def table(*fields: tuple[str, Any]) -> CompactArray:
    """Return an array of rows with these fields, and tagged ones after them, as a flexible version has it."""
    return CompactArray(*fields, _TAGS)


BROKERS: Final = table(("node_id", Int32), ("host", TEXT), ("port", Int32), ("rack", TEXT))


def request_struct(  # noqa: PLR0913 - what the protocol says of a request
    name: str,
    key: int,
    version: int,
    asks: list[tuple[str, Any]],
    answers: list[tuple[str, Any]],
    *,
    flexible: bool = True,
) -> Any:  # noqa: ANN401 - a class of aiokafka's, which is untyped
    """Return the struct of a request and, in it, that of the answer.

    Args:
        name: the request's name in the protocol, which a wait for its answer is told by.
        key: the request's number in the protocol.
        version: the only one that is sent.
        asks: the request's fields.
        answers: the answer's.
        flexible: whether tagged fields end both, and every row (KIP-482).

    """
    own = {"API_KEY": key, "API_VERSION": version}
    tags = [_TAGS] * flexible
    answer = type("RawResponse", (Response,), own | {"SCHEMA": Schema(*answers, *tags)})
    more = {"RESPONSE_TYPE": answer, "FLEXIBLE_VERSION": flexible, "SCHEMA": Schema(*asks, *tags)}
    return type(f"{name}Request", (RequestStruct,), own | more)


class RawRequest(Request[RequestStruct]):  # type: ignore[misc] # aiokafka is untyped
    """A request of one struct, with the values of its fields in order. A broker without its version is refused."""

    API_KEY = -1  # of the class alone: each request has its struct's

    def __init__(self, struct: type[RequestStruct], *values: object) -> None:
        self.name, self.API_KEY, self._CLASSES = struct.__name__, struct.API_KEY, (struct,)
        self._values = (*values, {}) if struct.FLEXIBLE_VERSION else values

    def build(self, request_struct_class: Any) -> Any:  # noqa: ANN401 - aiokafka's
        """Return the request in its only version."""
        return request_struct_class(*self._values)
