"""Renders docs/settings.md from the settings' fields.

python -m infra.settings_page           write the page
python -m infra.settings_page --check   fail if it is stale
"""

import re
import sys
from enum import EnumType
from pathlib import Path
from types import NoneType, UnionType
from typing import Any, Final, get_args

from annotated_types import Ge, Gt, Le, Lt
from pydantic import SecretStr
from pydantic.fields import FieldInfo

from infra.settings import Settings

__all__ = ["PAGE", "main", "render_page"]

PAGE: Final = Path(__file__).parent.parent / "docs" / "settings.md"

_HEAD = """# Settings

Rendered from `infra/settings.py` by `make render`.

Every process and every command reads these variables from its environment, once, when it starts. Each has a default for
one machine. A wrong value, or an `INMAIL_*` variable that is not in these tables, ends the process with exit code 2 and
a line that names the variable and the allowed values; no error shows the value. `inmail up` writes the variables of its
stack to `.inmail/env`.
"""
# By the beginning of a setting's name; the first that fits, in the page's order.
_SECTIONS: Final = {
    "Kafka": ("kafka_",),
    "Postgres": ("database_",),
    "Topics, as `inmail topics apply` makes them": ("topic_", "balances_"),
    "Workers": ("batch_", "drain_", "session_", "transaction_", "order_", "clock_", "dead_letter_", "stuck_", "plans_"),
    "Expiry ticks": ("tick_",),
    "Probes, logs and traces": ("health_", "log_", "traces"),
    "Console": ("console_",),
    "Read API": ("api_",),
}
_BOUNDS: Final = {Ge: ("ge", "at least"), Gt: ("gt", "above"), Le: ("le", "at most"), Lt: ("lt", "below")}


def render_page() -> str:
    """Return the text of docs/settings.md.

    Raises:
        LookupError: when a setting has no section or no description.

    """
    rows: dict[str, list[str]] = {section: [] for section in _SECTIONS}
    for name, field in Settings.model_fields.items():
        section = next((each for each, heads in _SECTIONS.items() if name.startswith(heads)), None)
        if section is None or not field.description:
            raise LookupError(f"{name} has no section or no description")
        text = field.description.replace("|", "\\|")
        rows[section].append(f"| `INMAIL_{name.upper()}` | {_values(field)} | {_default(field)} | {text} |")
    parts = [_HEAD]
    for section, lines in rows.items():
        parts += [f"## {section}", "", "| setting | values | default | meaning |", "|---|---|---|---|", *lines, ""]
    return "\n".join(parts)


def _values(field: FieldInfo) -> str:
    kind = next(each for each in _types(field.annotation) if each is not NoneType)
    if isinstance(kind, EnumType):
        return ", ".join(f"`{each.value}`" for each in kind)  # type: ignore[var-annotated] # a StrEnum
    if kind is bool:
        return "`true`, `false`"
    if kind in (int, float):
        bounds = [
            f"{words} {getattr(each, attribute):,.15g}"
            for each in field.metadata
            for bound, (attribute, words) in _BOUNDS.items()
            if isinstance(each, bound)
        ]
        return f"{'whole number' if kind is int else 'number'}, {', '.join(bounds)}"
    pattern = next((each.pattern for each in field.metadata if getattr(each, "pattern", None)), None)
    if pattern is not None:
        return ", ".join(f"`{each}`" for each in re.findall(r"[A-Z]+", pattern))
    return "secret text" if kind is SecretStr else "text"


def _types(annotation: Any) -> tuple[Any, ...]:  # noqa: ANN401 - any annotation
    return get_args(annotation) if isinstance(annotation, UnionType) else (annotation,)


def _default(field: FieldInfo) -> str:
    value = field.default
    if isinstance(value, SecretStr):  # the address of one machine, without a password
        value = value.get_secret_value()
    if isinstance(value, bool):
        return f"`{str(value).lower()}`"
    return "none" if value in (None, "") else f"`{value:g}`" if isinstance(value, float) else f"`{value}`"


def main(arguments: list[str]) -> int:
    """Run the command line and return the exit status."""
    text = render_page()
    if "--check" in arguments:
        if PAGE.exists() and PAGE.read_text(encoding="utf-8") == text:
            return 0
        sys.stderr.write(f"stale; run python -m infra.settings_page: {PAGE.name}\n")
        return 1
    PAGE.write_text(text, encoding="utf-8")
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
