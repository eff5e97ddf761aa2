"""Requests to send one InMail."""

from typing import Literal

from schemas.envelope import AccountEvent, Data, OpaqueId

__all__ = ["Relationship", "SendRequested", "SendRequestedData"]

Relationship = Literal["none", "connection", "open_profile"]


class SendRequestedData(Data):
    """To whom, and how the recipient stands to the sender (some relationships make a send free)."""

    recipient_id: OpaqueId
    relationship: Relationship


class SendRequested(AccountEvent):
    """A member asks to send one InMail."""

    type: Literal["inmail.send.requested.v1"]
    data: SendRequestedData
