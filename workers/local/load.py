"""A load for the demo: accounts with credits, and their requests in random order, reproducible from a seed."""

import random
from datetime import UTC, datetime, timedelta
from uuid import UUID

from schemas.billing import PromotionGranted
from schemas.envelope import encode
from schemas.sends import SendRequested

__all__ = ["Load"]

_BEGIN = datetime(2030, 7, 2, tzinfo=UTC)  # after the story's last tick


class Load:
    """A number of send requests, and the grants that pay for most of them, as NDJSON."""

    def __init__(self, count: int, accounts: int = 50, seed: int = 1) -> None:
        self.accounts = accounts
        self._random = random.Random(seed)  # noqa: S311 - a workload
        self._names = [f"load-{number}" for number in range(accounts)]
        self._ids = [self._uuid() for _ in range(count)]
        self.request_ids = frozenset(map(str, self._ids))

    def _uuid(self) -> UUID:
        return UUID(int=self._random.getrandbits(128), version=4)

    def encode_grants(self) -> bytes:
        """Return a promotion for each account, with enough credits for most of its requests."""
        body = {"promotion_id": "load", "credits": len(self._ids) // self.accounts}
        return b"\n".join(
            encode(PromotionGranted.create(id=self._uuid(), source="/load", subject=name, time=_BEGIN, data=body))
            for name in self._names
        )

    def encode_requests(self) -> bytes:
        """Return the requests, one millisecond apart."""
        lines = []
        for number, id_ in enumerate(self._ids):
            event = SendRequested.create(
                id=id_,
                source="/load",
                subject=self._random.choice(self._names),
                time=_BEGIN + timedelta(seconds=60, milliseconds=number),
                data={"recipient_id": f"member-{number}", "relationship": "none"},
            )
            lines.append(encode(event))
        return b"\n".join(lines)
