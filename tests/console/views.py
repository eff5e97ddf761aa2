"""The console's views: their paths, the texts that they must show, and checks of each view."""

from collections.abc import Sequence
from typing import Final

from schemas.catalogue import SEND_REQUESTS
from tests.console.browser import NARROW, WIDE, Tab
from tests.console.scene import EVIL, Scene

__all__ = ["WINDOWS", "find_shortcomings", "views"]

WINDOWS: Final = ((WIDE, "light"), (NARROW, "dark"))  # widths, and colour schemes


def views(scene: Scene) -> dict[str, tuple[str, list[str]]]:
    """Return each view's path and the texts that the view must show."""
    expiry = ["STOPPED", "inmail-expiry", "nobody is in the group", "What to do", "Since", "start inmail worker expiry"]
    return {
        "overview": (
            "#/",
            ["Flow in", "records/s", "send worker", "→ start inmail worker expiry", "charged", *expiry],
        ),
        "lag": ("#/lag", ["inmail-send", *expiry, "Next offset", "Unread, records", scene.stranger]),
        "lag of another": (
            f"#/lag?group={scene.stranger}",
            [f"{scene.stranger} on {SEND_REQUESTS}", "nobody", "STOPPED"],
        ),
        "dead letters": (f"#/letters?account={scene.refused}", [scene.refused, "unknown plan", "messages …"]),
        "dead letter": (f"#/letters/{scene.letter.place}", ["unknown type", EVIL, "<script>alert(2)</script>"]),
        "account": (f"#/account?id={scene.account}", ["2 credits", "promotion", "charged", "free", "Sequence"]),
        "request": (f"#/request?id={scene.request}", [str(scene.request), SEND_REQUESTS, "charged", "published"]),
        "operations": ("#/operations", ["Recorded operations"]),
        "topics": ("#/topics", ["up to date", "Delivery guarantees", "Offsets held", SEND_REQUESTS]),
        "topic": (f"#/topics/{SEND_REQUESTS}", ["In sync", "Records", scene.account, "inmail.send.requested.v1"]),
    }


async def find_shortcomings(
    tab: Tab, path: str, expected: list[str], windows: Sequence[tuple[int, str]] = WINDOWS
) -> list[str]:
    """Return the problems of a view: violations, overflow, cut texts and errors. A missing text fails the test."""
    found: list[str] = []
    await tab.open_view(path)
    for width, scheme in windows:
        await tab.set_window(width, scheme)
        for text in expected:
            await tab.wait_for_text(text)
        found += await tab.accessibility_violations()
        if (over := await tab.overflow()) != 0:
            found.append(f"{over} pixels too wide for {width}")
        found += [f"{text!r} is cut" for text in await tab.cut_texts()]
    errors, tab.errors = tab.errors, []
    return found + errors
