"""A broker as people run them: SASL over TLS, an authorizer that allows nothing by itself, and users with rights."""

import hashlib
import secrets
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from aiokafka.protocol.admin import CreateAclsRequest, DeleteAclsRequest
from aiokafka.protocol.api import Request, RequestStruct, Response
from aiokafka.protocol.types import Bytes, CompactArray, CompactString, Int8, Int16, Int32, Schema, TaggedFields
from pydantic import SecretStr

from infra.kafka.clients import admin_client
from infra.kafka.rights import Resource, Right
from infra.local.stack import LocalStack
from infra.settings import SaslMechanism, SecurityProtocol, Settings
from tests.rights.certificates import Certificates
from tests.workers.hanging import LENIENT

__all__ = ["ADMINISTRATOR", "as_user", "grant", "make_user", "revoke", "secured_stack"]

ADMINISTRATOR = "administrator"
PASSWORDS = {ADMINISTRATOR: "administrators", "plain": "of plain"}  # of users that log in with PLAIN
_ALLOW, _LITERAL, _PREFIXED = 3, 3, 4
_KINDS = {Resource.TOPIC: 2, Resource.GROUP: 3, Resource.CLUSTER: 4, Resource.TRANSACTIONAL_IDS: 5}
_ITERATIONS, _SCRAM_SHA_512 = 4096, 2


class _CompactBytes(Bytes):
    """Bytes whose length is a varint, plus one."""

    @classmethod
    def encode(cls, value: bytes) -> bytes:
        assert 0 < len(value) < 127
        return bytes([len(value) + 1]) + value


class _ScramResponse(Response):  # type: ignore[misc] # aiokafka is untyped
    API_KEY, API_VERSION = 51, 0
    SCHEMA = Schema(
        ("throttle_time_ms", Int32),
        (
            "results",
            CompactArray(
                ("user", CompactString("utf-8")),
                ("error_code", Int16),
                ("error_message", CompactString("utf-8")),
                ("tags", TaggedFields),
            ),
        ),
        ("tags", TaggedFields),
    )


class _ScramRequestStruct(RequestStruct):  # type: ignore[misc] # aiokafka is untyped
    API_KEY, API_VERSION, FLEXIBLE_VERSION = 51, 0, True
    RESPONSE_TYPE = _ScramResponse
    SCHEMA = Schema(
        ("deletions", CompactArray(("name", CompactString("utf-8")), ("mechanism", Int8), ("tags", TaggedFields))),
        (
            "upsertions",
            CompactArray(
                ("name", CompactString("utf-8")),
                ("mechanism", Int8),
                ("iterations", Int32),
                ("salt", _CompactBytes),
                ("salted_password", _CompactBytes),
                ("tags", TaggedFields),
            ),
        ),
        ("tags", TaggedFields),
    )


class _ScramRequest(Request[_ScramRequestStruct]):  # type: ignore[misc] # aiokafka is untyped
    API_KEY = 51

    def __init__(self, user: str, password: str) -> None:
        salt = secrets.token_bytes(16)
        salted = hashlib.pbkdf2_hmac("sha512", password.encode(), salt, _ITERATIONS)
        self._row = (user, _SCRAM_SHA_512, _ITERATIONS, salt, salted, {})

    def build(self, request_struct_class: Any) -> Any:
        """Return the request in the one version there is."""
        return request_struct_class([], [self._row], {})


@contextmanager
def secured_stack(certificates: Certificates, **options: Any) -> Iterator[LocalStack]:
    """Run a stack whose broker wants TLS and a login."""
    logins = " ".join(f'user_{user}="{password}"' for user, password in PASSWORDS.items())
    module = "org.apache.kafka.common.security"
    settings = {
        # The listener keeps its name; what is spoken on it is another protocol.
        "listener.security.protocol.map": "PLAINTEXT:SASL_SSL,CONTROLLER:PLAINTEXT",
        "sasl.enabled.mechanisms": "PLAIN,SCRAM-SHA-512",
        "sasl.mechanism.inter.broker.protocol": "PLAIN",
        "listener.name.plaintext.plain.sasl.jaas.config": (
            f'{module}.plain.PlainLoginModule required username="{ADMINISTRATOR}"'
            f' password="{PASSWORDS[ADMINISTRATOR]}" {logins};'
        ),
        "listener.name.plaintext.scram-sha-512.sasl.jaas.config": f"{module}.scram.ScramLoginModule required;",
        "ssl.keystore.type": "PEM",
        "ssl.keystore.location": str(certificates.both),
        "ssl.truststore.type": "PEM",
        "ssl.truststore.location": str(certificates.authority),
        "authorizer.class.name": "org.apache.kafka.metadata.authorizer.StandardAuthorizer",
        # ANONYMOUS is the broker itself where it talks to its controller; clients have a login.
        **LENIENT,
        "super.users": f"User:{ADMINISTRATOR};User:ANONYMOUS",
    }
    with LocalStack(broker_settings=settings, **options) as stack:
        yield stack


def as_user(settings: Settings, authority: Path, user: str, mechanism: SaslMechanism | None = None) -> Settings:
    """Return settings with which a user comes."""
    plain = user in PASSWORDS
    return settings.model_copy(
        update={
            "kafka_security_protocol": SecurityProtocol.SASL_SSL,
            "kafka_sasl_mechanism": mechanism or (SaslMechanism.PLAIN if plain else SaslMechanism.SCRAM_SHA_512),
            "kafka_sasl_username": user,
            "kafka_sasl_password": SecretStr(PASSWORDS.get(user, f"of {user}")),
            "kafka_ssl_ca_file": str(authority),
        }
    )


async def make_user(administrator: Settings, user: str) -> None:
    """Make a user that logs in with SCRAM-SHA-512."""
    async with admin_client(administrator) as admin:
        answer = await admin._send_request(_ScramRequest(user, f"of {user}"))
    assert [0] == [row[1] for row in answer.results], answer


async def grant(administrator: Settings, user: str, rights: Sequence[Right]) -> None:
    """Give a user rights."""
    async with admin_client(administrator) as admin:
        for right in rights:
            answer = await admin._send_request(CreateAclsRequest(*_rule(user, right)))
            assert [0] == [code for code, *_ in answer.creation_responses], answer


async def revoke(administrator: Settings, user: str, rights: Sequence[Right]) -> None:
    """Take rights away from a user."""
    async with admin_client(administrator) as admin:
        for right in rights:
            answer = await admin._send_request(DeleteAclsRequest(*_rule(user, right)))
            assert [1] == [len(each[2]) for each in answer.filter_responses], (right, answer)


def _rule(user: str, right: Right) -> tuple[Any, ...]:
    pattern = _PREFIXED if right.resource is Resource.TRANSACTIONAL_IDS else _LITERAL
    name = right.name or "kafka-cluster"
    return (_KINDS[right.resource], name, pattern, f"User:{user}", "*", int(right.operation), _ALLOW)
