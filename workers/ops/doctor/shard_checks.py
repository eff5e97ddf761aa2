"""What is asked of several Postgres servers together: whether they are one set of books, and who holds each number."""

from infra.settings import Settings
from infra.shards import RepeatedServerError, number_ranges
from workers.ops.books.shards import server_name
from workers.ops.doctor.model import CheckResult, Grade, ok, warning, wrong
from workers.ops.operations import RefusedError
from workers.ops.shards.overview import ShardsOverview, read_overview
from workers.ops.shards.servers import ShardServer, UnreachableServerError

__all__ = ["check_shards"]

_AREA = "servers"
_LIST = "`inmail shards list`, then docs/shards.md"


async def check_shards(settings: Settings) -> list[CheckResult]:
    """Return whether the servers are distinct and number accounts alike, and whether each number has one holder."""
    try:
        overview = await read_overview(settings)
    except (RepeatedServerError, RefusedError) as error:
        return [wrong(_AREA, "distinct", str(error), "mend INMAIL_DATABASE_SHARDS")]
    except UnreachableServerError as error:
        return [_silent("all", error)]
    servers = [each.server for each in overview.servers if each.server is not None]
    results = [_silent(each.address, each.error) for each in overview.servers if each.error is not None]
    if overview.is_complete:
        results.append(ok(_AREA, "distinct", f"{len(servers)} servers, each with an ordinal of its own"))
    return [*results, _partitions(servers), *_numbers(overview)]


def _silent(subject: str, error: UnreachableServerError) -> CheckResult:
    """Return why a server, or all of them, do not say what they hold."""
    return CheckResult(_AREA, subject, Grade.WRONG, str(error), error.do, unreachable=not error.answered)


def _partitions(servers: list[ShardServer]) -> CheckResult:
    """Return whether all number accounts by the same count."""
    counts = {server_name(each.settings): each.partitions for each in servers if each.partitions is not None}
    if len(set(counts.values())) > 1:
        told = ", ".join(f"{address} by {count}" for address, count in counts.items())
        # One without accounts and lanes has an old count where partitions were added.
        of_accounts = {each.partitions for each in servers if not each.is_empty and each.partitions is not None}
        do = _LIST if len(of_accounts) > 1 else "`inmail topics apply`, with all servers in INMAIL_DATABASE_SHARDS"
        return wrong(_AREA, "partitions", f"accounts are numbered by other counts of partitions: {told}", do)
    return ok(_AREA, "partitions", f"all number accounts by {next(iter(counts.values()), 'no')} partitions")


def _numbers(overview: ShardsOverview) -> list[CheckResult]:
    """Return which numbers have no holder, or two, or are on their way."""
    results = []
    moving = {each.number for server in overview.servers for each in server.under_way}
    if moving:
        # While a number is copied ahead, the server that it is to leave still works it.
        standing = moving.difference(*(server.held for server in overview.servers))
        text = f"a move of {number_ranges(sorted(moving))} is under way, or was broken off"
        if standing:
            text += f": nobody works {number_ranges(sorted(standing))} meanwhile"
        results.append(warning(_AREA, "moves", text, "the same `inmail shards move` goes on where one was broken off"))
    if overview.is_complete and (unheld := [each for each in overview.unheld if each not in moving]):
        results.append(wrong(_AREA, "numbers", f"no server holds {number_ranges(unheld)}: nobody works them", _LIST))
    for number, addresses in overview.claimed_twice.items():
        text = f"{' and '.join(addresses)} both claim {number}: nobody works it"
        results.append(wrong(_AREA, "numbers", text, _LIST))
    if not results and overview.is_complete:
        results.append(ok(_AREA, "numbers", f"each of {overview.partitions} has one server"))
    return results
