"""Errors of servers in words, also those that bring none."""

import asyncpg
import pytest
from aiokafka.errors import KafkaError, KafkaTimeoutError

from infra.retry import describe_error


@pytest.mark.parametrize(
    ("error", "words"),
    [
        (TimeoutError(), "a server did not answer in time"),
        (ConnectionResetError(), "a connection to a server was lost (connection reset error)"),
        (asyncpg.QueryCanceledError(), "Postgres: query canceled"),
        (asyncpg.LockNotAvailableError("canceling"), "Postgres: canceling"),
        (asyncpg.InterfaceError(""), "Postgres: the connection was lost (interface error)"),
        (KafkaTimeoutError(), "Kafka: kafka timeout"),
        (KafkaError("planted"), "Kafka: planted"),
        (ValueError(), "ValueError()"),
    ],
    ids=repr,
)
def test_an_error_without_words_is_told_by_its_kind(error: BaseException, words: str) -> None:
    """A sentence that ends in `()` tells nobody anything."""
    assert words == describe_error(error)
