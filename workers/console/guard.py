"""What every request to the console passes before it is answered, and what every answer carries.

A browser that somebody looks at another page with also sends requests here, with our cookie or, on loopback, without
needing one. So nothing is answered under a name that is not ours (DNS rebinding), nothing is done for another origin,
and nothing without the session's own token in a header, which no foreign page can set.
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
    """Add what keeps a browser from doing with an answer what it should not; called as an answer begins."""
    response.headers.update(_SECURITY_HEADERS)
    response.headers["Cache-Control"] = "no-store" if request.path.startswith("/api/") else "no-cache"
    response.headers.pop("Server", None)


def session_cookie_name(request: web.Request) -> str:
    """Return the name of the session's cookie: cookies do not tell ports apart, so that two consoles would share it."""
    return f"inmail_console_{urlsplit(f'//{request.host}').port or 'default'}"


def is_https(request: web.Request) -> bool:
    """Tell whether the browser came over TLS, be it to a proxy before us."""
    return request.headers.get("Origin", "").startswith("https://")


def build_guards(access: Access, hosts: frozenset[str]) -> list[Middleware]:
    """Return the middlewares, outermost first.

    Args:
        access: who may do what.
        hosts: names under which browsers may come, beside localhost and plain addresses.

    """

    @web.middleware
    async def check_host(request: web.Request, handler: Handler) -> web.StreamResponse:
        if not _is_known_host(request.host, hosts):
            return _error_response(
                421, "not_our_name", "this console is not served under that name: see INMAIL_CONSOLE_HOSTS"
            )
        return await handler(request)

    @web.middleware
    async def check_origin(request: web.Request, handler: Handler) -> web.StreamResponse:
        site = request.headers.get("Sec-Fetch-Site", "none")
        foreign = site not in {"same-origin", "none"} and request.path.startswith("/api/")
        if foreign or (not _is_safe_method(request) and not _is_same_origin(request)):
            return _error_response(403, "other_origin", "asked for by a page of another origin")
        return await handler(request)

    @web.middleware
    async def check_role(request: web.Request, handler: Handler) -> web.StreamResponse:
        session = request[SESSION] = access.find_session(request.cookies.get(session_cookie_name(request)))
        if not request.path.startswith("/api/") or request.path == _SIGN_IN_PATH:
            return await handler(request)
        bearer = request.headers.get("Authorization", "").removeprefix("Bearer ")
        if bearer and _is_safe_method(request):  # a script that reads; who acts has a session, and a name on the record
            session = request[SESSION] = Session(access.role_of(bearer, request.remote or ""))
        if session.role < (Role.READER if _is_safe_method(request) else Role.OPERATOR):
            needed = "reader's" if _is_safe_method(request) else "operator's"
            return _error_response(401, "sign_in", f"this needs the {needed} token: sign in")
        if not _is_safe_method(request) and not compare_digest(
            request.headers.get(CSRF_HEADER, "").encode(errors="replace"), session.csrf.encode()
        ):
            return _error_response(403, "no_csrf_token", f"the header {CSRF_HEADER} is missing or not this session's")
        return await handler(request)

    return [check_host, check_origin, check_role]


def _is_safe_method(request: web.Request) -> bool:
    return request.method in {"GET", "HEAD"}


def _is_known_host(host: str, hosts: frozenset[str]) -> bool:
    """Tell whether a Host header names us. Any address does: no name that others own can stand for it."""
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
