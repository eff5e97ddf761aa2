"""What is wrong with a state that was caused: a surface that did not say so, one that said more, one that stays."""

from collections.abc import Mapping
from typing import Any

__all__ = ["failures"]


def failures(found: Mapping[str, Any]) -> list[str]:
    """Return what the surfaces did not say, what they said though nothing was for them to say, and what was not calm.

    Seconds are not judged: they are of the machine that measured them.
    """
    not_said = [name for name in found["heard"] if name in found["right"] and not _is_told(found["heard"][name])]
    wrong = [f"{name} did not say the right thing" for name in not_said]
    wrong += [
        f"{name} said, though {found['silent'][name]}: {'; '.join(words)}"
        for name, words in found["false"].items()
        if words and name not in found["may_speak"]
    ]
    if not found["calm"]:
        wrong.append("not all were calm in time after its end")
    return wrong


def _is_told(heard: Mapping[str, Any]) -> bool:
    return heard["told_seconds"] is not None
