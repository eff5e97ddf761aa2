"""What the page reads, as JSON: each answer is what a command of the same name says. docs/console.md lists them."""

from collections.abc import Awaitable, Callable
from dataclasses import asdict, dataclass
from typing import Any, Final

from aiohttp import web
from pydantic_core import to_json

from schemas.catalogue import INPUT_TOPICS
from schemas.results import DeadLetterReason
from workers.console import parameters
from workers.console.jobs import Jobs
from workers.console.letters import letter_json, row_json
from workers.console.problems import BadRequestError
from workers.console.reading import QueryLimiter
from workers.console.resumption import command_of
from workers.console.watch import SystemMonitor
from workers.ops.books.statement import read_statement
from workers.ops.dead_letters.history import report_dead_letter, report_dead_letters
from workers.ops.operations import Operation, list_operations, read_operation
from workers.ops.topics.plan import TopicsError, plan_topics
from workers.ops.topics.promises import check_topics
from workers.ops.trace.trace import about, trace

__all__ = ["Api", "RequestHandler", "answer"]

_LETTERS: Final = 200  # that a page shows at most
_LINES: Final = 500
_REQUESTS: Final = 20
_SEARCHED: Final = 20_000  # records of a partition that a trace looks through; the command looks further
_LONGER: Final = 2.0  # times the usual, for what reads whole topics

RequestHandler = Callable[[web.Request], Awaitable[web.Response]]


def answer(body: object, status: int = 200) -> web.Response:
    """Return a body as JSON."""
    return web.Response(body=to_json(body), status=status, content_type="application/json", charset="utf-8")


@dataclass(slots=True)
class Api:
    """Answers to what the page reads. What goes wrong is raised, and told by `tell_problems`."""

    reading: QueryLimiter
    watch: SystemMonitor
    jobs: Jobs

    def routes(self) -> dict[str, RequestHandler]:
        """Return what answers each path."""
        return {
            "/api/overview": self.overview,
            "/api/lag": self.lag,
            "/api/account": self.account,
            "/api/request": self.request,
            "/api/dead-letters": self.dead_letters,
            "/api/dead-letters/{partition}/{offset}": self.dead_letter,
            "/api/operations": self.operations,
            "/api/operations/{operation}": self.operation,
            "/api/topics": self.topics,
        }

    async def overview(self, _: web.Request) -> web.Response:
        """Answer with what was seen last, as the live stream tells it."""
        return answer(self.watch.overview())

    async def lag(self, request: web.Request) -> web.Response:
        """Answer with how every group of the cluster stands; with partitions and how they were of one, or of ours."""
        group = parameters.text(request.query, "group")
        return answer(self.watch.lags([group] if group is not None else []))

    async def account(self, request: web.Request) -> web.Response:
        """Answer with an account's lots and the newest lines of its statement."""
        account = parameters.text(request.query, "id")
        if account is None:
            raise BadRequestError("id: which account?")
        async with self.reading.slot() as settings:
            statement = await read_statement(settings, account, parameters.instant(request.query, "as_of"))
        facts = statement.summary()
        lines = facts.pop("lines")
        assert isinstance(lines, list)  # noqa: S101 - as a statement's summary has it
        return answer(facts | {"line_count": len(lines), "lines": lines[: -_LINES - 1 : -1]})

    async def request(self, request: web.Request) -> web.Response:
        """Answer with all that is known of a request or event, or of an account's last ones."""
        id_ = parameters.text(request.query, "id")
        account = parameters.text(request.query, "account")
        if id_ is None and account is None:
            raise BadRequestError("id: which request?")
        async with self.reading.slot(_LONGER) as settings:
            traced = await trace(settings, about(id_, account, _REQUESTS, _SEARCHED))
        summary = traced.summary()
        summary["dead_letters"] = [letter_json(letter, fate) for letter, fate in traced.letters]
        return answer(summary | {"searched": _SEARCHED})

    async def dead_letters(self, request: web.Request) -> web.Response:
        """Answer with the newest dead letters that are meant, and how many there are by topic and reason."""
        selection = parameters.selection(request.query)
        last = parameters.number(request.query, "last", 1, _LETTERS) or _LETTERS
        operation = parameters.number(request.query, "operation")
        async with self.reading.slot(_LONGER) as settings:
            told = await report_dead_letters(settings, selection, last, operation)
        counts = [
            {"topic": topic, "reason": reason, "letters": n} for (topic, reason), n in sorted(told.counts.items())
        ]
        return answer(
            {
                "letters": [row_json(letter, fate) for letter, fate in told.letters],
                "counts": counts,
                "total": told.counts.total(),
                "silent": told.silent,
                "topics": INPUT_TOPICS,
                "reasons": list(DeadLetterReason),
            }
        )

    async def dead_letter(self, request: web.Request) -> web.Response:
        """Answer with all of one dead letter."""
        partition, offset = _number(request, "partition"), _number(request, "offset")
        async with self.reading.slot(_LONGER) as settings:
            told = await report_dead_letter(settings, partition, offset)
        return answer(letter_json(*told.letters[0]) | {"silent": told.silent})

    async def operations(self, request: web.Request) -> web.Response:
        """Answer with what operators did, the newest first."""
        last = parameters.number(request.query, "last", 1, 500) or 50
        async with self.reading.slot() as settings:
            found = await list_operations(settings, last)
        return answer({"operations": [self._operation(each) for each in found]})

    async def operation(self, request: web.Request) -> web.Response:
        """Answer with one operation: its plan and how far it is."""
        async with self.reading.slot() as settings:
            found = await read_operation(settings, _number(request, "operation"))
        return answer(self._operation(found))

    def _operation(self, found: Operation) -> dict[str, Any]:
        goes_on = self.jobs.may_resume(found)
        command = None if goes_on or found.status in {"done", "running"} else command_of(self.jobs.settings, found)
        return asdict(found) | {"may_stop": self.jobs.may_stop(found), "may_go_on": goes_on, "command": command}

    async def topics(self, _: web.Request) -> web.Response:
        """Answer with what differs from how topics should be, and which settings break a promise."""
        async with self.reading.slot(_LONGER) as settings:
            broken = await check_topics(settings)
            try:
                changes, refused = await plan_topics(settings), None
            except TopicsError as error:  # it cannot be planned, and what is broken is to be seen all the same
                changes, refused = [], str(error)
        wanted = {"partitions": settings.topic_partitions, "replicas": settings.topic_replication}
        promises = [each._asdict() for each in broken]
        return answer({"changes": changes, "refused": refused, "broken_promises": promises, "wanted": wanted})


def _number(request: web.Request, name: str) -> int:
    found = parameters.number(request.match_info, name)
    if found is None:
        raise BadRequestError(f"{name}: expected a number")
    return found
