"""Which settings of topics break a promise: those that a broker of one's own cannot have."""

import pytest

from infra.settings import Settings, load_settings
from schemas.catalogue import BALANCES, BILLING_EVENTS, SEND_REQUESTS, TOPICS
from workers.ops.topics.plan import wanted_config
from workers.ops.topics.promises import AWAY_DAYS, BrokenPromise, TopicState, broken_promises

THREE = load_settings(topic_partitions=4, topic_replication=3)


def _states(settings: Settings, replicas: int, **own: str) -> dict[str, TopicState]:
    """Return topics as they should be, but for some settings of them all."""
    changes = {name.replace("_", "."): value for name, value in own.items()}
    return {topic: TopicState(4, replicas, wanted_config(topic, settings) | changes) for topic in TOPICS}


def _told(found: list[BrokenPromise]) -> set[tuple[str, str]]:
    return {(each.setting, each.found) for each in found}


def test_topics_as_they_should_be_break_nothing() -> None:
    """Neither on three brokers, nor those that are not there yet."""
    assert [] == broken_promises(_states(THREE, 3), THREE)
    assert [] == broken_promises({}, THREE)


@pytest.mark.parametrize(
    ("replicas", "least", "promise"),
    [
        (3, "1", "survives the loss of a broker"),
        (3, "3", "while one broker is down"),
        (2, "2", "while one broker is down"),
    ],
)
def test_replicas_that_are_too_few_or_all_needed_are_told(replicas: int, least: str, promise: str) -> None:
    """One acknowledged copy of three is a record that goes with its broker; all of three wait for each broker."""
    found = broken_promises(_states(THREE, replicas, min_insync_replicas=least), THREE)

    assert {("min.insync.replicas", f"{least} of {replicas} replicas")} == _told(found)
    assert all(promise in each.promise for each in found)


def test_replicas_that_the_settings_do_not_know_of_name_the_setting() -> None:
    """`apply` would set nothing there: it is told how many there are."""
    one = load_settings(topic_partitions=4)
    found = broken_promises(_states(one, 3), one)

    assert {"set INMAIL_TOPIC_REPLICATION to 3, and run `inmail topics apply`"} == {each.remedy for each in found}


def test_a_retention_that_is_too_short_by_setting_is_told_before_there_is_a_topic() -> None:
    """Applying it again would not help."""
    short = load_settings(topic_partitions=4, topic_retention_days=AWAY_DAYS - 1)
    enough = load_settings(topic_partitions=4, topic_retention_days=AWAY_DAYS)

    found = broken_promises({}, short)

    assert set(TOPICS) == {each.topic for each in found}
    assert all(each.remedy.startswith("set INMAIL_TOPIC_RETENTION_DAYS to 4 or more") for each in found)
    assert [] == broken_promises({}, enough)


@pytest.mark.parametrize("policy", ["delete", "compact,delete"])
def test_a_topic_of_balances_that_forgets_accounts_breaks_a_promise(policy: str) -> None:
    """Where records are deleted by their age, so is the balance of an account that nothing has changed for long."""
    on = load_settings(topic_partitions=4, balances_topic=True)
    right = TopicState(4, 1, wanted_config(BALANCES, on))

    found = broken_promises({BALANCES: TopicState(4, 1, dict(right.config) | {"cleanup.policy": policy})}, on)

    assert {("cleanup.policy", policy)} == _told(found)
    assert [] == broken_promises({BALANCES: right}, on)


def test_stories_may_have_their_producers_times() -> None:
    """With the setting for it, CreateTime is right on the inputs and kept for good; LogAppendTime is not."""
    story = load_settings(topic_partitions=4, topic_record_time="create")

    found = broken_promises(_states(story, 1) | {SEND_REQUESTS: _states(THREE, 1)[SEND_REQUESTS]}, story)

    assert {("message.timestamp.type", "LogAppendTime")} == _told(found)


def test_partitions_that_differ_are_told_whichever_topic_has_them() -> None:
    """By the topic that differs; and the setting, where it is that which differs."""
    states = _states(THREE, 3)
    odd = broken_promises(states | {BILLING_EVENTS: TopicState(6, 3, states[BILLING_EVENTS].config)}, THREE)
    setting = broken_promises(states, THREE.model_copy(update={"topic_partitions": 6}))

    assert [(BILLING_EVENTS, "6, the others have 4")] == [(each.topic, each.found) for each in odd]
    assert [("set INMAIL_TOPIC_PARTITIONS to 4")] == [each.remedy for each in setting]
