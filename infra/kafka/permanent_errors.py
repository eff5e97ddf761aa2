"""Kafka's errors that do not pass by themselves, and what to do about each."""

from aiokafka.errors import (
    AuthenticationFailedError,
    ClusterAuthorizationFailedError,
    GroupAuthorizationFailedError,
    IncompatibleBrokerVersion,
    InconsistentGroupProtocolError,
    InvalidSessionTimeoutError,
    InvalidTransactionTimeout,
    KafkaError,
    MessageSizeTooLargeError,
    RecordListTooLargeError,
    RecordTooLargeError,
    SaslAuthenticationFailed,
    TopicAuthorizationFailedError,
    TransactionalIdAuthorizationFailed,
    UnsupportedSaslMechanismError,
    UnsupportedVersionError,
)

from infra.kafka.aiokafka_fixes import ConsumerLostError
from infra.kafka.connecting import UntrustedBrokerError

__all__ = ["operator_hint"]

_LOGIN = "set INMAIL_KAFKA_SECURITY_PROTOCOL and INMAIL_KAFKA_SASL_* as the brokers require"
_TOO_LARGE = (
    "a topic's max.message.bytes is too low: it must be at least 1 MiB, and 4 MiB for dead letters. Check this setting"
    " of the topics and the brokers' message.max.bytes, and run `inmail topics apply`"
)
_GRANT = "grant the right that docs/operate.md lists for what was run"
# Permanent errors, and what to do. All other errors may pass: an unreachable broker, a partition without a leader, a
# coordinator that moves, a fenced owner that starts again.
_REMEDIES: dict[type[KafkaError], str] = {
    TopicAuthorizationFailedError: f"{_GRANT} on that topic",
    GroupAuthorizationFailedError: f"{_GRANT} on that group",
    TransactionalIdAuthorizationFailed: f"{_GRANT} on the transactional ids with the group's name as prefix",
    ClusterAuthorizationFailedError: f"{_GRANT} on the cluster",
    MessageSizeTooLargeError: _TOO_LARGE,
    RecordListTooLargeError: _TOO_LARGE,
    RecordTooLargeError: _TOO_LARGE,
    InconsistentGroupProtocolError: "a member of the group is a worker of a version that knows of one Postgres server"
    " only: replace all of these first",
    InvalidTransactionTimeout: "INMAIL_TRANSACTION_SECONDS is above the brokers' transaction.max.timeout.ms",
    InvalidSessionTimeoutError: "INMAIL_SESSION_SECONDS is outside the brokers' group.*.session.timeout.ms",
    AuthenticationFailedError: _LOGIN,
    SaslAuthenticationFailed: _LOGIN,
    UnsupportedSaslMechanismError: _LOGIN,
    UntrustedBrokerError: "set INMAIL_KAFKA_SSL_CA_FILE to the authority of the brokers' certificates, and"
    " INMAIL_KAFKA_BOOTSTRAP_SERVERS to names that these have",
    UnsupportedVersionError: "the brokers are too old",
    IncompatibleBrokerVersion: "the brokers are too old",
    ConsumerLostError: "start the process again: only a new consumer continues",
}


def operator_hint(error: KafkaError) -> str | None:
    """Return what to do about a permanent error; None for an error that may pass."""
    return next((words for kind, words in _REMEDIES.items() if isinstance(error, kind)), None)
