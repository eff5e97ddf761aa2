"""What the page may ask to be done: to sign in and out; to send dead letters back; to stop operations and go on."""

import json
from dataclasses import dataclass
from typing import Any, Final

import structlog
from aiohttp import web

from workers.console import parameters
from workers.console.access import Access, Role, Session
from workers.console.api import RequestHandler, answer
from workers.console.guard import SESSION, cookie_name, is_secure
from workers.console.jobs import Jobs
from workers.console.local_workers import LET_THROUGH, ControlError, WorkerAction, WorkerControl
from workers.console.problems import BadRequestError
from workers.console.reading import QueryLimiter
from workers.ops.operations import Operation, Operator, read_operation

__all__ = ["Actions"]

_BODY_BYTES: Final = 16 * 1024
_LONGER: Final = 4.0  # times the usual, to read all dead letters for a plan


@dataclass(slots=True)
class Actions:
    """What changes something. Each has passed the guards: it comes from our own page, of somebody who may."""

    access: Access
    reading: QueryLimiter
    jobs: Jobs
    control: WorkerControl | None = None  # who runs the workers, where it is this program

    def routes(self) -> dict[str, RequestHandler]:
        """Return what answers a POST to each path."""
        return {
            "/api/session": self.sign_in,
            "/api/redrives/plan": self.plan,
            "/api/redrives": self.redrive,
            "/api/operations/{operation}/stop": self.stop,
            "/api/workers/{worker}/{action}": self.act_on_worker,
            "/api/operations/{operation}/go-on": self.resume,
        }

    async def session(self, request: web.Request) -> web.Response:
        """Answer with who looks and what they may do."""
        return answer(self._told(request[SESSION]))

    async def sign_in(self, request: web.Request) -> web.Response:
        """Begin a session with a token; who may act says a name, for the record."""
        given, address = await _body(request), request.remote or ""
        token, name = parameters.text(given, "token"), parameters.text(given, "name")
        if token is None:
            raise BadRequestError("token: it is missing")
        if name is None and self.access.role_of(token, address) is Role.OPERATOR:
            raise BadRequestError("name: say who you are, for the record")
        key, session = self.access.sign_in(token, name or "", address)
        response = answer(self._told(session))
        secure = is_secure(request)
        response.set_cookie(cookie_name(request), key, httponly=True, samesite="Strict", secure=secure, path="/")
        return response

    async def sign_out(self, request: web.Request) -> web.Response:
        """End the session."""
        self.access.sign_out(request.cookies.get(cookie_name(request), ""))
        response = answer(self._told(self.access.session(None)))
        response.del_cookie(cookie_name(request), path="/")
        return response

    def _told(self, session: Session) -> dict[str, Any]:
        return {
            "role": session.role.name.lower(),
            "actor": session.actor,
            "csrf": session.csrf,
            "open_to_all": self.access.open_to_all,
            "may_act_at_all": self.access.operator_token is not None,
        }

    async def plan(self, request: web.Request) -> web.Response:
        """Answer with what a redrive would do."""
        given = await _body(request)
        selection, options = (
            parameters.selection(_part(given, "selection")),
            parameters.options(_part(given, "options")),
        )
        async with self.reading.slot(_LONGER) as settings:
            return answer(await self.jobs.plan(settings, selection, options))

    async def redrive(self, request: web.Request) -> web.Response:
        """Begin a redrive that was planned."""
        given = await _body(request)
        plan = parameters.text(given, "plan")
        if plan is None:
            raise BadRequestError("plan: which one?")
        return answer(await self.jobs.redrive(plan, _who(request, given)), status=202)

    async def stop(self, request: web.Request) -> web.Response:
        """Ask an operation of this console to stop."""
        found = await self._operation(request)
        self.jobs.stop(found)
        log = structlog.get_logger("inmail.console")
        log.info("operation_stopped", operation=found.operation, actor=request[SESSION].actor)
        return answer({"operation": found.operation}, status=202)

    async def act_on_worker(self, request: web.Request) -> web.Response:
        """Start, stop or restart a worker that this program runs."""
        if self.control is None:
            raise ControlError("this console does not run the workers: stop and start them where they run")
        name, asked = request.match_info["worker"], request.match_info["action"]
        let_through = asked == LET_THROUGH
        try:
            action = WorkerAction.START if let_through else WorkerAction(asked)
        except ValueError:
            raise BadRequestError(f"action: expected {', '.join(WorkerAction)} or {LET_THROUGH}") from None
        done = await self.control.act(name, action, let_through=let_through)
        log = structlog.get_logger("inmail.console")
        log.warning("worker_told", worker=name, action=asked, actor=request[SESSION].actor)
        return answer(done.summary())

    async def resume(self, request: web.Request) -> web.Response:
        """Go on with an operation that was stopped, failed or broke off."""
        who = _who(request, await _body(request))
        found = await self._operation(request)
        async with self.reading.slot(_LONGER) as settings:
            return answer(await self.jobs.resume(settings, found, who), status=202)

    async def _operation(self, request: web.Request) -> Operation:
        number = parameters.number(request.match_info, "operation", 1)
        if number is None:
            raise BadRequestError("operation: expected a number")
        async with self.reading.slot() as settings:
            return await read_operation(settings, number)


def _who(request: web.Request, given: dict[str, Any]) -> Operator:
    """Return who acts, and why: both go on record."""
    because = parameters.text(given, "because")
    if because is None:
        raise BadRequestError("because: say why, for the record")
    return Operator(f"{request[SESSION].actor} (console)", because)


async def _body(request: web.Request) -> dict[str, Any]:
    """Return a request's JSON. Nothing else is taken: a form can be sent from anywhere."""
    if request.content_type != "application/json":
        raise BadRequestError("expected JSON")
    data = await request.content.read(_BODY_BYTES + 1)
    while len(data) <= _BODY_BYTES and (more := await request.content.read(_BODY_BYTES + 1)):
        data += more
    if len(data) > _BODY_BYTES:
        raise BadRequestError(f"expected {_BODY_BYTES:,} bytes at most")
    try:
        document = json.loads(data or b"{}")
    except ValueError as error:
        raise BadRequestError("expected JSON") from error
    if not isinstance(document, dict):
        raise BadRequestError("expected a JSON object")
    return document


def _part(given: dict[str, Any], name: str) -> dict[str, Any]:
    part = given.get(name, {})
    if not isinstance(part, dict):
        raise BadRequestError(f"{name}: expected an object")
    return part
