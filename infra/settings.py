"""What can be set from outside: `INMAIL_*` variables, checked once at the start of a process.

Every setting has a default that suits one machine; a wrong one ends the process with its name and what is allowed.
Secrets are `SecretStr`, so that no log line, error or `repr` can show one.
"""

import os
import ssl
from difflib import get_close_matches
from enum import StrEnum
from typing import Annotated, Any

from pydantic import AfterValidator, Field, PostgresDsn, SecretStr, ValidationError, model_validator
from pydantic_settings import BaseSettings, SettingsConfigDict

__all__ = ["LogFormat", "RecordTime", "SaslMechanism", "SecurityProtocol", "Settings", "SettingsError", "load_settings"]


_PREFIX = "INMAIL_"


class SettingsError(Exception):
    """A setting is missing or wrong. The message names each one and what is allowed."""


class LogFormat(StrEnum):
    """How log lines are written."""

    AUTO = "auto"
    JSON = "json"
    CONSOLE = "console"


class RecordTime(StrEnum):
    """Whose clock gives a record of an input topic its time."""

    APPEND = "append"  # the broker's, as it takes the record
    CREATE = "create"  # the producer's: for stories that span months, and backfills


class SecurityProtocol(StrEnum):
    """How brokers are spoken to."""

    PLAINTEXT = "PLAINTEXT"
    SSL = "SSL"
    SASL_PLAINTEXT = "SASL_PLAINTEXT"
    SASL_SSL = "SASL_SSL"


class SaslMechanism(StrEnum):
    """How a client proves to a broker who it is."""

    PLAIN = "PLAIN"
    SCRAM_SHA_256 = "SCRAM-SHA-256"
    SCRAM_SHA_512 = "SCRAM-SHA-512"


def _bootstrap(servers: str) -> str:
    for server in servers.split(","):
        host, colon, port = server.strip().rpartition(":")
        if not (host and port.isdecimal() and 0 < int(port) < 65_536) and (colon or not port):
            raise ValueError("expected host:port, several separated by commas")
    return servers


class Settings(BaseSettings):
    """The settings of every `inmail` process; field `x` is read from `INMAIL_X`."""

    model_config = SettingsConfigDict(env_prefix=_PREFIX, extra="ignore", frozen=True)

    kafka_bootstrap_servers: Annotated[str, AfterValidator(_bootstrap)] = Field(
        "localhost:9092", description="host:port, comma separated"
    )
    kafka_security_protocol: SecurityProtocol = SecurityProtocol.PLAINTEXT
    kafka_sasl_mechanism: SaslMechanism = SaslMechanism.SCRAM_SHA_512
    kafka_sasl_username: str | None = None
    kafka_sasl_password: SecretStr | None = None
    kafka_ssl_ca_file: str | None = Field(None, description="PEM file of the authorities to trust")
    kafka_ssl_cert_file: str | None = Field(None, description="PEM file of the client's certificate")
    kafka_ssl_key_file: str | None = Field(None, description="PEM file of the client's key")
    kafka_ssl_key_password: SecretStr | None = None

    database_url: SecretStr = Field(
        SecretStr("postgresql://localhost:5432/inmail"),
        description="postgresql://user:password@host:port/database?sslmode=verify-full&sslrootcert=...",
    )
    database_connections: Annotated[int, Field(ge=1, le=100)] = 4
    database_timeout_seconds: Annotated[float, Field(gt=0, le=600)] = 30

    topic_partitions: Annotated[int, Field(ge=1, le=1024, description="of each topic")] = 12
    topic_replication: Annotated[int, Field(ge=1, le=9)] = 1

    topic_retention_days: Annotated[int, Field(ge=1, le=3650)] = 14
    topic_record_time: RecordTime = RecordTime.APPEND

    batch_records: Annotated[int, Field(ge=1, le=10_000, description="records a lane decides at once")] = 1000
    drain_seconds: Annotated[float, Field(gt=0, le=600, description="to finish in on SIGTERM or revoke")] = 20
    session_seconds: Annotated[float, Field(ge=6, le=300, description="of the consumer group")] = 30
    transaction_seconds: Annotated[float, Field(ge=1, le=120, description="below session_seconds")] = 15
    tick_seconds: Annotated[float, Field(gt=0, le=86_400, description="between two expiry ticks")] = 15
    tick_grace_seconds: Annotated[
        float, Field(ge=0, le=86_400, description="brokers' clocks may differ: how long after its end a lot is booked")
    ] = 60
    tick_step_lots: Annotated[int, Field(ge=1, le=10_000, description="booked in one transaction at most")] = 200
    tick_steps: Annotated[int, Field(ge=1, le=10_000, description="of one tick at most")] = 50

    # Long enough that a lane comes back meanwhile. A deployment: a drain (20 s), a start (5 s, or an image to pull)
    # and, where a process was killed, its session (30 s), for each of a few replicas in turn. A failover of Postgres or
    # of a broker: mostly 30 to 120 s, and the lanes begin again after at most 10 s more. Twice the longer of them.
    order_seconds: Annotated[
        float,
        Field(ge=0, le=86_400, description="a record waits for lanes with unread records that come before; 0: never"),
    ] = 300.0

    clock_ahead_minutes: Annotated[
        float,
        Field(gt=0, le=525_600, description="a record of a time further ahead of the host's clock is held"),
    ] = 10

    dead_letter_share: Annotated[
        float, Field(ge=0, le=1, description="of the last records: a worker that refuses more ends; 1 lets all through")
    ] = 0.5
    dead_letter_window: Annotated[int, Field(ge=50, le=1_000_000, description="records that make up that share")] = 1000
    stuck_seconds: Annotated[
        float, Field(gt=0, le=86_400, description="a worker that has work and does not get on for so long ends")
    ] = 300
    health_port: Annotated[int, Field(ge=0, lt=65_536, description="/livez, /readyz, /metrics over HTTP; 0: off")] = 0
    health_address: Annotated[str, Field(description="to serve them on")] = "127.0.0.1"

    traces: Annotated[bool, Field(description="spans by OpenTelemetry, to OTEL_EXPORTER_OTLP_ENDPOINT")] = False

    console_port: Annotated[int, Field(ge=1, lt=65_536, description="of the console's page")] = 8420
    console_address: Annotated[
        str, Field(description="to serve it on; elsewhere than on loopback with tokens only")
    ] = "127.0.0.1"
    console_hosts: Annotated[
        str, Field(description="names under which browsers come to it, comma separated, beside localhost and addresses")
    ] = ""
    console_reader_token: SecretStr | None = Field(None, description="who has it may look")
    console_reader_token_file: str | None = Field(None, description="file that holds it")
    console_operator_token: SecretStr | None = Field(None, description="who has it may also act")
    console_operator_token_file: str | None = Field(None, description="file that holds it")
    console_workers: Annotated[
        str, Field(description="workers whose probes it asks: name=host:port, comma separated")
    ] = ""
    console_timeout_seconds: Annotated[
        float, Field(gt=0, le=120, description="until it says that Kafka or Postgres does not answer")
    ] = 8

    api_port: Annotated[int, Field(ge=0, lt=65_536, description="of the read API; 0: one that is free")] = 8421
    api_address: Annotated[str, Field(description="to serve it on; elsewhere than on loopback with tokens only")] = (
        "127.0.0.1"
    )
    api_tokens: SecretStr | None = Field(None, description="name:sha256 of each token that may read, comma separated")
    api_tokens_file: str | None = Field(None, description="file of the same, one a line")
    api_without_tokens: Annotated[bool, Field(description="on loopback: whoever is on this machine may read")] = False
    api_connections: Annotated[int, Field(ge=1, le=100, description="to Postgres, of one process")] = 4
    api_timeout_seconds: Annotated[
        float, Field(gt=0, le=60, description="until a request is answered that the database does not answer")
    ] = 2
    api_wait_seconds: Annotated[
        float, Field(ge=0, le=30, description="that a request waits at most for the sequence it asks for")
    ] = 2

    plans_file: str | None = Field(None, description="plan catalogue to use instead of the shipped one")
    log_format: LogFormat = LogFormat.AUTO
    log_level: Annotated[str, Field(pattern="^(DEBUG|INFO|WARNING|ERROR)$")] = "INFO"

    @model_validator(mode="after")
    def _agree(self) -> "Settings":
        """Refuse combinations that would break a promise later, and files that cannot be used."""
        if self.transaction_seconds >= self.session_seconds:
            raise ValueError(
                "INMAIL_TRANSACTION_SECONDS must be below INMAIL_SESSION_SECONDS, or a lost lane outlives its owner"
            )
        if self.kafka_security_protocol.startswith("SASL") and not (
            self.kafka_sasl_username and self.kafka_sasl_password
        ):
            raise ValueError("INMAIL_KAFKA_SASL_USERNAME and INMAIL_KAFKA_SASL_PASSWORD are needed with SASL")
        try:
            PostgresDsn(self.database_url.get_secret_value())
        except ValidationError as error:
            raise ValueError(
                f"INMAIL_DATABASE_URL must be a postgresql:// address: {error.errors()[0]['msg']}"
            ) from None
        self._tls()
        return self

    def _tls(self) -> ssl.SSLContext | None:
        """Return how TLS is spoken to the brokers; None where it is not. Raises ValueError for a file of no use."""
        if self.kafka_security_protocol not in (SecurityProtocol.SSL, SecurityProtocol.SASL_SSL):
            return None
        try:
            context = ssl.create_default_context(cafile=self.kafka_ssl_ca_file)
        except OSError as error:
            raise ValueError(
                f"INMAIL_KAFKA_SSL_CA_FILE: expected a PEM file of certificates: {_said(error)}"
            ) from error
        if self.kafka_ssl_cert_file:
            secret = self.kafka_ssl_key_password
            password = secret.get_secret_value() if secret else ""
            try:
                # Called for a key with a password only; without it, the terminal would be asked.
                context.load_cert_chain(self.kafka_ssl_cert_file, self.kafka_ssl_key_file, lambda: password)
            except OSError as error:
                raise ValueError(
                    "INMAIL_KAFKA_SSL_CERT_FILE, INMAIL_KAFKA_SSL_KEY_FILE, INMAIL_KAFKA_SSL_KEY_PASSWORD: expected"
                    f" PEM files of a certificate and its key, and the key's password if it has one: {_said(error)}"
                ) from error
        return context

    def kafka_client(self) -> dict[str, Any]:
        """Return the connection arguments that every aiokafka client takes."""
        arguments: dict[str, Any] = {
            "bootstrap_servers": self.kafka_bootstrap_servers,
            "security_protocol": self.kafka_security_protocol.value,
        }
        if (context := self._tls()) is not None:
            arguments["ssl_context"] = context
        if self.kafka_security_protocol.startswith("SASL") and self.kafka_sasl_password:
            arguments["sasl_mechanism"] = self.kafka_sasl_mechanism.value
            arguments["sasl_plain_username"] = self.kafka_sasl_username
            arguments["sasl_plain_password"] = self.kafka_sasl_password.get_secret_value()
        return arguments


def load_settings(**overrides: object) -> Settings:
    """Read the settings from the environment.

    Raises:
        SettingsError: naming each wrong variable, what is allowed, and never its value.

    """
    unknown = [_unknown(name) for name in sorted(os.environ) if name.startswith(_PREFIX) and not _is_known(name)]
    if unknown:
        raise SettingsError("\n".join(unknown))
    try:
        return Settings(**overrides)  # type: ignore[arg-type]
    except ValidationError as error:
        lines = []
        for problem in error.errors(include_input=False, include_url=False):
            text = problem["msg"].removeprefix("Value error, ")
            lines.append(f"{_PREFIX}{str(problem['loc'][0]).upper()}: {text}" if problem["loc"] else text)
        raise SettingsError("\n".join(lines)) from None


def _said(error: OSError) -> str:
    """Return why a file cannot be used, in as few words as there are."""
    reason: str = getattr(error, "reason", None) or error.strerror or str(error)
    return reason.replace("_", " ").lower()


def _is_known(name: str) -> bool:
    return name.removeprefix(_PREFIX).lower() in Settings.model_fields


def _unknown(name: str) -> str:
    """Say that there is no such setting: a misspelt one that is passed over is one that does not hold."""
    near = get_close_matches(name, [_PREFIX + field.upper() for field in Settings.model_fields], 1)
    return f"{name}: there is no such setting" + (f"; {near[0]} was meant?" if near else "")
