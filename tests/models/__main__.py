"""Makes typed models of all events in build/models, and reads events with them: `python -m tests.models`.

In Python (pydantic), Java (Jackson) and TypeScript, by generators whose versions are pinned. Each has to read real
results and published examples, also with values and members that come later, and to refuse another value of a
closed enum.
"""

import asyncio
import json
import os
import shutil
import subprocess
import sys
import venv
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

from schemas.catalogue import CATALOGUE
from tests.models.events import (
    ROOT,
    SCHEMAS,
    Json,
    published_examples,
    real_results,
    with_another_outcome,
    with_later_values,
)

MADE = ROOT / "build" / "models"
HERE = Path(__file__).parent
SECONDS = 600
CLASSES = {row.name: row.model.__name__ for row in CATALOGUE}

Read = Callable[[Sequence[Json]], list[bool]]  # for each event, whether its model takes it


def _run(folder: Path, *command: str | Path, **given: str) -> str:
    return subprocess.run(
        command, cwd=folder, check=True, timeout=SECONDS, stdout=subprocess.PIPE, text=True, **given
    ).stdout


def _said(output: str) -> list[bool]:
    return [line == "read" for line in output.splitlines()]


def _lines(events: Sequence[Json]) -> str:
    return "".join(json.dumps({"class": CLASSES[event["type"]], "event": event}) + "\n" for event in events)


def make_python() -> Read:
    """Make pydantic models with datamodel-code-generator."""
    tools, schemas, made = ROOT / "build" / "models-tools", MADE / "schemas", MADE / "python"
    venv.create(tools, with_pip=True)
    python = tools / "bin" / "python"
    pip = ("-m", "pip", "install", "--disable-pip-version-check", "--progress-bar", "off", "-q")
    _run(HERE, python, *pip, "-r", "requirements.txt")
    schemas.mkdir()
    for path in SCHEMAS.glob("inmail.*.json"):  # a folder is read whole, and AsyncAPI is no schema
        shutil.copy(path, schemas)
    options = "--input-file-type jsonschema --output-model-type pydantic_v2.BaseModel --target-python-version 3.11"
    style = (
        "--enum-field-as-literal all --use-annotated --use-schema-description --disable-timestamp --disable-warnings"
    )
    _run(
        schemas,
        *(tools / "bin" / "datamodel-codegen", "--input", schemas, "--output", made / "inmail_events"),
        *(*options.split(), *style.split()),
    )
    return lambda events: _said(_run(made, python, HERE / "check_models.py", input=_lines(events), env=_path(made)))


def _path(folder: Path) -> dict[str, str]:
    return os.environ | {"PYTHONPATH": str(folder)}


def make_java() -> Read:
    """Make classes for Jackson with jsonschema2pojo, as the sample's build does."""
    folder = ROOT / "examples" / "java"
    _run(folder, "mvn", "--batch-mode", "--quiet", "package")
    shutil.copytree(folder / "target" / "generated-sources" / "events", MADE / "java")
    java = ("java", "-cp", f"{folder / 'target' / 'classes'}:{folder / 'target' / 'lib'}/*")
    return lambda events: _said(_run(HERE, *java, "CheckModels.java", input=_lines(events)))


def make_typescript() -> Read:
    """Make types with json-schema-to-typescript, as the sample's build does."""
    folder, made = ROOT / "examples" / "typescript", MADE / "typescript"
    _run(folder, "npm", "ci", "--no-audit", "--no-fund", "--loglevel=error")
    _run(folder, "npm", "run", "--silent", "generate")
    shutil.copytree(folder / "src" / "generated", made)

    def read(events: Sequence[Json]) -> list[bool]:
        """Compile each event as a constant of its type: types are gone when a program runs."""
        names = sorted({event["type"] for event in events})
        imports = [f"import type {{ {CLASSES[name]} }} from './{name}.js'" for name in names]
        constants = [
            f"export const e{number}: {CLASSES[event['type']]} = {json.dumps(event)}"
            for number, event in enumerate(events)
        ]
        (made / "check.ts").write_text("\n".join([*imports, *constants, ""]))
        compiler = folder / "node_modules" / ".bin" / "tsc"
        done = subprocess.run(
            [compiler, "--noEmit", "--strict", "--module", "nodenext", "--pretty", "false", "check.ts"],
            cwd=made, stdout=subprocess.PIPE, text=True, timeout=SECONDS, check=False,
        )  # fmt: skip
        wrong = {
            int(line.partition("check.ts(")[2].partition(",")[0]) - len(imports) - 1
            for line in done.stdout.splitlines()
            if line.startswith("check.ts(")
        }
        assert bool(wrong) == bool(done.returncode), done.stdout
        assert min(wrong, default=0) >= 0, done.stdout
        return [number not in wrong for number in range(len(events))]

    return read


MAKERS: Mapping[str, Callable[[], Read]] = {
    "python": make_python,
    "java": make_java,
    "typescript": make_typescript,
}
NEEDS = {"python": (), "java": ("java", "mvn"), "typescript": ("node", "npm")}


def check(name: str, read: Read, real: Sequence[Json]) -> list[str]:
    """Return what a language's models read, or refuse, and should not."""
    events = [*real, *published_examples()]
    closed = [other for event in events if (other := with_another_outcome(event)) is not None]
    wrong = []
    for what, given, expected in (
        ("as published", events, True),
        ("with later values", [with_later_values(event) for event in events], True),
        ("with another outcome", closed, False),
    ):
        answers = read(given)
        assert len(answers) == len(given) > 0, f"{name}, {what}: {len(answers)} of {len(given)}"
        unexpected = Counter(event["type"] for event, answer in zip(given, answers, strict=True) if answer != expected)
        wrong += [f"{name}, {what}: {count} of {type_}" for type_, count in unexpected.items()]
        print(f"{name}: {len(given)} events {what}: {'read' if expected else 'refused'}, but for {unexpected.total()}")
    return wrong


def main() -> None:
    """Make the models of the languages named, or of all, and check them; end with 1 if one is not as it has to be."""
    names = sys.argv[1:] or list(MAKERS)
    if missing := sorted({tool for name in names for tool in NEEDS[name] if shutil.which(tool) is None}):
        sys.exit(f"install {', '.join(missing)}, or name the languages: {' '.join(MAKERS)}")
    shutil.rmtree(MADE, ignore_errors=True)
    MADE.mkdir(parents=True)
    readers = {name: MAKERS[name]() for name in names}
    real = asyncio.run(real_results())
    types = sorted({event["type"] for event in real})
    print(f"{len(real)} real results of {len(types)} types")
    wrong = [each for name, read in readers.items() for each in check(name, read, real)]
    sys.exit("\n".join(wrong) if wrong else 0)


if __name__ == "__main__":
    main()
