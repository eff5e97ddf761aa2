"""The console's actions: signing in and out, redriving dead letters, stopping and continuing operations."""

import json
from dataclasses import dataclass
from typing import Any, Final

import structlog
from aiohttp import web

from workers.console import parameters
from workers.console.access import Access, Role, Session
from workers.console.api import RequestHandler, json_response
from workers.console.guard import SESSION, is_https, session_cookie_name
from workers.console.local_workers import LET_THROUGH, ControlError, WorkerAction, WorkerControl
from workers.console.operation_runner import OperationRunner
from workers.console.problems import BadRequestError
from workers.console.query_limiter import QueryLimiter
from workers.ops.operations import Operation, Operator, read_operation

__all__ = ["Actions"]

_MAX_BODY_BYTES: Final = 16 * 1024
_PLAN_LIMITS: Final = 4.0  # query time limits: a plan reads all dead letters


@dataclass(slots=True)
class Actions:
    """Handlers of requests that change something, after the guards have checked origin, role and CSRF token."""

    access: Access
    limiter: QueryLimiter
    runner: OperationRunner
    control: WorkerControl | None = None  # controls the workers, if this program runs them

    def routes(self) -> dict[str, RequestHandler]:
        """Return the handler of POST requests for each path."""
        return {
            "/api/session": self.sign_in,
            "/api/redrives/plan": self.plan,
            "/api/redrives": self.redrive,
            "/api/operations/{operation}/stop": self.stop,
            "/api/workers/{worker}/{action}": self.act_on_worker,
            "/api/operations/{operation}/go-on": self.resume,
        }

    async def session(self, request: web.Request) -> web.Response:
        """Answer with the caller's session: role, name and CSRF token."""
        return json_response(self._session_json(request[SESSION]))

    async def sign_in(self, request: web.Request) -> web.Response:
        """Begin a session with a token. An operator also gives a name, which is recorded with each action."""
        body, address = await _read_json_object(request), request.remote or ""
        token, name = parameters.parse_text(body, "token"), parameters.parse_text(body, "name")
        if token is None:
            raise BadRequestError("token: missing")
        if name is None and self.access.role_of(token, address) is Role.OPERATOR:
            raise BadRequestError("name: required, as it is recorded with your actions")
        key, session = self.access.sign_in(token, name or "", address)
        response = json_response(self._session_json(session))
        secure = is_https(request)
        response.set_cookie(
            session_cookie_name(request), key, httponly=True, samesite="Strict", secure=secure, path="/"
        )
        return response

    async def sign_out(self, request: web.Request) -> web.Response:
        """End the session."""
        self.access.sign_out(request.cookies.get(session_cookie_name(request), ""))
        response = json_response(self._session_json(self.access.find_session(None)))
        response.del_cookie(session_cookie_name(request), path="/")
        return response

    def _session_json(self, session: Session) -> dict[str, Any]:
        return {
            "role": session.role.name.lower(),
            "actor": session.actor,
            "csrf": session.csrf,
            "open_to_all": self.access.open_to_all,
            "may_act_at_all": self.access.operator_token is not None,
        }

    async def plan(self, request: web.Request) -> web.Response:
        """Answer with the plan of a redrive."""
        body = await _read_json_object(request)
        letter_filter, options = (
            parameters.parse_filter(_object_field(body, "selection")),
            parameters.parse_options(_object_field(body, "options")),
        )
        async with self.limiter.slot(_PLAN_LIMITS) as settings:
            return json_response(await self.runner.plan(settings, letter_filter, options))

    async def redrive(self, request: web.Request) -> web.Response:
        """Start a planned redrive."""
        body = await _read_json_object(request)
        plan = parameters.parse_text(body, "plan")
        if plan is None:
            raise BadRequestError("plan: missing")
        return json_response(await self.runner.redrive(plan, _parse_operator(request, body)), status=202)

    async def stop(self, request: web.Request) -> web.Response:
        """Stop an operation that runs in this console."""
        operation = await self._find_operation(request)
        self.runner.stop(operation)
        log = structlog.get_logger("inmail.console")
        log.info("operation_stopped", operation=operation.operation, actor=request[SESSION].actor)
        return json_response({"operation": operation.operation}, status=202)

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
        return json_response(done.summary())

    async def resume(self, request: web.Request) -> web.Response:
        """Continue an operation that was stopped, failed or broke off."""
        operator = _parse_operator(request, await _read_json_object(request))
        operation = await self._find_operation(request)
        async with self.limiter.slot(_PLAN_LIMITS) as settings:
            return json_response(await self.runner.resume(settings, operation, operator), status=202)

    async def _find_operation(self, request: web.Request) -> Operation:
        number = parameters.parse_number(request.match_info, "operation", 1)
        if number is None:
            raise BadRequestError("operation: expected a number")
        async with self.limiter.slot() as settings:
            return await read_operation(settings, number)


def _parse_operator(request: web.Request, body: dict[str, Any]) -> Operator:
    """Return who acts and why, for the record of the operation."""
    because = parameters.parse_text(body, "because")
    if because is None:
        raise BadRequestError("because: required, as the reason is recorded with the operation")
    return Operator(f"{request[SESSION].actor} (console)", because)


async def _read_json_object(request: web.Request) -> dict[str, Any]:
    """Return a request's JSON object. Other content types are refused, because any site can submit a form."""
    if request.content_type != "application/json":
        raise BadRequestError("expected JSON")
    data = await request.content.read(_MAX_BODY_BYTES + 1)
    while len(data) <= _MAX_BODY_BYTES and (more := await request.content.read(_MAX_BODY_BYTES + 1)):
        data += more
    if len(data) > _MAX_BODY_BYTES:
        raise BadRequestError(f"expected {_MAX_BODY_BYTES:,} bytes at most")
    try:
        document = json.loads(data or b"{}")
    except ValueError as error:
        raise BadRequestError("expected JSON") from error
    if not isinstance(document, dict):
        raise BadRequestError("expected a JSON object")
    return document


def _object_field(body: dict[str, Any], name: str) -> dict[str, Any]:
    field = body.get(name, {})
    if not isinstance(field, dict):
        raise BadRequestError(f"{name}: expected an object")
    return field
