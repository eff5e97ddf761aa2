"""Middlewares that check every request to the console, and the security headers of every response.

A page of another site can make a browser send requests to the console, with the session's cookie or, on loopback,
without needing one. So the console answers only under its own host names (against DNS rebinding), refuses actions of
other origins, and requires the session's CSRF token in a header, which a foreign page cannot set.
"""

from hmac import compare_digest
from ipaddress import ip_address
from typing import Final
from urllib.parse import urlsplit

from aiohttp import web
from aiohttp.typedefs import Handler, Middleware

from workers.console.access import Access, Role, Session

__all__ = ["CSRF_HEADER", "SESSION", "add_security_headers", "build_guards", "is_https", "session_cookie_name"]


CSRF_HEADER: Final = "X-Csrf-Token"
SESSION: Final = web.RequestKey("session", Session)

_SIGN_IN_PATH: Final = "/api/session"
_SECURITY_HEADERS: Final = {
    "Content-Security-Policy": "default-src 'self'; base-uri 'none'; form-action 'self'; frame-ancestors 'none';"
    " object-src 'none'",
    "Cross-Origin-Opener-Policy": "same-origin",
    "Cross-Origin-Resource-Policy": "same-origin",
    "Permissions-Policy": "camera=(), geolocation=(), microphone=()",
    "Referrer-Policy": "no-referrer",
    "X-Content-Type-Options": "nosniff",
    "X-Frame-Options": "DENY",
}


async def add_security_headers(request: web.Request, response: web.StreamResponse) -> None:
    """Add security and caching headers to a response; called before its headers are sent."""
    response.headers.update(_SECURITY_HEADERS)
    response.headers["Cache-Control"] = "no-store" if request.path.startswith("/api/") else "no-cache"
    response.headers.pop("Server", None)


def session_cookie_name(request: web.Request) -> str:
    """Return the name of the session's cookie. The name has the port, as a browser sends cookies to every port."""
    return f"inmail_console_{urlsplit(f'//{request.host}').port or 'default'}"


def is_https(request: web.Request) -> bool:
    """Return whether the browser used HTTPS, possibly to a proxy in front of the console."""
    return request.headers.get("Origin", "").startswith("https://")


def build_guards(access: Access, hosts: frozenset[str]) -> list[Middleware]:
    """Return the middlewares that check host, origin and role, outermost first.

    Args:
        access: the tokens and sessions.
        hosts: host names that browsers may use, in addition to localhost and IP addresses.

    """

    @web.middleware
    async def check_host(request: web.Request, handler: Handler) -> web.StreamResponse:
        if not _is_known_host(request.host, hosts):
            return _error_response(
                421, "not_our_name", "the console is not served under this host name: see INMAIL_CONSOLE_HOSTS"
            )
        return await handler(request)

    @web.middleware
    async def check_origin(request: web.Request, handler: Handler) -> web.StreamResponse:
        site = request.headers.get("Sec-Fetch-Site", "none")
        foreign = site not in {"same-origin", "none"} and request.path.startswith("/api/")
        if foreign or (not _is_safe_method(request) and not _is_same_origin(request)):
            return _error_response(403, "other_origin", "the request comes from a page of another origin")
        return await handler(request)

    @web.middleware
    async def check_role(request: web.Request, handler: Handler) -> web.StreamResponse:
        session = request[SESSION] = access.find_session(request.cookies.get(session_cookie_name(request)))
        if not request.path.startswith("/api/") or request.path == _SIGN_IN_PATH:
            return await handler(request)
        bearer = request.headers.get("Authorization", "").removeprefix("Bearer ")
        if bearer and _is_safe_method(
            request
        ):  # scripts may read; an action needs a session with a name for the record
            session = request[SESSION] = Session(access.role_of(bearer, request.remote or ""))
        if session.role < (Role.READER if _is_safe_method(request) else Role.OPERATOR):
            needed = "reader's" if _is_safe_method(request) else "operator's"
            return _error_response(401, "sign_in", f"sign in with the {needed} token to do this")
        if not _is_safe_method(request) and not compare_digest(
            request.headers.get(CSRF_HEADER, "").encode(errors="replace"), session.csrf.encode()
        ):
            return _error_response(403, "no_csrf_token", f"the header {CSRF_HEADER} is missing or not this session's")
        return await handler(request)

    return [check_host, check_origin, check_role]


def _is_safe_method(request: web.Request) -> bool:
    return request.method in {"GET", "HEAD"}


def _is_known_host(host: str, hosts: frozenset[str]) -> bool:
    """Return whether a Host header names the console. Any IP address does, as DNS rebinding needs a name."""
    try:
        name = urlsplit(f"//{host}").hostname or ""
    except ValueError:
        return False
    try:
        ip_address(name)
    except ValueError:
        return name == "localhost" or name in hosts
    return True


def _is_same_origin(request: web.Request) -> bool:
    origin = urlsplit(request.headers.get("Origin", ""))
    return origin.scheme in {"http", "https"} and origin.netloc.lower() == request.host.lower()


def _error_response(status: int, code: str, text: str) -> web.Response:
    return web.json_response({"error": {"code": code, "text": text}}, status=status)
