"""What a redrive would do: each letter judged, before anything is sent and again as it is.

A message is sent back only where that is safe and of use. What was cut, or never came from an input topic, cannot be
sent. What was sent back before, what has its answer, and what this version would set aside again is left, unless the
operator says otherwise: the guard would make it harmless, and still somebody would have to read it again.
"""

from collections import Counter
from collections.abc import AsyncGenerator, Mapping, Sequence
from contextlib import aclosing
from dataclasses import dataclass, field
from typing import Any, Final, NamedTuple

from infra.kafka.clients import partition_of
from infra.kafka.records import partition_counts
from infra.postgres import Connection, connect_database
from infra.settings import Settings
from schemas.catalogue import INPUT_TOPICS, Undecodable
from schemas.envelope import Event
from workers.jobs.billing import unknown_plan
from workers.ledger.plans import Catalogue, load_catalogue
from workers.ops.dead_letters.history import LetterKey, Redrive, decode_message, letter_key, read_answers, read_redrives
from workers.ops.dead_letters.letters import UNREADABLE, DeadLetter, LetterFilter, find_dead_letters

__all__ = ["RATES", "REFUSALS", "RedriveDecision", "RedriveOptions", "RedrivePlan", "RedrivePlanner", "plan_redrive"]

RATES: Final = (0.01, 5000.0)  # messages a second that may be asked for, whoever asks
_BATCH = 500

# Why a message is not sent back, and how that is said. The first three hold whatever is asked for.
UNREADABLE_LETTER: Final = "unreadable"
CUT: Final = "cut"
NO_PARTITION: Final = "nowhere"
REDRIVEN: Final = "redriven_before"
ANSWERED: Final = "answered"
REFUSED_AGAIN: Final = "refused_again"

REFUSALS: Final = {
    UNREADABLE_LETTER: "not a dead letter of the workers', so its message is not known",
    CUT: "its message was too large to be kept whole",
    NO_PARTITION: "its partition is gone, and without a key nothing tells where it belongs",
    REDRIVEN: "sent back before (--again sends it once more)",
    ANSWERED: "its request has its answer in the books (--again asks for it once more)",
    REFUSED_AGAIN: "this version with this plan catalogue would set it aside again (--anyway sends it)",
}


@dataclass(frozen=True, slots=True)
class RedriveOptions:
    """How a redrive is to be done."""

    rate: float = 100.0  # messages a second
    limit: int | None = None  # so many at most
    again: bool = False  # also what was sent back before, or has its answer
    anyway: bool = False  # also what would be set aside again


class RedriveDecision(NamedTuple):
    """What is to be done with one letter's message."""

    letter: DeadLetter
    partition: int = -1  # where to
    refusal: str | None = None  # a key of REFUSALS; None: send it
    in_doubt: bool = False  # an operation broke off as it was sending it


@dataclass(slots=True)
class RedrivePlan:
    """What would be sent back, and what would not."""

    rate: float
    letters: Counter[tuple[str, str]] = field(default_factory=Counter)  # to send, by topic and reason
    refused: Counter[str] = field(default_factory=Counter)  # not to send, by why
    in_doubt: int = 0
    places: set[LetterKey] = field(default_factory=set)

    @property
    def count(self) -> int:
        """How many messages would be sent."""
        return len(self.places)

    @property
    def seconds(self) -> float:
        """How long it takes."""
        return self.count / self.rate

    def summary(self) -> dict[str, Any]:
        """Return it for JSON."""
        return {
            "messages": self.count,
            "by_topic_and_reason": [
                {"topic": topic, "reason": reason, "messages": count}
                for (topic, reason), count in sorted(self.letters.items())
            ],
            "not_sent": dict(sorted(self.refused.items())),
            "in_doubt": self.in_doubt,
            "rate": self.rate,
            "seconds": round(self.seconds, 3),
        }


class RedrivePlanner:
    """Says of dead letters what is to be done with them, by what was sent and decided so far."""

    def __init__(
        self,
        catalogue: Catalogue,
        counts: Mapping[str, int],
        redrives: Mapping[LetterKey, Sequence[Redrive]],
        options: RedriveOptions,
    ) -> None:
        self._catalogue = catalogue
        self._counts = counts
        self._sendings = redrives
        self._options = options

    async def decide(self, connection: Connection, letters: Sequence[DeadLetter]) -> list[RedriveDecision]:
        """Return a verdict on each letter, in order."""
        events = {letter_key(each): decode_message(each) for each in letters}
        decodable = [each for each in letters if isinstance(events[letter_key(each)], Event)]
        asked = [(each.origin_topic, each.origin_partition, events[letter_key(each)]) for each in decodable]
        answers = await read_answers(connection, asked)  # type: ignore[arg-type] # those that are events
        answered = {letter_key(each) for each, answer in zip(decodable, answers, strict=True) if answer is not None}
        return [self._decide_one(each, events[letter_key(each)], letter_key(each) in answered) for each in letters]

    def _decide_one(self, letter: DeadLetter, event: Event | Undecodable | None, answered: bool) -> RedriveDecision:  # noqa: FBT001
        sent = self._sendings.get(letter_key(letter), ())
        partition = self._partition(letter)
        in_doubt = bool(sent) and all(each.offset is None for each in sent)
        refusal = None
        if letter.reason == UNREADABLE or letter.origin_topic not in INPUT_TOPICS:
            refusal = UNREADABLE_LETTER
        elif letter.cut:
            refusal = CUT
        elif partition is None:
            refusal = NO_PARTITION
        elif sent and not in_doubt and not self._options.again:
            refusal = REDRIVEN
        elif answered and not self._options.again:
            refusal = ANSWERED
        elif not self._options.anyway and self._would_refuse(event):
            refusal = REFUSED_AGAIN
        return RedriveDecision(letter, -1 if partition is None else partition, refusal, in_doubt)

    def _partition(self, letter: DeadLetter) -> int | None:
        """Return where a message goes: to the partition it was read from, not to the one its key would choose.

        There it stands behind what its account sent before, and its lane is the one that decides the account: a
        producer that partitions in a way of its own keeps the order that it had.
        """
        count = self._counts.get(letter.origin_topic, 0)
        if letter.origin_partition < count:
            return letter.origin_partition
        return partition_of(letter.key, count) if letter.key and count else None

    def _would_refuse(self, event: Event | Undecodable | None) -> bool:
        return not isinstance(event, Event) or unknown_plan(event, self._catalogue) is not None


async def plan_redrive(settings: Settings, selection: LetterFilter, options: RedriveOptions) -> RedrivePlan:
    """Return what a redrive would do, without doing it.

    Raises:
        NotSetUpError: when the topics or the tables do not exist.
        CatalogueError: when the plan catalogue cannot be read.
        KafkaError, OSError, asyncpg.PostgresError: when Kafka or Postgres cannot be reached or refuses.

    """
    plan = RedrivePlan(options.rate)
    connection = await connect_database(settings)
    try:
        async with aclosing(decide_redrives(settings, connection, selection, options)) as decisions:
            async for batch in decisions:
                for decision in batch:
                    if decision.refusal is not None:
                        plan.refused[decision.refusal] += 1
                    elif options.limit is None or plan.count < options.limit:
                        plan.letters[decision.letter.origin_topic, decision.letter.reason] += 1
                        plan.in_doubt += decision.in_doubt
                        plan.places.add(letter_key(decision.letter))
    finally:
        await connection.close()
    return plan


async def decide_redrives(
    settings: Settings,
    connection: Connection,
    selection: LetterFilter,
    options: RedriveOptions,
    places: set[LetterKey] | None = None,
) -> AsyncGenerator[list[RedriveDecision], None]:
    """Yield verdicts on the letters that are meant, each partition's in order, some at a time.

    Args:
        settings: where Kafka is, and which plans there are.
        connection: to the books.
        selection: which letters are meant.
        options: how the redrive is to be done.
        places: only these, whatever else is meant by now.

    """
    catalogue = load_catalogue(settings.plans_file)
    counts = await partition_counts(settings, INPUT_TOPICS)
    judge = RedrivePlanner(catalogue, counts, await read_redrives(connection), options)
    batch: list[DeadLetter] = []
    async with aclosing(find_dead_letters(settings, selection.partition, selection.offset or 0)) as letters:
        async for letter in letters:
            if selection.matches(letter) and (places is None or letter_key(letter) in places):
                batch.append(letter)
            if len(batch) >= _BATCH:
                yield await judge.decide(connection, batch)
                batch = []
    if batch:
        yield await judge.decide(connection, batch)
