"""The plan catalogue: read from a data file, checked once, and asked what a grant gives."""

import tomllib
from dataclasses import dataclass
from datetime import datetime, timedelta
from pathlib import Path
from typing import Annotated

from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator

from workers.ledger.model import Origin

__all__ = ["Catalogue", "CatalogueError", "Grant", "UnknownPlanError", "load_catalogue"]

SHIPPED = Path(__file__).parent / "plans.toml"


class CatalogueError(Exception):
    """The catalogue file cannot be read or breaks one of its rules. The message names the place."""


class UnknownPlanError(Exception):
    """An event names a plan that the catalogue does not have."""


class Plan(BaseModel):
    """What one plan gives."""

    model_config = ConfigDict(extra="forbid", frozen=True, strict=True)

    credits: Annotated[int, Field(ge=0, le=1_000_000)]
    rollover: bool


class _File(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)

    version: Annotated[int, Field(ge=1, le=1)]
    validity_hours: Annotated[int, Field(ge=1, le=24 * 3660)]
    free_relationships: frozenset[Annotated[str, Field(pattern="^(connection|open_profile)$")]]
    origins: dict[Origin, Annotated[int, Field(ge=0, le=1000)]]
    plans: Annotated[dict[Annotated[str, Field(pattern="^[a-z0-9_]{1,64}$")], Plan], Field(min_length=1)]

    @model_validator(mode="after")
    def _every_origin_has_a_priority(self) -> "_File":
        missing = [origin.value for origin in Origin if origin not in self.origins]
        if missing:
            raise ValueError(f"[origins] lacks {', '.join(missing)}")
        return self


@dataclass(frozen=True, slots=True)
class Grant:
    """What a grant gives: credits, their burn-down priority, and the half-open interval they live in."""

    credits: int
    priority: int
    granted_at: datetime
    expires_at: datetime


@dataclass(frozen=True, slots=True)
class Catalogue:
    """The plans, and the rules that are data."""

    plans: dict[str, Plan]
    priorities: dict[Origin, int]
    validity: timedelta
    free_relationships: frozenset[str]

    def allotment(self, plan: str, period_start: datetime, period_end: datetime) -> Grant:
        """Return what a plan gives for one period, counted from the period's start however late the event is.

        Raises:
            UnknownPlanError: when the catalogue has no such plan.

        """
        try:
            terms = self.plans[plan]
        except KeyError:
            raise UnknownPlanError(plan) from None
        full_life = period_start + self.validity
        expires_at = full_life if terms.rollover else min(full_life, period_end)
        return Grant(terms.credits, self.priorities[Origin.SUBSCRIPTION], period_start, expires_at)

    def gift(self, origin: Origin, credits_: int, as_of: datetime) -> Grant:
        """Return what a promotion or survey gives: it starts when it is read and is bound to no subscription."""
        return Grant(credits_, self.priorities[origin], as_of, as_of + self.validity)


def load_catalogue(path: str | Path | None = None) -> Catalogue:
    """Read and check a catalogue file, the shipped one by default.

    Raises:
        CatalogueError: naming the file and each wrong entry.

    """
    path = Path(path) if path else SHIPPED
    try:
        file = _File.model_validate(tomllib.loads(path.read_text()))
    except (OSError, UnicodeDecodeError, tomllib.TOMLDecodeError) as error:
        raise CatalogueError(f"{path}: {error}") from error
    except ValidationError as error:
        problems = [f"{'.'.join(map(str, e['loc'])) or 'file'}: {e['msg']}" for e in error.errors()]
        raise CatalogueError(f"{path}: " + "; ".join(problems)) from None
    return Catalogue(file.plans, file.origins, timedelta(hours=file.validity_hours), file.free_relationships)
