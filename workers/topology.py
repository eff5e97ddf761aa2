"""The one order in which the records of three topics are decided, where they share a partition's number.

Those lanes hold the same accounts. By broker time, which never runs back inside a topic; at one instant billing comes
first, so that a grant at T can be spent at T and what a cancel ends at T cannot, then sends, then ticks.
"""

from datetime import datetime
from typing import Final

from schemas.catalogue import BILLING_EVENTS, EXPIRY_TICKS, SEND_REQUESTS

__all__ = ["DECIDED", "RANKS", "turn"]

DECIDED: Final = (BILLING_EVENTS, SEND_REQUESTS, EXPIRY_TICKS)  # at one instant, in this order
RANKS: Final = {topic: rank for rank, topic in enumerate(DECIDED)}


def turn(topic: str, as_of: datetime) -> tuple[datetime, int]:
    """Return when it is a record's turn, to be compared with other topics'; inside a topic the offset decides.

    `as_of` is the latest broker time of its topic's partition up to the record, as `sorting.time_of` tells it.
    """
    return as_of, RANKS[topic]
