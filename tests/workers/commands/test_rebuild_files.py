"""Files that a rebuild is to write: what cannot be written is said before hours of work, and no work is lost by it."""

import json
from pathlib import Path
from unittest.mock import AsyncMock, Mock

import pytest
import typer
from pydantic import SecretStr

from infra.settings import load_settings
from workers.commands import rebuild_runs
from workers.commands.rebuild_runs import RebuildFiles, run_rebuild
from workers.ops.compare.comparison import Comparison
from workers.ops.compare.corrections import Corrections
from workers.ops.operations import OngoingOperation, Operator
from workers.ops.replay.rebuild_plan import RebuildPlan, RebuildRequest
from workers.ops.replay.rebuild_servers import ServerRebuild

WHO = Operator("ops-1", "a trial")
REQUEST = RebuildRequest("replay shadow", SecretStr("postgresql://localhost:1/other"))
RESULT = {"read": 7, "dead_letters": {}}


def _run(files: RebuildFiles, person: Operator | None = WHO, *, json: bool = False) -> Comparison | None:
    return run_rebuild(REQUEST, None, person, files, yes=True, json=json)


@pytest.fixture
def planning(monkeypatch: pytest.MonkeyPatch) -> AsyncMock:
    """What plans: it is not to be called."""
    planning = AsyncMock(side_effect=AssertionError("planned"))
    monkeypatch.setattr(rebuild_runs, "plan_each_server", planning)
    return planning


@pytest.fixture
def decided(monkeypatch: pytest.MonkeyPatch) -> None:
    """A rebuild that is done at once, and whose databases agree."""
    planned = [ServerRebuild(load_settings(), REQUEST, RebuildPlan("other", (), begun=False))]
    monkeypatch.setattr(rebuild_runs, "plan_each_server", AsyncMock(return_value=planned))
    done = OngoingOperation(5, Mock(), RESULT), Comparison(whole=True, lines={"accounts": (3, 3)})
    monkeypatch.setattr(rebuild_runs, "rebuild", AsyncMock(return_value=done))
    monkeypatch.setattr(rebuild_runs, "find_corrections", AsyncMock(return_value=Corrections()))


@pytest.mark.parametrize("name", ["page", "corrections"])
@pytest.mark.parametrize("person", [WHO, None])
def test_a_file_that_cannot_be_written_is_told_before_the_plan(
    name: str, person: Operator | None, tmp_path: Path, planning: AsyncMock, capsys: pytest.CaptureFixture[str]
) -> None:
    """With the sentence and the code of any file, for a dry run too; nothing is asked of Kafka or Postgres."""
    file = tmp_path / "out" / "r.html"

    with pytest.raises(typer.Exit) as ended:
        _run(RebuildFiles(**{name: file}), person)

    assert ended.value.exit_code == 2
    assert f"inmail: {file}: No such file or directory\n" == capsys.readouterr().err
    planning.assert_not_called()


def test_files_that_can_be_written_are_left_as_they_were(tmp_path: Path) -> None:
    """An earlier page is kept, and no empty file is made, until there is something to write."""
    page, corrections = tmp_path / "page.html", tmp_path / "owed.ndjson"
    page.write_text("an earlier page")

    RebuildFiles(page, corrections).check_writable()

    assert [page] == list(tmp_path.iterdir())
    assert page.read_text() == "an earlier page"


@pytest.mark.usefixtures("decided")
@pytest.mark.parametrize("name", ["page", "corrections"])
def test_what_was_compared_is_told_though_a_file_cannot_be_written_in_the_end(
    name: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """As on a disk that filled up meanwhile. An error of the write names no file itself."""
    monkeypatch.setattr(Path, "write_bytes", Mock(side_effect=OSError(28, "No space left on device")))
    monkeypatch.setattr(Path, "write_text", Mock(side_effect=OSError(28, "No space left on device")))
    files = RebuildFiles(**{name: tmp_path / "file"})

    with pytest.raises(typer.Exit) as ended:
        _run(files)
    text = capsys.readouterr()
    with pytest.raises(typer.Exit):
        _run(files, json=True)
    told = json.loads(capsys.readouterr().out)

    assert ended.value.exit_code == 2
    assert f"inmail: {tmp_path / 'file'}: No space left on device" in text.err
    assert "The databases agree, line for line." in text.out
    assert (5, True) == (told["operation"], told["comparison"]["same"])


@pytest.mark.usefixtures("decided")
def test_the_files_are_written_and_told(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """The page and the adjustments, and what the adjustments do."""
    page, corrections = tmp_path / "page.html", tmp_path / "owed.ndjson"

    assert _run(RebuildFiles(page, corrections)) is not None

    assert "operation 5" in page.read_text()
    assert corrections.read_bytes() == b""
    assert f"0 adjustments for 0 accounts, 0 credits to give, 0 to take: {corrections}" in capsys.readouterr().out
