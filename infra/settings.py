"""The settings of a process: `INMAIL_*` variables of the environment, checked once at its start.

Every setting has a default for one machine. A wrong setting ends the process with its name and the allowed values.
Secrets are `SecretStr`, so that no log line, error or `repr` shows them.
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
    """A setting is missing or wrong. The message names each wrong setting and its allowed values."""


class LogFormat(StrEnum):
    """The format of log lines."""

    AUTO = "auto"
    JSON = "json"
    CONSOLE = "console"


class RecordTime(StrEnum):
    """The clock that gives a record of an input topic its time."""

    APPEND = "append"  # the broker's, when it stores the record
    CREATE = "create"  # the producer's: for demos that span months, and backfills


class SecurityProtocol(StrEnum):
    """The security protocol of connections to brokers."""

    PLAINTEXT = "PLAINTEXT"
    SSL = "SSL"
    SASL_PLAINTEXT = "SASL_PLAINTEXT"
    SASL_SSL = "SASL_SSL"


class SaslMechanism(StrEnum):
    """The mechanism by which a client authenticates to a broker."""

    PLAIN = "PLAIN"
    SCRAM_SHA_256 = "SCRAM-SHA-256"
    SCRAM_SHA_512 = "SCRAM-SHA-512"


def _bootstrap(servers: str) -> str:
    for server in servers.split(","):
        host, colon, port = server.strip().rpartition(":")
        if not (host and port.isdecimal() and 0 < int(port) < 65_536) and (colon or not port):
            raise ValueError("expected host:port, comma separated")
    return servers


class Settings(BaseSettings):
    """The settings of every `inmail` process; the variable `INMAIL_X` sets the field `x`."""

    model_config = SettingsConfigDict(env_prefix=_PREFIX, extra="ignore", frozen=True)

    kafka_bootstrap_servers: Annotated[str, AfterValidator(_bootstrap)] = Field(
        "localhost:9092", description="host:port, comma separated"
    )
    kafka_security_protocol: SecurityProtocol = Field(
        SecurityProtocol.PLAINTEXT, description="how clients connect to the brokers"
    )
    kafka_sasl_mechanism: SaslMechanism = Field(SaslMechanism.SCRAM_SHA_512, description="with a SASL protocol")
    kafka_sasl_username: str | None = Field(None, description="needed with a SASL protocol")
    kafka_sasl_password: SecretStr | None = Field(None, description="needed with a SASL protocol")
    kafka_ssl_ca_file: str | None = Field(None, description="PEM file of the trusted certificate authorities")
    kafka_ssl_cert_file: str | None = Field(None, description="PEM file of the client's certificate")
    kafka_ssl_key_file: str | None = Field(None, description="PEM file of the client's key")
    kafka_ssl_key_password: SecretStr | None = Field(None, description="password of the client's key, if it has one")

    database_url: SecretStr = Field(
        SecretStr("postgresql://localhost:5432/inmail"),
        description="postgresql://user:password@host:port/database?sslmode=verify-full&sslrootcert=...",
    )
    database_shards: SecretStr = Field(
        SecretStr(""), description="URLs of all servers of the books, blanks between; empty: only INMAIL_DATABASE_URL"
    )
    database_connections: Annotated[
        int, Field(ge=1, le=100, description="maximum number of connections of one worker process")
    ] = 4
    database_timeout_seconds: Annotated[
        float, Field(gt=0, le=600, description="longest wait for a connection or a statement")
    ] = 30

    topic_partitions: Annotated[int, Field(ge=1, le=1024, description="number of partitions of each topic")] = 12
    topic_replication: Annotated[int, Field(ge=1, le=9, description="number of replicas of each partition")] = 1
    topic_retention_days: Annotated[int, Field(ge=1, le=3650, description="days that a record is kept")] = 14
    topic_record_time: RecordTime = Field(
        RecordTime.APPEND,
        description="clock that gives a record its time: append: broker, create: producer",
    )

    balances_topic: Annotated[
        bool, Field(description="publish each account's balance after a change to the compacted topic inmail.balances")
    ] = False

    batch_records: Annotated[
        int, Field(ge=1, le=10_000, description="maximum number of records that a lane decides at once")
    ] = 1000
    drain_seconds: Annotated[float, Field(gt=0, le=600, description="time to finish after SIGTERM or a revocation")] = (
        20
    )
    session_seconds: Annotated[float, Field(ge=6, le=300, description="session timeout of the consumer group")] = 30
    transaction_seconds: Annotated[
        float, Field(ge=1, le=120, description="transaction timeout; below INMAIL_SESSION_SECONDS")
    ] = 15
    tick_seconds: Annotated[float, Field(gt=0, le=86_400, description="time between two expiry ticks")] = 15
    tick_grace_seconds: Annotated[
        float,
        Field(ge=0, le=86_400, description="time between a lot's end and its booking, as brokers' clocks may differ"),
    ] = 60
    tick_step_lots: Annotated[
        int, Field(ge=1, le=10_000, description="maximum number of lots booked in one transaction")
    ] = 200
    tick_steps: Annotated[int, Field(ge=1, le=10_000, description="maximum number of transactions of one tick")] = 50

    # Long enough for a lane to return. A deployment takes a drain (20 s), a start (5 s, longer with an image to pull)
    # and, if a process was killed, its session (30 s), for each of a few replicas in turn. A failover of Postgres or of
    # a broker mostly takes 30 to 120 s, and the lanes start at most 10 s later. The default is twice the longer time.
    order_seconds: Annotated[
        float,
        Field(
            ge=0,
            le=86_400,
            description="longest wait of a record for lanes that have unread earlier records; 0: no wait",
        ),
    ] = 300.0

    clock_ahead_minutes: Annotated[
        float,
        Field(gt=0, le=525_600, description="a record whose time is further ahead of the host's clock is held"),
    ] = 10

    dead_letter_share: Annotated[
        float,
        Field(ge=0, le=1, description="a worker ends when a larger share of its last records is refused; 1: never"),
    ] = 0.5
    dead_letter_window: Annotated[
        int, Field(ge=50, le=1_000_000, description="number of records of which the share is taken")
    ] = 1000
    stuck_seconds: Annotated[
        float, Field(gt=0, le=86_400, description="a worker that has work ends after this time without progress")
    ] = 300
    health_port: Annotated[int, Field(ge=0, lt=65_536, description="/livez, /readyz, /metrics over HTTP; 0: off")] = 0
    health_address: Annotated[str, Field(description="address to serve these pages on")] = "127.0.0.1"

    traces: Annotated[bool, Field(description="send OpenTelemetry spans to OTEL_EXPORTER_OTLP_ENDPOINT")] = False

    console_port: Annotated[int, Field(ge=1, lt=65_536, description="port of the console")] = 8420
    console_address: Annotated[
        str, Field(description="address of the console; any other than loopback needs tokens")
    ] = "127.0.0.1"
    console_hosts: Annotated[
        str, Field(description="host names of the console, comma separated, beside localhost and IP addresses")
    ] = ""
    console_reader_token: SecretStr | None = Field(None, description="token for reading")
    console_reader_token_file: str | None = Field(None, description="file that contains the token")
    console_operator_token: SecretStr | None = Field(None, description="token for reading and for operations")
    console_operator_token_file: str | None = Field(None, description="file that contains the token")
    console_workers: Annotated[
        str, Field(description="workers whose probes the console queries: name=host:port, comma separated")
    ] = ""
    console_history_file: Annotated[
        str, Field(description="file that keeps the console's time series over a restart; empty: in memory only")
    ] = ""
    console_timeout_seconds: Annotated[
        float, Field(gt=0, le=120, description="time after which Kafka or Postgres counts as not answering")
    ] = 8

    api_port: Annotated[int, Field(ge=0, lt=65_536, description="port of the read API; 0: any free one")] = 8421
    api_address: Annotated[str, Field(description="address of the read API; any other than loopback needs tokens")] = (
        "127.0.0.1"
    )
    api_tokens: SecretStr | None = Field(None, description="name:sha256 of each token that may read, comma separated")
    api_tokens_file: str | None = Field(None, description="file with one name:sha256 a line")
    api_without_tokens: Annotated[bool, Field(description="on loopback: every user of this machine may read")] = False
    api_connections: Annotated[int, Field(ge=1, le=100, description="connections of a process to each server")] = 4
    api_timeout_seconds: Annotated[
        float, Field(gt=0, le=60, description="time after which a request that Postgres does not answer fails")
    ] = 2
    api_wait_seconds: Annotated[
        float, Field(ge=0, le=30, description="longest wait of a request for the sequence it asks for")
    ] = 2

    plans_file: str | None = Field(None, description="file of the plan catalogue, instead of the shipped one")
    log_format: LogFormat = Field(LogFormat.AUTO, description="auto: readable lines on a terminal, JSON elsewhere")
    log_level: Annotated[
        str, Field(pattern="^(DEBUG|INFO|WARNING|ERROR)$", description="least severity that is logged")
    ] = "INFO"

    @model_validator(mode="after")
    def _agree(self) -> "Settings":
        """Refuse combinations that would break a guarantee, and unusable files."""
        if self.transaction_seconds >= self.session_seconds:
            raise ValueError(
                "INMAIL_TRANSACTION_SECONDS must be below INMAIL_SESSION_SECONDS, or a transaction outlives its owner"
            )
        if self.kafka_security_protocol.startswith("SASL") and not (
            self.kafka_sasl_username and self.kafka_sasl_password
        ):
            raise ValueError("INMAIL_KAFKA_SASL_USERNAME and INMAIL_KAFKA_SASL_PASSWORD are needed with SASL")
        url, urls = self.database_url.get_secret_value(), self.database_shards.get_secret_value().split()
        for each in (url, *urls):
            try:
                PostgresDsn(each)
            except ValidationError as error:
                name = "INMAIL_DATABASE_URL" if each == url else "each URL in INMAIL_DATABASE_SHARDS"
                raise ValueError(f"{name} must be a postgresql:// address: {error.errors()[0]['msg']}") from None
        if urls and (url not in urls or len(set(urls)) < len(urls)):
            raise ValueError("INMAIL_DATABASE_SHARDS must name each server once, and INMAIL_DATABASE_URL too")
        self._tls()
        return self

    def _tls(self) -> ssl.SSLContext | None:
        """Return the TLS context for the brokers; None without TLS. Raises ValueError for an unusable file."""
        if self.kafka_security_protocol not in (SecurityProtocol.SSL, SecurityProtocol.SASL_SSL):
            return None
        try:
            context = ssl.create_default_context(cafile=self.kafka_ssl_ca_file)
        except OSError as error:
            raise ValueError(
                f"INMAIL_KAFKA_SSL_CA_FILE: expected a PEM file of certificates: {_file_reason(error)}"
            ) from error
        if self.kafka_ssl_cert_file:
            secret = self.kafka_ssl_key_password
            password = secret.get_secret_value() if secret else ""
            try:
                # The function is called only for a key with a password; without it, OpenSSL would ask on the terminal.
                context.load_cert_chain(self.kafka_ssl_cert_file, self.kafka_ssl_key_file, lambda: password)
            except OSError as error:
                raise ValueError(
                    "INMAIL_KAFKA_SSL_CERT_FILE, INMAIL_KAFKA_SSL_KEY_FILE, INMAIL_KAFKA_SSL_KEY_PASSWORD: expected"
                    " PEM files of a certificate and its key, and the key's password if it has one:"
                    f" {_file_reason(error)}"
                ) from error
        return context

    def kafka_client(self) -> dict[str, Any]:
        """Return the connection arguments of every aiokafka client."""
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
    """Return the settings of the environment.

    Raises:
        SettingsError: when a variable is wrong. It names the variable and the allowed values, never the wrong value.

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


def _file_reason(error: OSError) -> str:
    """Return in a few words why a file cannot be used."""
    reason: str = getattr(error, "reason", None) or error.strerror or str(error)
    return reason.replace("_", " ").lower()


def _is_known(name: str) -> bool:
    return name.removeprefix(_PREFIX).lower() in Settings.model_fields


def _unknown(name: str) -> str:
    """Return the error for an unknown setting: a misspelt setting must not be ignored."""
    near = get_close_matches(name, [_PREFIX + field.upper() for field in Settings.model_fields], 1)
    return f"{name}: there is no such setting" + (f"; did you mean {near[0]}?" if near else "")
