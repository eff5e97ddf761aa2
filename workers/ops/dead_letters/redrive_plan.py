"""Plans a redrive: decides for each dead letter whether its message is sent back, at the plan and again when sending.

A message that was cut, or did not come from an input topic, cannot be sent. A message that was redriven before, has its
answer, or would become a dead letter again is skipped, unless the operator asks for it: to send it would be harmless
and of no use.
"""

from collections import Counter
from collections.abc import AsyncGenerator, Mapping, Sequence
from contextlib import aclosing
from dataclasses import dataclass, field
from typing import Any, Final, NamedTuple

from infra.kafka.clients import partition_of
from infra.kafka.records import partition_counts
from infra.postgres import Connection, open_database
from infra.settings import Settings
from schemas.catalogue import INPUT_TOPICS, Undecodable
from schemas.dead_letters import DeadLetterReason
from schemas.envelope import Event
from workers.jobs.billing import unknown_plan
from workers.ledger.plans import Catalogue, load_catalogue
from workers.ops.books.shards import ServerError
from workers.ops.dead_letters.chosen_letters import chosen_offsets, read_chosen
from workers.ops.dead_letters.history import LetterKey, Redrive, decode_message, letter_key
from workers.ops.dead_letters.letters import UNREADABLE, DeadLetter, LetterFilter, find_dead_letters
from workers.ops.dead_letters.server_answers import (
    LetterAnswers,
    read_server_answers,
    read_server_redrives,
)

__all__ = [
    "ANSWERED",
    "RATES",
    "REDRIVEN",
    "REFUSALS",
    "REFUSED_AGAIN",
    "RedriveDecision",
    "RedriveOptions",
    "RedrivePlan",
    "RedrivePlanner",
    "plan_redrive",
]

RATES: Final = (0.01, 5000.0)  # the allowed range, in messages a second
_BATCH = 500
_BATCH_BYTES = 8 * 1024 * 1024  # of messages, but for the last: a message may have a mebibyte

# The reasons not to send a message back, and their texts. The first three hold whatever the options are.
UNREADABLE_LETTER: Final = "unreadable"
CUT: Final = "cut"
NO_PARTITION: Final = "nowhere"
REDRIVEN: Final = "redriven_before"
ANSWERED: Final = "answered"
REFUSED_AGAIN: Final = "refused_again"
SILENT_SERVER: Final = "silent_server"

REFUSALS: Final = {
    UNREADABLE_LETTER: "not a dead letter written by a worker, so its message is not known",
    CUT: "its message was too large to be kept whole",
    NO_PARTITION: "its partition no longer exists, and without a key no other partition can be chosen",
    REDRIVEN: "redriven before",
    ANSWERED: "its request was answered",
    SILENT_SERVER: "the server that holds its account does not answer, so whether it was answered is not known",
    REFUSED_AGAIN: "it would become a dead letter again with this version and plan catalogue",
}


@dataclass(frozen=True, slots=True)
class RedriveOptions:
    """The options of a redrive."""

    rate: float = 100.0  # messages a second
    limit: int | None = None  # maximum number of messages
    again: bool = False  # also messages that were redriven before or have their answer
    anyway: bool = False  # also messages that would become dead letters again


class RedriveDecision(NamedTuple):
    """The decision on one dead letter's message."""

    letter: DeadLetter
    partition: int = -1  # to send to
    refusal: str | None = None  # a key of REFUSALS; None: send it
    in_doubt: bool = False  # an operation broke off while sending the message
    error: str | None = None  # of which the message would become a dead letter again


@dataclass(slots=True)
class RedrivePlan:
    """The numbers of messages to send back and to skip."""

    rate: float
    letters: Counter[tuple[str, str]] = field(default_factory=Counter)  # to send, by topic and reason
    refused: Counter[str] = field(default_factory=Counter)  # to skip, by reason
    errors: Counter[str] = field(default_factory=Counter)  # of messages that would become dead letters again
    in_doubt: int = 0
    places: set[LetterKey] = field(default_factory=set)
    silent: tuple[ServerError, ...] = ()  # servers that may have noted more redrives

    @property
    def count(self) -> int:
        """The number of messages to send."""
        return len(self.places)

    @property
    def seconds(self) -> float:
        """The duration of the redrive."""
        return self.count / self.rate

    def summary(self) -> dict[str, Any]:
        """Return the plan for JSON."""
        return {
            "messages": self.count,
            "by_topic_and_reason": [
                {"topic": topic, "reason": reason, "messages": count}
                for (topic, reason), count in sorted(self.letters.items())
            ],
            "not_sent": dict(sorted(self.refused.items())),
            "errors": [{"error": error, "messages": count} for error, count in self.errors.most_common()],
            "in_doubt": self.in_doubt,
            "rate": self.rate,
            "seconds": round(self.seconds, 3),
        }


class RedrivePlanner:
    """Decides which messages to send back, by earlier redrives and stored answers."""

    def __init__(
        self,
        settings: Settings,
        catalogue: Catalogue,
        counts: Mapping[str, int],
        redrives: Mapping[LetterKey, Sequence[Redrive]],
        options: RedriveOptions,
    ) -> None:
        self._settings = settings
        self._catalogue = catalogue
        self._counts = counts
        self._sendings = redrives
        self._options = options

    async def decide(self, connection: Connection, letters: Sequence[DeadLetter]) -> list[RedriveDecision]:
        """Return the decision on each dead letter, in order."""
        events = {letter_key(each): decode_message(each) for each in letters}
        answers = await read_server_answers(self._settings, letters, connection)
        return [self._decide_one(each, events[letter_key(each)], answers) for each in letters]

    def _decide_one(
        self, letter: DeadLetter, event: Event | Undecodable | None, answers: LetterAnswers
    ) -> RedriveDecision:
        sent = self._sendings.get(letter_key(letter), ())
        partition = self._partition(letter)
        in_doubt = bool(sent) and all(each.offset is None for each in sent)
        refusal = error = None
        if letter.reason == UNREADABLE or letter.origin_topic not in INPUT_TOPICS:
            refusal = UNREADABLE_LETTER
        elif letter.cut:
            refusal = CUT
        elif partition is None:
            refusal = NO_PARTITION
        elif sent and not in_doubt and not self._options.again:
            refusal = REDRIVEN
        elif answers.found.get(letter_key(letter)) is not None and not self._options.again:
            refusal = ANSWERED
        elif letter_key(letter) in answers.unknown and not self._options.again:
            refusal = SILENT_SERVER
        elif not self._options.anyway and (problem := self._would_refuse(event)) is not None:
            refusal, error = REFUSED_AGAIN, problem.error
        return RedriveDecision(letter, -1 if partition is None else partition, refusal, in_doubt, error)

    def _partition(self, letter: DeadLetter) -> int | None:
        """Return the partition to send a message to: the one it was read from, else the one of its key.

        In its old partition the message comes behind the earlier messages of its account, also for a producer with
        another partitioner. One that was refused because another server has its account's books goes to its key's.
        """
        count = self._counts.get(letter.origin_topic, 0)
        if letter.origin_partition < count and letter.reason != DeadLetterReason.WRONG_PARTITION:
            return letter.origin_partition
        return partition_of(letter.key, count) if letter.key and count else None

    def _would_refuse(self, event: Event | Undecodable | None) -> Undecodable | None:
        return unknown_plan(event, self._catalogue) if isinstance(event, Event) else event


async def plan_redrive(settings: Settings, selection: LetterFilter, options: RedriveOptions) -> RedrivePlan:
    """Return the plan of a redrive, without sending anything.

    Raises:
        NotSetUpError: when the topics or the tables do not exist.
        CatalogueError: when the plan catalogue cannot be read.
        ServerError: when none of several servers answers.
        KafkaError, OSError, asyncpg.PostgresError: when Kafka or Postgres cannot be reached or refuses.

    """
    plan = RedrivePlan(options.rate)
    async with open_database(settings) as connection:
        redrives = await read_server_redrives(settings, connection=connection)
        plan.silent = redrives.silent
        async with aclosing(decide_redrives(settings, connection, selection, options, redrives.found)) as decisions:
            async for batch in decisions:
                for decision in batch:
                    if decision.refusal is not None:
                        plan.refused[decision.refusal] += 1
                        if decision.error is not None:
                            plan.errors[decision.error] += 1
                    elif options.limit is None or plan.count < options.limit:
                        plan.letters[decision.letter.origin_topic, decision.letter.reason] += 1
                        plan.in_doubt += decision.in_doubt
                        plan.places.add(letter_key(decision.letter))
    return plan


async def decide_redrives(  # noqa: PLR0913, PLR0917 - what, how and by what is known
    settings: Settings,
    connection: Connection,
    selection: LetterFilter,
    options: RedriveOptions,
    redrives: Mapping[LetterKey, Sequence[Redrive]],
    places: set[LetterKey] | None = None,
) -> AsyncGenerator[list[RedriveDecision], None]:
    """Yield decisions on the matching dead letters in batches, each partition's in order.

    Args:
        settings: where Kafka is, and the plan catalogue's file.
        connection: to the ledger's database.
        selection: the filter.
        options: the options of the redrive.
        redrives: that were made before.
        places: only dead letters with these keys; None: all that match.

    """
    catalogue = load_catalogue(settings.plans_file)
    counts = await partition_counts(settings, INPUT_TOPICS)
    judge = RedrivePlanner(settings, catalogue, counts, redrives, options)
    chosen = chosen_offsets(selection)
    batch: list[DeadLetter] = []
    size = 0
    is_plan = places is None  # a redrive itself shows how much it has sent
    found = (
        find_dead_letters(settings, selection.partition, tells=is_plan)
        if chosen is None
        else read_chosen(settings, chosen)
    )
    async with aclosing(found) as letters:
        async for letter in letters:
            if selection.matches(letter) and (places is None or letter_key(letter) in places):
                batch.append(letter)
                size += letter.size
            if len(batch) >= _BATCH or size >= _BATCH_BYTES:
                yield await judge.decide(connection, batch)
                batch, size = [], 0
    if batch:
        yield await judge.decide(connection, batch)
