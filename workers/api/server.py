"""The server of the read API."""

import asyncio
import re
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from functools import partial
from typing import Any, Final
from urllib.parse import urlsplit

import structlog
from aiohttp import web
from aiohttp.typedefs import Handler, Middleware

from infra.addresses import is_loopback, join_address
from infra.postgres import close_in_time, create_reader_pool
from infra.probes import Answer, serve_probes
from infra.settings import Settings, SettingsError
from infra.shards import settings_of_shards
from workers.api.metrics import CLIENT, ApiMetrics
from workers.api.openapi import rendered
from workers.api.operations import HEALTH_PATH, OPERATIONS, ApiOperation
from workers.api.parameters import check_names
from workers.api.problems import ApiError, ProblemKind, problem_response
from workers.api.reader import LedgerReader
from workers.api.server_reads import ServerReads
from workers.api.tokens import ApiTokens, api_tokens
from workers.ops.books.shards import server_name

__all__ = ["OPENAPI_PATH", "serve_api"]

OPENAPI_PATH: Final = "/openapi.json"
_OPEN_PATHS: Final = frozenset({HEALTH_PATH, OPENAPI_PATH})
_SHUTDOWN_SECONDS: Final = 5.0


@asynccontextmanager
async def serve_api(settings: Settings, stop: asyncio.Event | None = None) -> AsyncIterator[str]:
    """Serve the read API until left, and its probes and metrics on INMAIL_HEALTH_PORT; yield its address.

    Args:
        settings: the API's and the servers'.
        stop: once it is set, the API still answers, and says that it is not ready: whoever sends requests here has
            time to send them to other processes.

    Raises:
        SettingsError: when a token is missing, or a port cannot be had.

    """
    tokens = api_tokens(settings)
    servers = [ServerReads(each, await create_reader_pool(each).__aenter__()) for each in settings_of_shards(settings)]
    try:
        reader = LedgerReader(settings, servers)
        metrics = ApiMetrics([each.pool for each in servers], lambda: reader.ready)
        watching = [asyncio.create_task(each) for each in (reader.watch(), *(each.locks.watch() for each in servers))]
        stopping = asyncio.create_task(_note_stop(reader, stop or asyncio.Event()))
        answers: dict[str, Answer] = {"/livez": _livez, "/readyz": partial(_readyz, reader)}
        runner = web.AppRunner(
            _application(tokens, reader, metrics), access_log=None, shutdown_timeout=_SHUTDOWN_SECONDS
        )
        await runner.setup()
        try:
            async with serve_probes(settings, answers, {"/metrics": metrics.page}):
                yield await _listen(runner, settings)
        finally:
            stopping.cancel()
            await runner.cleanup()
            for task in watching:
                task.cancel()
            await asyncio.wait(watching, timeout=_SHUTDOWN_SECONDS)
            for task in watching:
                if task.done() and not task.cancelled():
                    task.result()  # it never ends by itself: this raises
    finally:
        await asyncio.gather(*(close_in_time(each.pool, _SHUTDOWN_SECONDS) for each in servers))


async def _note_stop(reader: LedgerReader, stop: asyncio.Event) -> None:
    await stop.wait()
    reader.stopping = True
    structlog.get_logger("inmail.api").info("api_stopping")


def _livez() -> tuple[bool, dict[str, Any]]:
    return True, {"alive": True}


def _readyz(reader: LedgerReader) -> tuple[bool, dict[str, Any]]:
    """Tell whether reads can begin; what keeps some of them only is told, and takes no process out of service."""
    reasons = [] if reader.repeated is None else [str(reader.repeated)]
    if reader.stopping:
        reasons.append("the process is being stopped")
    for server in reader.servers:
        name = f"{server_name(server.settings)}: " if len(reader.servers) > 1 else ""
        if server.part is not None:
            reasons.append(str(server.part))
        elif not server.ready:
            reasons.append(f"{name}the last check of the database failed, or none was made yet")
        if server.is_partly_silent:
            reasons.append(f"{name}tables that some reads need do not answer: those reads are refused")
        if (holder := server.locks.holder) is not None:
            reasons.append(f"{name}{holder.text}: {holder.do}")
    return reader.ready, {"ready": reader.ready, "reasons": reasons}


def _application(tokens: ApiTokens, reader: LedgerReader, metrics: ApiMetrics) -> web.Application:
    application = web.Application(middlewares=[metrics.middleware(), _tell_problems, _check_client(tokens)])
    application.on_response_prepare.append(partial(_prepare, reader))
    document = rendered().encode()

    async def describe(_: web.Request) -> web.Response:
        return web.Response(body=document, content_type="application/json", charset="utf-8")

    routes = [web.get(_any_text(each.path), partial(_run, each, reader), name=each.name) for each in OPERATIONS]
    application.add_routes(routes)
    application.add_routes([web.get(OPENAPI_PATH, describe, name="openapi")])
    return application


async def _run(operation: ApiOperation, reader: LedgerReader, request: web.Request) -> web.Response:
    if ProblemKind.BAD_PARAMETER in operation.problems:
        check_names(request, operation.parameters)
    return await operation.handler(reader, request)


def _any_text(path: str) -> str:
    """Return a path whose parts may have any characters: by default aiohttp takes none with a brace."""
    return re.sub(r"\{(\w+)\}", r"{\1:[^/]+}", path)


async def _prepare(reader: LedgerReader, _: web.Request, response: web.StreamResponse) -> None:
    response.headers["X-Content-Type-Options"] = "nosniff"
    response.headers.pop("Server", None)
    if reader.stopping:  # the client's next request goes over another connection, to another process
        response.force_close()
        response.headers["Connection"] = "close"


@web.middleware
async def _tell_problems(request: web.Request, handler: Handler) -> web.StreamResponse:
    """Answer errors as problem details. What nobody foresaw is logged."""
    try:
        return await handler(request)
    except ApiError as error:
        return problem_response(error)
    except web.HTTPMethodNotAllowed:
        return problem_response(ApiError(ProblemKind.METHOD_NOT_ALLOWED, "only GET and HEAD: requests go over Kafka"))
    except web.HTTPNotFound:
        return problem_response(ApiError(ProblemKind.NOT_FOUND, f"see {OPENAPI_PATH} for the paths there are"))
    except web.HTTPException:
        raise
    except Exception:  # noqa: BLE001 - aiohttp would answer it with text, which no client of problem details reads
        structlog.get_logger("inmail.api").exception("request_failed", operation=request.match_info.route.name)
        return problem_response(
            ApiError(ProblemKind.INTERNAL, "a fault of the API: tell its operator, whose log has the traceback")
        )


def _check_client(tokens: ApiTokens) -> Middleware:
    @web.middleware
    async def check(request: web.Request, handler: Handler) -> web.StreamResponse:
        if tokens.hashes is None and not _is_local(request.host):
            # Without a token, a page that a browser on this machine shows could ask under a name of its own.
            raise ApiError(
                ProblemKind.WRONG_HOST, "without tokens the API answers as localhost or a loopback address only"
            )
        if request.path in _OPEN_PATHS:
            return await handler(request)
        client = tokens.client_of(request.headers.get("Authorization", ""))
        if client is None:
            raise ApiError(
                ProblemKind.UNAUTHORIZED, "send `Authorization: Bearer TOKEN` with a token that the API's operator gave"
            )
        request[CLIENT] = client
        return await handler(request)

    return check


def _is_local(host: str) -> bool:
    try:
        return is_loopback(urlsplit(f"//{host}").hostname or "")
    except ValueError:
        return False


async def _listen(runner: web.AppRunner, settings: Settings) -> str:
    place = join_address(settings.api_address, settings.api_port)
    try:
        await web.TCPSite(runner, settings.api_address, settings.api_port).start()
    except OSError as error:
        raise SettingsError(
            f"INMAIL_API_PORT, INMAIL_API_ADDRESS: cannot listen on {place}: {error.strerror or error}"
        ) from error
    address = f"http://{join_address(*runner.addresses[0][:2])}"
    structlog.get_logger("inmail.api").info("api_served", address=address)
    return address
