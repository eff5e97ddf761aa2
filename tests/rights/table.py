"""The table of rights on Kafka as docs/operate.md has it: `python -m tests.rights.table` prints it."""

import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Final

from infra.kafka.rights import Operation, Resource, Right
from schemas.catalogue import INPUT_TOPICS, TOPICS
from workers.rights import BALANCES_RIGHTS, RIGHTS
from workers.topology import GROUP_OF

__all__ = ["DOCUMENT", "render", "render_balances"]

DOCUMENT: Final = Path(__file__).parents[2] / "docs" / "operate.md"
_WHOLE: Final = {
    Resource.TOPIC: {"all topics": set(TOPICS), "the input topics": set(INPUT_TOPICS)},
    Resource.GROUP: {"the workers' groups": set(GROUP_OF.values())},
    Resource.TRANSACTIONAL_IDS: {"the transactional ids `inmail-`... (prefixed)": {f"{g}." for g in GROUP_OF.values()}},
    Resource.CLUSTER: {"the cluster": {""}},
}


def render() -> str:
    """Return the table in Markdown."""
    rows = [f"| `{command}` | {_words(rights)} |" for command, rights in RIGHTS.items()]
    return "\n".join(["| command | rights on Kafka |", "|---|---|", *rows])


def render_balances() -> str:
    """Return the table of what some commands need beside where the topic of balances is switched on."""
    rows = [f"| `{command}` | {_words(rights)} |" for command, rights in BALANCES_RIGHTS.items()]
    return "\n".join(["| command | rights on Kafka beside |", "|---|---|", *rows])


def _words(rights: Sequence[Right]) -> str:
    parts = []
    for operation in Operation:
        for resource in Resource:
            left = {right.name for right in rights if (right.operation, right.resource) == (operation, resource)}
            places = []
            for words, names in _WHOLE[resource].items():
                if names <= left:
                    places.append(words)
                    left -= names
            places += [f"`{name}`" for name in sorted(left)]
            if places:
                parts.append(f"{operation.name} on {', '.join(places)}")
    return "; ".join(parts)


if __name__ == "__main__":
    sys.stdout.write(f"{render()}\n\n{render_balances()}\n")
