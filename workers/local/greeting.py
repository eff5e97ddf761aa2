"""What `inmail up` says once it is up: where everything is, and lines to paste into another terminal."""

import shlex
import shutil
import sys
from pathlib import Path
from uuid import uuid4

from infra.clock import utc_now
from infra.local.ports import LOOPBACK
from infra.local.stack import LocalStack
from schemas.billing import PromotionGranted, PromotionGrantedData
from schemas.catalogue import SEND_REQUESTS
from schemas.envelope import encode
from schemas.sends import SendRequested, SendRequestedData
from workers.local.control import data_option
from workers.local.local_console import LocalConsole
from workers.local.processes import COMMAND_MODULE, member_names, server_title

__all__ = ["greeting"]


def greeting(stack: LocalStack, data_dir: Path, environment: Path, page: LocalConsole) -> str:
    """Return the commands to use the stack from another terminal, ready to paste."""
    servers = stack.kafka_bootstrap_servers
    inmail = _command()
    data = data_option(data_dir)
    metrics = "\n           ".join(
        f"http://{LOOPBACK}:{port}/metrics ({_member(name)})" for name, port in page.probes.items()
    )
    cluster = "" if stack.brokers == 1 else f"\n  {inmail} workers stop broker-2{data}"
    worker, postgres, listing = "send", stack.database_url, ""
    if stack.databases > 1:
        names = [f"{url} (Postgres {number})" for number, url in enumerate(stack.database_urls, 1)]
        worker, postgres = member_names(1, stack.databases)[0], "\n           ".join(names)
        cluster += f"\n  {inmail} workers stop postgres-2{data}"
        listing = f"\n  {inmail} shards list"
    grant, send, other = _events()
    return f"""
Console    {page.sign_in_hint}
Kafka      {servers}
Postgres   {postgres}
Metrics    {metrics}
Logs       {_short(data_dir / "logs")}
The ports of Kafka and Postgres are saved in {_short(data_dir)}: the next start uses them again if they are free.

In another terminal, give alice three credits, send a message as alice, and see the result:

  source {shlex.quote(_short(environment))}
  echo {shlex.quote(grant)} | {inmail} publish -
  echo {shlex.quote(send)} | {inmail} publish -
  {inmail} results --account alice
  {inmail} statement alice
  {inmail} trace --account alice
  {inmail} lag --watch

Is all as it has to be? Which workers run? Stop one, and start it again:

  {inmail} doctor
  {inmail} workers list{data}
  {inmail} workers stop {worker}{data}
  {inmail} workers start {worker}{data}{cluster}{listing}

Your own producer must use the account as the key. With kcat:

  echo 'alice:{other}' |
    kcat -P -b {servers} -t {SEND_REQUESTS} -K: -X partitioner=murmur2_random

Ctrl-C drains the workers and stops everything; the data is kept."""


def _member(name: str) -> str:
    """Return a worker's name, with the server that it works with where there are several."""
    server = server_title(name)
    return f"{name}: {server}" if server else name


def _events() -> tuple[str, str, str]:
    """Return a grant, a message that it pays for, and another."""
    now = utc_now()
    gift = PromotionGrantedData(credits=3, promotion_id="welcome")
    grant = PromotionGranted.create(id=uuid4(), source="/terminal", subject="alice", time=now, data=gift)
    data = SendRequestedData(recipient_id="bob", relationship="none")
    send, other = (
        SendRequested.create(id=uuid4(), source="/terminal", subject="alice", time=now, data=data) for _ in range(2)
    )
    return encode(grant).decode(), encode(send).decode(), encode(other).decode()


def _short(path: Path) -> str:
    """Return a path as it is said in this folder."""
    here = Path.cwd()
    return str(path.relative_to(here) if path.is_relative_to(here) else path)


def _command() -> str:
    """Return how this program is called once the environment's file was read."""
    if shutil.which("inmail") is not None or Path(sys.executable).with_name("inmail").is_file():
        return "inmail"
    return f"{sys.executable} -m {COMMAND_MODULE}"
