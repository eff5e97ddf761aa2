"""The reference of settings: rendered from the code, whole and fresh."""

import re

import pytest

from infra import settings_page
from infra.settings import Settings
from infra.settings_page import PAGE, main, render_page


def test_the_page_is_fresh() -> None:
    """A setting that was added or changed is on the page; `make render` writes it."""
    assert render_page() == PAGE.read_text(encoding="utf-8")


def test_every_setting_is_on_the_page_with_its_default() -> None:
    """Each once, with a meaning; the default is the field's, so a line of the page can be copied."""
    rows = re.findall(
        r"^\| `INMAIL_(\w+)` \| .+? \| (.+?) \| .{5,} \|$", PAGE.read_text(encoding="utf-8"), re.MULTILINE
    )

    assert sorted(name.lower() for name, _ in rows) == sorted(Settings.model_fields)
    assert dict(rows)["ORDER_SECONDS"] == f"`{Settings.model_fields['order_seconds'].default:g}`"
    assert dict(rows)["LOG_LEVEL"] == "`INFO`"


def test_a_stale_page_fails_the_check(monkeypatch: pytest.MonkeyPatch) -> None:
    """The check of `make lint` bites."""
    assert main(["--check"]) == 0
    monkeypatch.setattr(settings_page, "render_page", lambda: "other")

    assert main(["--check"]) == 1
