"""Requests to send one InMail, and what is reported of a send afterwards."""

from typing import Annotated, Literal
from uuid import UUID

from pydantic import Field

from schemas.envelope import AccountEvent, Data, OpaqueId

__all__ = [
    "RecipientResponded",
    "Relationship",
    "SendReport",
    "SendReportData",
    "SendRequested",
    "SendRequestedData",
    "SendUndeliverable",
]

Relationship = Literal["none", "connection", "open_profile"]


class SendRequestedData(Data):
    """To whom, and how the recipient stands to the sender (some relationships make a send free)."""

    recipient_id: OpaqueId
    relationship: Relationship
    sender_id: Annotated[
        OpaqueId | None,
        Field(
            description="The seat that sends, where the account is a contract that pools them.",
            exclude_if=lambda sender_id: sender_id is None,
        ),
    ] = None


class SendRequested(AccountEvent):
    """A member asks to send one InMail."""

    type: Literal["inmail.send.requested.v1"]
    data: SendRequestedData


class SendReportData(Data):
    """Which send is reported on."""

    send_id: Annotated[UUID, Field(description="The request id of the send.")]


class SendReport(AccountEvent):
    """Something came of a send: what a failed delivery and a response have in common."""

    data: SendReportData


class SendUndeliverable(SendReport):
    """A message could not be delivered: its credit goes back."""

    type: Literal["inmail.send.undeliverable.v1"]


class RecipientResponded(SendReport):
    """A recipient responded: on plans that say so, the credit goes back."""

    type: Literal["inmail.recipient.responded.v1"]
