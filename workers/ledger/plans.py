"""The plan catalogue: read from a data file, checked once, and asked what a grant gives."""

import tomllib
from collections.abc import Iterable
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator

from workers.ledger.model import Origin

__all__ = ["Catalogue", "CatalogueError", "Limits", "Notices", "Plan", "load_catalogue"]

SHIPPED = Path(__file__).parent / "plans.toml"


class CatalogueError(Exception):
    """The catalogue file cannot be read or breaks one of its rules. The message names the place."""


class _Section(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True, strict=True)


class Plan(_Section):
    """What one plan gives. `plans.toml` says what each field means."""

    credits: Annotated[int, Field(ge=0, le=1_000_000)]
    rollover: bool
    balance_cap: Annotated[int, Field(ge=0, le=100_000_000)] | None = None
    on_change: Literal["keep", "forfeit"] = "keep"
    credit_back_on_response: bool = False
    separate_purchase: bool = False


class Limits(_Section):
    """How many paid sends are responsible use (rule 9). 0: no limit."""

    paid_sends_per_day: Annotated[int, Field(ge=0, le=1_000_000)]
    seat_sends_per_day: Annotated[int, Field(ge=0, le=1_000_000)]
    recipient_cooldown_hours: Annotated[int, Field(ge=0, le=24 * 3660)]


class Notices(_Section):
    """When a holder is warned. 0: never."""

    low_balance: Annotated[int, Field(ge=0, le=1_000_000)]
    expiring_days: Annotated[int, Field(ge=0, le=366)]


class _File(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)

    version: Annotated[int, Field(ge=1, le=1)]
    validity_hours: Annotated[int, Field(ge=1, le=24 * 3660)]
    free_relationships: frozenset[Annotated[str, Field(pattern="^(connection|open_profile)$")]]
    apply_balance_caps: Annotated[bool, Field(strict=True)]
    limits: Limits
    notices: Notices
    origins: dict[Origin, Annotated[int, Field(ge=0, le=1000)]]
    plans: Annotated[dict[Annotated[str, Field(pattern="^[a-z0-9_]{1,64}$")], Plan], Field(min_length=1)]

    @model_validator(mode="after")
    def _every_origin_has_a_priority(self) -> "_File":
        missing = [origin.value for origin in Origin if origin not in self.origins]
        if missing:
            raise ValueError(f"[origins] lacks {', '.join(missing)}")
        return self


@dataclass(frozen=True, slots=True)
class Catalogue:
    """The plans, and the rules that are data."""

    plans: dict[str, Plan]
    priorities: dict[Origin, int]
    validity: timedelta
    free_relationships: frozenset[str]
    apply_balance_caps: bool
    limits: Limits
    notices: Notices

    @property
    def selling_plans(self) -> list[str]:
        """The plans whose holders may buy credits on their own (rule 3)."""
        return [name for name, plan in self.plans.items() if plan.separate_purchase]


def load_catalogue(path: str | Path | None = None, changes: Iterable[str] = ()) -> Catalogue:
    """Read and check a catalogue file, the shipped one by default.

    Args:
        path: the file.
        changes: values to take instead of the file's, as `plans.premium_career.rollover=false`: a name of which a part
            may be `*`, for all there are, and a value as TOML writes it.

    Raises:
        CatalogueError: naming the file and each wrong entry, or the change that names none.

    """
    path = Path(path) if path else SHIPPED
    try:
        content = tomllib.loads(path.read_text())
        for change in changes:
            _change(content, change)
        file = _File.model_validate(content)
    except OSError as error:
        raise CatalogueError(f"{path}: {error.strerror}") from error
    except (UnicodeDecodeError, tomllib.TOMLDecodeError) as error:
        raise CatalogueError(f"{path}: {error}") from error
    except ValidationError as error:
        problems = [f"{'.'.join(map(str, e['loc'])) or 'file'}: {e['msg']}" for e in error.errors()]
        raise CatalogueError(f"{path}: " + "; ".join(problems)) from None
    return Catalogue(
        file.plans,
        file.origins,
        timedelta(hours=file.validity_hours),
        file.free_relationships,
        file.apply_balance_caps,
        file.limits,
        file.notices,
    )


def _change(content: dict[str, Any], change: str) -> None:
    """Set what `name=value` names. The last part of the name may be new: optional fields are not in every file."""
    name, equals, text = change.partition("=")
    *sections, last = name.strip().split(".")
    found = [content]
    for part in sections:
        inner = [value for each in found for key, value in each.items() if part in ("*", key)]
        found = [value for value in inner if isinstance(value, dict)]
    if not (equals and last and found):
        raise CatalogueError(
            f"{change}: expected a name of the catalogue and its value, like plans.premium_career.rollover=false"
        )
    try:
        value = tomllib.loads(f"value = {text}")["value"]
    except tomllib.TOMLDecodeError as error:
        raise CatalogueError(f"{change}: {error}") from None
    for each in found:
        each[last] = value
