"""What a text of the search field may name: an account, a request or event, a dead letter."""

import re
from collections.abc import Sequence
from typing import Any, Final

from schemas.content_modes import parse_uuid

__all__ = ["search_json"]

_PLACE: Final = re.compile(r"\d{1,9}/\d{1,18}", re.ASCII)


def search_json(text: str, accounts: Sequence[str], shown: int) -> dict[str, Any]:
    """Return the findings, for JSON.

    Args:
        text: what was searched for.
        accounts: the accounts that begin with it, one more than are shown where there are more.
        shown: how many are shown.

    """
    return {
        "text": text,
        "account": text if text in accounts else None,
        "accounts": [each for each in accounts[:shown] if each != text],
        "more": len(accounts) > shown,
        "id": None if (id_ := parse_uuid(text)) is None else str(id_),  # of a request or an event
        "dead_letter": text if _PLACE.fullmatch(text) else None,
    }
