"""What the repository says: of itself alone, and true of the files it names."""

import re
import shlex
import subprocess
import tomllib
from pathlib import Path

import pytest

from tests.house.command_line import parse

ROOT = Path(__file__).parents[2]

HOSTS = re.compile(
    r"pypi\.org|pythonhosted|repo1?\.maven|maven\.org|registry\.npmjs|proxy\.golang|deb\.debian", re.IGNORECASE
)
HOMES = re.compile(r"(?<![\w.-])/(?:root|work|home|Users)/")


def _tracked() -> list[Path]:
    listed = subprocess.run(["git", "ls-files", "-z"], cwd=ROOT, capture_output=True, check=False)
    if listed.returncode == 0 and listed.stdout:
        return [ROOT / name for name in listed.stdout.decode().split("\0") if name and (ROOT / name).is_file()]
    return [path for path in ROOT.rglob("*") if path.is_file() and not any(p.startswith(".") for p in path.parts)]


FILES = [path for path in _tracked() if path != Path(__file__)]


@pytest.mark.parametrize("pattern", [HOSTS, HOMES], ids=["registry hosts", "paths of a machine"])
def test_no_file_names(pattern: re.Pattern[str]) -> None:
    """Neither where packages come from nor where somebody's files lie."""
    found = [
        f"{path.relative_to(ROOT)}: {match.group()}"
        for path in FILES
        for match in [pattern.search(path.read_text(errors="replace"))]
        if match
    ]

    assert len(FILES) > 50
    assert [] == found


def test_links_in_markdown_lead_somewhere() -> None:
    """Every relative link names a file of the repository."""
    dead = []
    for path in FILES:
        if path.suffix == ".md":
            links = re.findall(r"\]\(([^)#]+)(?:#[^)]*)?\)", path.read_text())
            local = [link for link in links if "://" not in link]
            dead += [f"{path.relative_to(ROOT)}: {link}" for link in local if not (path.parent / link).exists()]

    assert [] == dead


def test_the_list_of_documents_has_every_page() -> None:
    """A page that is not listed is not found."""
    listed = set(re.findall(r"\]\(([\w-]+\.md)", (ROOT / "docs" / "README.md").read_text()))

    assert {path.name for path in (ROOT / "docs").glob("*.md")} - {"README.md"} == listed


def test_the_gain_over_one_message_at_a_time_is_told_alike() -> None:
    """Both name the range of the machines that docs/operate.md has."""
    readme = re.findall(r"(\d+) to (\d+) times as\s+fast as by a worker", (ROOT / "README.md").read_text())
    rejected = re.findall(r"(\d+) to (\d+) times slower on the same", (ROOT / "docs" / "architecture.md").read_text())
    operate = (ROOT / "docs" / "operate.md").read_text()
    measured = re.findall(r"(\d+)\s+times\s+(?:a worker that takes one message|the other worker)", operate)

    assert readme == rejected == [tuple(sorted(measured))]


def test_each_sample_program_can_be_run_by_hand() -> None:
    """Both programs of each language, by the name that they have once they are built."""
    by_hand = (ROOT / "docs" / "examples.md").read_text().partition("\n## By hand\n")[2]
    names = {
        "python": "examples/python/{}.py",
        "java/src/main/java/inmail": "inmail.{}",
        "go": "./{}",
        "typescript/src": "dist/{}.js",
    }
    programs = {
        name.format(path.stem)
        for folder, name in names.items()
        for path in (ROOT / "examples" / folder).iterdir()
        if re.fullmatch("send.?inmail|read.?results", path.stem, re.IGNORECASE)
    }

    assert 2 * len(names) == len(programs)
    assert set() == {each for each in programs if f"{each}`" not in by_hand and f"{each} alice bob`" not in by_hand}


def test_make_help_lists_every_target() -> None:
    """A target without a comment would be a secret."""
    makefile = (ROOT / "Makefile").read_text()
    targets = set(re.findall(r"^\.PHONY: (\S+)", makefile, re.MULTILINE))
    command = ["make", "--no-print-directory", "help"]  # which make run by make would print
    listed = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True).stdout

    assert targets == {line.split()[1] for line in listed.splitlines()}


@pytest.mark.parametrize("lock", ["requirements.lock", "requirements-run.lock"])
def test_lock_files_pin_everything_by_hash(lock: str) -> None:
    """Each requirement has its version and at least one hash, and each direct dependency is there."""
    text = (ROOT / lock).read_text()
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    extras = project["optional-dependencies"]
    in_the_image = {"traces": extras["traces"]}
    wanted = [*project["dependencies"]]
    wanted += [name for extra in (extras if lock == "requirements.lock" else in_the_image).values() for name in extra]
    entries = re.split(r"\n(?=\S)", text.strip())

    assert [] == [entry for entry in entries if "==" not in entry or "--hash=sha256:" not in entry]
    assert set() == {_normal(name) for name in wanted} - {_normal(entry) for entry in entries}


def _normal(requirement: str) -> str:
    return re.split(r"[^A-Za-z0-9._-]", requirement.strip())[0].lower().replace("_", "-")


def _commands() -> dict[str, str]:
    """Return every `$ inmail ...` line of the documents, by where it stands."""
    pages = [*(ROOT / "docs").glob("*.md"), ROOT / "README.md"]
    return {
        f"{page.name}:{number}": line.removeprefix("$ inmail ")
        for page in pages
        for number, line in enumerate(page.read_text().splitlines(), 1)
        if line.startswith("$ inmail ")
    }


@pytest.mark.parametrize("place", _commands())
def test_commands_in_the_documents_exist(place: str) -> None:
    """With their options: what a person at night types off a page has to be understood."""
    parse(shlex.split(_commands()[place].partition("|")[0].partition(">")[0], comments=True))


def test_a_command_that_does_not_exist_is_found() -> None:
    """The check bites."""
    assert len(_commands()) > 20
    with pytest.raises(Exception, match="--to-thyme"):
        parse(["replay", "rewind", "send", "--to-thyme", "now"])
