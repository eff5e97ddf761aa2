"""The workers of one job under fault: what meets a member that stands at a point."""

import asyncio
import contextlib
import signal
from time import monotonic

from aiokafka.errors import GroupCoordinatorNotAvailableError, KafkaError

from infra.kafka.clients import admin_client
from schemas.catalogue import CREDIT_EVENTS, SEND_RESULTS
from tests.crash.approach import LOOK_SECONDS, Approach, NotMadeError
from tests.crash.load import refuse_results
from tests.crash.member import Member
from tests.crash.points import Kind
from tests.crash.process import SESSION_SECONDS, application
from tests.crash.supervised import MEMBERS

__all__ = ["Group"]

_REFUSED_SECONDS = 0.7
_BESIDE_SECONDS = 0.4  # before a kill: beside what stands, as the publishing of a turn, the next turn is stored
_JOINED_SECONDS = 5.0
_EFFECT_SECONDS = 30.0  # for a fault to show: a takeover takes a session, a rebalance and the opening of all lanes

_RESULTS = {"send": SEND_RESULTS, "billing": CREDIT_EVENTS, "expiry": CREDIT_EVENTS}


class Group(Approach):
    """Members that a fault can meet at a point."""

    async def meet(self, kind: Kind, member: Member) -> None:
        """Let a fault meet a member that stands, and let it go on if it can.

        Raises:
            NotMadeError: when the fault had no effect.

        """
        if member.gone.is_set():
            raise NotMadeError("the worker at the point had ended")
        try:
            await self._meet(kind, member)
        finally:
            if not member.gone.is_set():
                member.go()

    async def _meet(self, kind: Kind, member: Member) -> None:
        match kind:
            case Kind.KILLED:
                await asyncio.sleep(self._around.dice.uniform(0, _BESIDE_SECONDS))
                await member.kill()
            case Kind.KAFKA_CUT:
                if not await member.cut("kafka"):
                    raise NotMadeError("no connection to Kafka was open")
            case Kind.POSTGRES_CUT:
                await self._cut_postgres(member)
            case Kind.FROZEN:
                await self._freeze(member)
            case Kind.REBALANCE:
                await self._rebalance(member)
            case Kind.REFUSED:
                await self._refuse(member)
            case Kind.CANCELLED:
                await self._cancel(member)
            case _:
                raise ValueError(kind)

    async def _cut_postgres(self, member: Member) -> None:
        """Cut a worker's connections to Postgres at its own end, or at the server's."""
        if self._around.dice.random() < 0.5:
            ended = await member.cut("postgres")
        else:
            ended = await self._around.books.disconnect(application(member.pid))
        if not ended:
            raise NotMadeError("no connection to Postgres was open")

    async def _freeze(self, member: Member) -> None:
        """Stop a process past its session, until others have its partitions; or for as long as is asked.

        One that stands before it has joined its group joins it first: nobody would take anything over from it.
        """
        with contextlib.suppress(TimeoutError):
            await asyncio.wait_for(member.joined.wait(), _JOINED_SECONDS)
        before = await self._around.books.epochs(self.name)
        member.signal(signal.SIGSTOP)
        try:
            if self._around.frozen_seconds is not None:
                await asyncio.sleep(self._around.frozen_seconds)
                return
            deadline = monotonic() + _EFFECT_SECONDS
            while not await self._are_taken_over(before):
                if monotonic() > deadline:
                    raise NotMadeError("nobody took over from a frozen worker")
                await asyncio.sleep(LOOK_SECONDS)
        finally:
            member.signal(signal.SIGCONT)

    async def _are_taken_over(self, before: dict[int, int]) -> bool:
        """Tell whether the epochs of all lanes have risen: eager rebalances open all lanes."""
        now = await self._around.books.epochs(self.name)
        return bool(now) and all(epoch > before.get(partition, 0) for partition, epoch in now.items())

    async def _rebalance(self, member: Member) -> None:
        """Let a member come or go, and wait until the one that stands is asked for its partitions, if it has any.

        One that stands still, or in the midst of a rebalance, hears of it only as it goes on.
        """
        before = await self._member_ids()
        member.revoking.clear()
        others = [each for each in self._members if each is not member and each.is_free]
        if len(self._members) > MEMBERS * len(self.starts) and others:
            self._dismiss(others[0])
        else:
            self.join()
        deadline = monotonic() + _EFFECT_SECONDS
        while not member.revoking.is_set() and await self._member_ids() == before:
            if monotonic() > deadline:
                raise NotMadeError("no rebalance began")
            await asyncio.sleep(LOOK_SECONDS)
        with contextlib.suppress(TimeoutError):
            await asyncio.wait_for(member.revoking.wait(), SESSION_SECONDS / 2)

    async def _cancel(self, member: Member) -> None:
        """Let the group ask for the lanes of the one that stands in their opening, until that was cancelled there."""
        member.cancelled.clear()
        await self._rebalance(member)
        try:
            await asyncio.wait_for(member.cancelled.wait(), _EFFECT_SECONDS)
        except TimeoutError:
            raise NotMadeError("no opening was cancelled") from None

    async def _member_ids(self) -> set[str]:
        """Return the ids of the group's members: whoever comes or goes makes it rebalance.

        A coordinator that a broker's kill has moved, or that is loading, is asked again.
        """
        deadline = monotonic() + _EFFECT_SECONDS
        while True:
            try:
                return await self._ask_member_ids()
            except KafkaError:
                if monotonic() > deadline:
                    raise
                await asyncio.sleep(LOOK_SECONDS)

    async def _ask_member_ids(self) -> set[str]:
        async with admin_client(self.starts[0].settings) as admin:
            (response,) = await admin.describe_consumer_groups([self.name])
        error, *_, members = response.groups[0][:6]
        if error:
            raise GroupCoordinatorNotAvailableError(f"group {self.name}: error {error}")
        return {id_ for id_, *_ in members}

    async def _refuse(self, member: Member) -> None:
        """Let the broker refuse the job's results for a while, and until one was refused.

        Not those of other jobs: this one's lanes would wait for theirs, and publish nothing.
        """
        settings, topic = self.starts[0].settings, _RESULTS[self.job]
        for each in self._members:
            each.refused.clear()
        await refuse_results(settings, topic, refuse=True)
        try:
            member.go()
            await asyncio.sleep(_REFUSED_SECONDS)
            deadline = monotonic() + _EFFECT_SECONDS
            while not any(each.refused.is_set() for each in [member, *self._members]):
                if monotonic() > deadline:
                    raise NotMadeError("no result was refused")
                await asyncio.sleep(LOOK_SECONDS)
        finally:
            await refuse_results(settings, topic, refuse=False)
