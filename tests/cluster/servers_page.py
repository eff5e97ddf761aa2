"""The part of `docs/cluster.md` about several Postgres servers."""

from statistics import median
from typing import Any

from tests.cluster.judge import ALLOWED_SECONDS
from tests.cluster.servers import Act

__all__ = ["render_servers"]

_PART = """
## Two Postgres servers

`python -m tests.cluster --databases 2`, the second half of `make cluster`, runs [two Postgres servers](shards.md)
beside one broker, each with workers of its own, under sends and grants. In random order it kills a server without a
checkpoint and starts it again {down:.0f} s later; moves a number to the other server and back, by the code of `inmail
shards move`; kills a worker with -9; and kills one of the two servers in the middle of a move, at one of its steps, and
moves again.

{sends:,} sends at {rate:.0f} a second, {partitions} partitions, {members} of each worker for each server, seed {seed}.
The run of {day}, commit {commit}.

| promise | broken |
|---|---|
| each send has an answer, as a `read_committed` reader sees it | {unanswered} |
| and no more than one | {doubled} |
| each billing event has exactly one | {unbilled} |
| the audits of both servers; accounts, and credits granted, spent and left, added up over both | {audit} |
| other numbers pause for at most {allowed:.0f} s where a server is killed | {late} of {judged} |

| | times | its numbers paused: median | longest | the other numbers: median | longest |
|---|---|---|---|---|---|
{kinds}

While nothing is done, a number's answers come every {usual:.1f} s.{beside}

- *A server was killed*: {down:.0f} s away, a start with recovery, and its workers' next try. Nobody else waits.
- *A number moved*: its lanes stood for what the command says, the last column. Then the new server's workers have to
  look, which they do every second. The workers of both servers join their groups again, and Kafka waits for the next
  heartbeat of each member: at most {heartbeat:.0f} s here, a tenth of `INMAIL_SESSION_SECONDS`. So do the others.
- *A worker was killed*: another one that joins has the group wait for the dead member, until Kafka has missed its
  heartbeats ({session:.0f} s here, `INMAIL_SESSION_SECONDS`). That holds up all members of the group, whichever server
  they work with, as it does with one server.

| # | what | pause of its numbers | of the others | |
|---|---|---|---|---|
{rows}

*its numbers*: those that the killed server or the killed worker's server held; of a move, the number that moved.
"""
_TITLES = {
    Act.KILL_SERVER: "a server was killed",
    Act.MOVE: "a number moved",
    Act.KILL_WORKER: "a worker was killed",
    Act.BREAK_MOVE: "a server was killed while a number moved",
}


def render_servers(result: dict[str, Any], beside: str = "") -> str:
    """Return the part for the result of a run, and what else kept the machine busy, if anything."""
    seen = result["disturbances"]
    judged = [each for each in seen if each["act"] == Act.KILL_SERVER]
    names = ("sends", "rate", "partitions", "members", "seed", "day", "commit", "unanswered", "doubled", "unbilled")
    return _PART.format(
        **{name: result[name] for name in names},
        down=result["down_seconds"],
        audit=", ".join(result["audit"]) or 0,
        allowed=ALLOWED_SECONDS,
        late=sum(each["others"] > ALLOWED_SECONDS for each in judged),
        judged=len(judged),
        kinds="\n".join(_kind(act, [each for each in seen if each["act"] == act]) for act in Act),
        usual=result["partitions"] / result["rate"],
        session=result["session_seconds"],
        heartbeat=result["session_seconds"] / 10,
        beside=f" {beside}" if beside else "",
        rows="\n".join(_row(number, each) for number, each in enumerate(seen, 1)),
    )


def _kind(act: Act, seen: list[dict[str, Any]]) -> str:
    if not seen:
        return f"| {_TITLES[act]} | 0 | | | | |"
    parts = [
        f"{figure([each[name] for each in seen]):.1f} s" for name in ("pause", "others") for figure in (median, max)
    ]
    return f"| {_TITLES[act]} | {len(seen)} | {' | '.join(parts)} |"


def _row(number: int, seen: dict[str, Any]) -> str:
    stood = "" if seen["stood"] is None else f"its lanes stood for {seen['stood']:.2f} s"
    return f"| {number} | {seen['what']} | {seen['pause']:.1f} s | {seen['others']:.1f} s | {stood} |"
