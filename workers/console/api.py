"""The console's read API, as JSON: each answer has the data of the command of the same name (see docs/console.md)."""

from collections.abc import Awaitable, Callable
from dataclasses import asdict, dataclass, replace
from functools import partial
from typing import Any, Final

from aiohttp import web
from pydantic_core import to_json

from infra.kafka.backwards import ReadBudget
from schemas.catalogue import INPUT_TOPICS
from schemas.dead_letters import DeadLetterReason
from workers.console import parameters
from workers.console.balance_json import balance_history_json
from workers.console.dead_letter_json import letter_json, letter_row_json
from workers.console.operation_runner import OperationRunner
from workers.console.problems import BadRequestError
from workers.console.query_limiter import QueryLimiter
from workers.console.record_json import record_json
from workers.console.resumption import resume_command
from workers.console.search_json import search_json
from workers.console.system_monitor import SystemMonitor
from workers.console.time_series import TimeRange
from workers.ops.books.account_search import search_accounts
from workers.ops.books.balance_history import read_balance_history
from workers.ops.books.shards import by_account
from workers.ops.books.statement import statement_of
from workers.ops.books.whole_books import PartOfBooksError
from workers.ops.dead_letters.pages import count_newest
from workers.ops.dead_letters.report import DeadLetterReport, report_dead_letter, report_dead_letters
from workers.ops.operations import Operation, RefusedError, find_operations, read_operation
from workers.ops.topics.inventory import read_inventory
from workers.ops.topics.newest_records import read_newest
from workers.ops.topics.plan import TopicsError, plan_topics
from workers.ops.topics.promises import check_topics
from workers.ops.trace.trace import about, trace
from workers.topology import topics_of

__all__ = ["Api", "RequestHandler", "json_response"]

_MAX_LETTERS: Final = 200
_LETTER_BUDGET: Final = ReadBudget(5_000, 16 * 1024 * 1024)  # of one page: half a second where nothing matches
_MAX_LINES: Final = 500  # of an account that may have 100,000s: no more are read, nor get a reason
_MAX_ACCOUNTS: Final = 20
_MAX_RECORDS: Final = 25
_MAX_REQUESTS: Final = 20
_SEARCHED_RECORDS: Final = 20_000  # records of each partition; the command can search more
_TOPIC_SCAN_LIMITS: Final = 2.0  # query time limits: these queries read whole topics
_SERVERS_LIMITS: Final = 2.0  # one of several servers that hangs takes a whole limit, and the others' answers are there

_read_newest_lines: Final = by_account(partial(statement_of, last=_MAX_LINES))

RequestHandler = Callable[[web.Request], Awaitable[web.Response]]


def json_response(body: object, status: int = 200) -> web.Response:
    """Return a response with the body as JSON."""
    return web.Response(body=to_json(body), status=status, content_type="application/json", charset="utf-8")


@dataclass(slots=True)
class Api:
    """Handlers of read requests. They raise errors, which a middleware turns into responses."""

    limiter: QueryLimiter
    monitor: SystemMonitor
    runner: OperationRunner

    def routes(self) -> dict[str, RequestHandler]:
        """Return the handler of GET requests for each path."""
        return {
            "/api/overview": self.overview,
            "/api/lag": self.lag,
            "/api/history": self.history,
            "/api/account": self.account,
            "/api/account/balance": self.balance,
            "/api/request": self.request,
            "/api/dead-letters": self.dead_letters,
            "/api/dead-letters/counts": self.dead_letter_counts,
            "/api/dead-letters/{partition}/{offset}": self.dead_letter,
            "/api/operations": self.operations,
            "/api/operations/{operation}": self.operation,
            "/api/topics": self.topics,
            "/api/topics/{topic}/records": self.records,
            "/api/search": self.search,
        }

    async def overview(self, _: web.Request) -> web.Response:
        """Answer with the last sample. An open page asks for it every 2 s."""
        self.monitor.note_view()
        return json_response(self.monitor.overview_json())

    async def lag(self, request: web.Request) -> web.Response:
        """Answer with the lag of every group; for one group, or ours, also with partitions and their history."""
        group = parameters.parse_text(request.query, "group")
        return json_response(self.monitor.lag_json([group] if group is not None else []))

    async def history(self, request: web.Request) -> web.Response:
        """Answer with the time series of a range: flow, outcomes, dead letters, lag and latency."""
        name = parameters.parse_text(request.query, "range") or TimeRange.MINUTES_15
        if name not in set(TimeRange):
            raise BadRequestError(f"range: expected one of {', '.join(TimeRange)}")
        return json_response(self.monitor.recorder.series(TimeRange(name)))

    async def account(self, request: web.Request) -> web.Response:
        """Answer with an account's lots and the newest lines of its statement."""
        account = _require_account(request)
        async with self.limiter.slot() as settings:
            statement = await _read_newest_lines(settings, account, parameters.parse_instant(request.query, "as_of"))
        facts = statement.summary()
        lines = facts.pop("lines")
        assert isinstance(lines, list)  # noqa: S101 - a statement's summary has a list
        return json_response(facts | {"line_count": statement.line_count, "lines": lines[::-1]})

    async def balance(self, request: web.Request) -> web.Response:
        """Answer with an account's balance over time, and with what changed it."""
        account, days = _require_account(request), parameters.parse_number(request.query, "days", 1, 36_525)
        async with self.limiter.slot() as settings:
            history = await read_balance_history(settings, account, parameters.parse_instant(request.query, "as_of"))
        return json_response(balance_history_json(history, days))

    async def request(self, request: web.Request) -> web.Response:
        """Answer with the trace of a request or event, or of an account's last requests."""
        id_ = parameters.parse_text(request.query, "id")
        account = parameters.parse_text(request.query, "account")
        if id_ is None and account is None:
            raise BadRequestError("id: missing; expected a request, or an account")
        async with self.limiter.slot(_TOPIC_SCAN_LIMITS) as settings:
            traced = await trace(settings, about(id_, account, _MAX_REQUESTS, _SEARCHED_RECORDS))
        summary = traced.summary()
        summary["dead_letters"] = [letter_json(letter, history) for letter, history in traced.letters]
        return json_response(summary | {"searched": _SEARCHED_RECORDS})

    async def dead_letters(self, request: web.Request) -> web.Response:
        """Answer with the newest dead letters that match the filter, or the next older ones."""
        letter_filter = parameters.parse_filter(request.query)
        last = parameters.parse_number(request.query, "last", 1, _MAX_LETTERS) or _MAX_LETTERS
        after = parameters.parse_older(request.query)
        operation = parameters.parse_number(request.query, "operation")
        budget = replace(_LETTER_BUDGET)
        async with self.limiter.slot(_TOPIC_SCAN_LIMITS) as settings:
            report = await report_dead_letters(settings, letter_filter, last, operation, after=after, budget=budget)
        return json_response(
            {
                "letters": [letter_row_json(letter, history) for letter, history in report.letters],
                "next": parameters.older_than_text(report.next),
                "searched_to": report.searched_to,
                **_silence_json(report),
                "topics": INPUT_TOPICS,
                "reasons": list(DeadLetterReason),
            }
        )

    async def dead_letter_counts(self, _: web.Request) -> web.Response:
        """Answer with the number of the newest dead letters by topic and reason, and back to when they were counted."""
        async with self.limiter.slot(_TOPIC_SCAN_LIMITS) as settings:
            counts, counted_to = await count_newest(settings, replace(_LETTER_BUDGET))
        rows = [{"topic": topic, "reason": reason, "letters": n} for (topic, reason), n in sorted(counts.items())]
        return json_response({"counts": rows, "counted_to": counted_to})

    async def dead_letter(self, request: web.Request) -> web.Response:
        """Answer with one dead letter in full."""
        partition, offset = _require_number(request, "partition"), _require_number(request, "offset")
        async with self.limiter.slot(_TOPIC_SCAN_LIMITS) as settings:
            report = await report_dead_letter(settings, partition, offset, replace(_LETTER_BUDGET))
        return json_response(letter_json(*report.letters[0]) | _silence_json(report))

    async def operations(self, request: web.Request) -> web.Response:
        """Answer with the recorded operations, newest first, and which of several servers did not answer."""
        last = parameters.parse_number(request.query, "last", 1, 500) or 50
        async with self.limiter.slot(_SERVERS_LIMITS) as settings:
            found, silent = await find_operations(settings, last)
        operations = [self._operation_json(each) for each in found]
        return json_response({"operations": operations, "silent_servers": [str(each) for each in silent]})

    async def operation(self, request: web.Request) -> web.Response:
        """Answer with one operation: its plan, progress and result."""
        async with self.limiter.slot(_SERVERS_LIMITS) as settings:
            operation = await read_operation(settings, _require_number(request, "operation"))
        return json_response(self._operation_json(operation))

    def _operation_json(self, operation: Operation) -> dict[str, Any]:
        can_resume = self.runner.can_resume(operation)
        command = (
            None
            if can_resume or operation.status in {"done", "running"}
            else resume_command(self.runner.settings, operation)
        )
        return asdict(operation) | {
            "may_stop": self.runner.can_stop(operation),
            "may_go_on": can_resume,
            "command": command,
        }

    async def search(self, request: web.Request) -> web.Response:
        """Answer with what a text may name: accounts, a request or event, a dead letter."""
        text = parameters.parse_text(request.query, "q")
        if text is None:
            raise BadRequestError("q: missing; expected an account, an id, or a dead letter's place")
        async with self.limiter.slot() as settings:
            accounts = await search_accounts(settings, text, _MAX_ACCOUNTS + 1)
        return json_response(search_json(text, accounts, _MAX_ACCOUNTS))

    async def topics(self, _: web.Request) -> web.Response:
        """Answer with the planned topic changes, and the settings that conflict with a delivery guarantee."""
        async with self.limiter.slot(_TOPIC_SCAN_LIMITS) as settings:
            topics = await read_inventory(settings)
            broken_promises = await check_topics(settings)
            try:
                changes, refused = await plan_topics(settings), None
            except (TopicsError, RefusedError, PartOfBooksError) as error:  # what conflicts is shown without a plan too
                changes, refused = [], str(error)
        wanted = {"partitions": settings.topic_partitions, "replicas": settings.topic_replication}
        conflicts = [each._asdict() for each in broken_promises]
        return json_response(
            {
                "topics": topics,
                "changes": changes,
                "refused": refused,
                "broken_promises": conflicts,
                "wanted": wanted,
            }
        )

    async def records(self, request: web.Request) -> web.Response:
        """Answer with the newest records of a topic, or with those from an offset of a partition on."""
        topic = request.match_info["topic"]
        if topic not in (known := topics_of(self.limiter.settings)):
            raise BadRequestError(f"topic: expected one of {', '.join(known)}")
        partition = parameters.parse_number(request.query, "partition")
        offset = parameters.parse_number(request.query, "offset")
        if offset is not None and partition is None:
            raise BadRequestError("partition: missing; an offset is one of a partition")
        last = parameters.parse_number(request.query, "last", 1, _MAX_RECORDS) or _MAX_RECORDS
        async with self.limiter.slot(_TOPIC_SCAN_LIMITS) as settings:
            found = await read_newest(settings, topic, last, partition, offset)
        return json_response({"topic": topic, "records": [record_json(each) for each in found]})


def _silence_json(report: DeadLetterReport) -> dict[str, Any]:
    """Return why no history could be read, and which of several servers did not answer."""
    return {"silent": report.silent, "silent_servers": [str(each) for each in report.silent_servers]}


def _require_account(request: web.Request) -> str:
    account = parameters.parse_text(request.query, "id")
    if account is None:
        raise BadRequestError("id: missing; expected an account")
    return account


def _require_number(request: web.Request, name: str) -> int:
    found = parameters.parse_number(request.match_info, name)
    if found is None:
        raise BadRequestError(f"{name}: expected a number")
    return found
