"""Ticks: messages that ask for expiry to be booked up to an instant."""

from typing import Literal
from uuid import UUID

from pydantic import Field

from schemas.envelope import Data, Event, Instant

__all__ = ["ExpiryTick", "ExpiryTickData"]


class ExpiryTickData(Data):
    """The instant up to which ended lots are to be booked."""

    as_of: Instant


class ExpiryTick(Event):
    """Book what has ended. One goes to each partition, without key and subject."""

    id: UUID
    type: Literal["inmail.expiry.tick.v1"]
    subject: None = Field(default=None, exclude=True)
    data: ExpiryTickData
