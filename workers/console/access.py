"""Access control: tokens, roles and signed-in sessions."""

import secrets
from collections import OrderedDict, deque
from collections.abc import Callable
from dataclasses import dataclass, field
from enum import IntEnum
from hmac import compare_digest
from ipaddress import IPv6Address, ip_address
from pathlib import Path
from time import monotonic

from infra.addresses import is_loopback
from infra.settings import Settings, SettingsError

__all__ = ["Access", "Role", "Session", "TooManyAttemptsError", "WrongTokenError", "load_access"]

_SESSION_SECONDS = 12 * 3600.0
_MAX_SESSIONS = 1000
_MAX_ATTEMPTS = 10  # wrong tokens from one address within the window
_ATTEMPT_WINDOW_SECONDS = 60.0
_MAX_CALLERS = 1000  # addresses remembered for wrong tokens
_NETWORK_BITS = 64  # of an IPv6 address: the network that one caller commonly has alone
_MIN_TOKEN_CHARACTERS = 16  # the token alone protects the ledger from the network


class Role(IntEnum):
    """What a caller may do. Each role includes the roles before it."""

    NOBODY = 0
    READER = 1
    OPERATOR = 2


class WrongTokenError(Exception):
    """The token belongs to no role."""


class TooManyAttemptsError(Exception):
    """Too many wrong tokens came from one address in a short time."""


@dataclass(frozen=True, slots=True)
class Session:
    """A signed-in session, or the anonymous one."""

    role: Role
    actor: str = ""  # the name given at sign-in, recorded with each action
    csrf: str = ""  # the token that every action has to carry
    ends_at: float = 0.0  # on the clock of `Access`, in seconds


@dataclass(slots=True)
class Access:
    """The tokens and the open sessions. Sessions end with the process."""

    reader_token: str | None
    operator_token: str | None
    open_to_all: bool  # whether reading needs no token
    clock: Callable[[], float] = monotonic
    _sessions: dict[str, Session] = field(default_factory=dict)
    _wrong_attempts: "OrderedDict[str, deque[float]]" = field(default_factory=OrderedDict)  # times, by caller

    def role_of(self, token: str, address: str) -> Role:
        """Return the role of a token.

        Args:
            token: the token to check.
            address: the caller's address; behind a proxy, the proxy's.

        Raises:
            WrongTokenError: when no role has the token.
            TooManyAttemptsError: when the address sent too many wrong tokens in the last minute.

        """
        now, caller = self.clock(), _caller_key(address)
        attempts = self._wrong_attempts.get(caller)
        if attempts is not None and len(attempts) == _MAX_ATTEMPTS and now - attempts[0] < _ATTEMPT_WINDOW_SECONDS:
            raise TooManyAttemptsError("too many wrong tokens from your address: wait a minute")
        # Both comparisons always run, each in constant time: timing reveals no part of a token.
        is_reader, is_operator = _tokens_match(token, self.reader_token), _tokens_match(token, self.operator_token)
        if not (is_reader or is_operator):
            self._record_wrong_token(caller, now)
            raise WrongTokenError("this token is not valid for this console")
        return Role.OPERATOR if is_operator else Role.READER

    def _record_wrong_token(self, caller: str, now: float) -> None:
        """Record a wrong token. Callers stay in the order of their last attempt, at most 1000."""
        self._wrong_attempts.setdefault(caller, deque(maxlen=_MAX_ATTEMPTS)).append(now)
        self._wrong_attempts.move_to_end(caller)
        while len(self._wrong_attempts) > _MAX_CALLERS:
            self._wrong_attempts.popitem(last=False)

    def sign_in(self, token: str, actor: str, address: str) -> tuple[str, Session]:
        """Begin a session; return its secret id, for the cookie, and the session.

        Raises:
            WrongTokenError, TooManyAttemptsError: as `role_of` does.

        """
        role = self.role_of(token, address)
        now = self.clock()
        self._sessions = {key: session for key, session in self._sessions.items() if session.ends_at > now}
        if len(self._sessions) >= _MAX_SESSIONS:
            self._sessions.pop(next(iter(self._sessions)))
        key = secrets.token_urlsafe(32)
        self._sessions[key] = Session(role, actor, secrets.token_urlsafe(32), now + _SESSION_SECONDS)
        return key, self._sessions[key]

    def sign_out(self, key: str) -> None:
        """End a session."""
        self._sessions.pop(key, None)

    def find_session(self, key: str | None) -> Session:
        """Return the session of a cookie, or an anonymous session where the cookie names none."""
        found = self._sessions.get(key or "")
        if found is not None and found.ends_at > self.clock():
            return found
        return Session(Role.READER if self.open_to_all else Role.NOBODY)


def _caller_key(address: str) -> str:
    """Return the key that counts a caller's attempts: in IPv6 the /64, as its owner can use any address in it."""
    try:
        found = ip_address(address)
    except ValueError:
        return address
    if not isinstance(found, IPv6Address):
        return address
    if found.ipv4_mapped is not None:
        return str(found.ipv4_mapped)
    return f"{int(found) >> (128 - _NETWORK_BITS):x}/{_NETWORK_BITS}"


def _tokens_match(candidate: str, token: str | None) -> bool:
    return compare_digest(candidate.encode(errors="replace"), (token or "").encode()) and bool(token)


def load_access(settings: Settings) -> Access:
    """Return the access control that the settings define.

    Raises:
        SettingsError: when a required token is missing, or a token is too short, given twice, or in an unreadable file.

    """
    reader, operator = _load_token(settings, "console_reader_token"), _load_token(settings, "console_operator_token")
    loopback = is_loopback(settings.console_address)
    if not loopback and reader is None:
        raise SettingsError(
            f"INMAIL_CONSOLE_READER_TOKEN: required to serve the console on {settings.console_address}, which other"
            " machines can reach; only a console on loopback can be read without a token"
        )
    if reader is not None and reader == operator:
        raise SettingsError("INMAIL_CONSOLE_OPERATOR_TOKEN: must differ from INMAIL_CONSOLE_READER_TOKEN")
    return Access(reader, operator, open_to_all=loopback and reader is None)


def _load_token(settings: Settings, name: str) -> str | None:
    secret, file = getattr(settings, name), getattr(settings, f"{name}_file")
    variable = f"INMAIL_{name.upper()}"
    if secret is not None and file is not None:
        raise SettingsError(f"{variable}, {variable}_FILE: only one of them can be set")
    if file is not None:
        try:
            token = Path(file).read_text(encoding="utf-8").strip()
        except (OSError, UnicodeDecodeError) as error:
            raise SettingsError(f"{variable}_FILE: cannot be read: {error}") from error
    elif secret is not None:
        token = secret.get_secret_value()
    else:
        return None
    if len(token) < _MIN_TOKEN_CHARACTERS:
        raise SettingsError(f"{variable}: expected at least {_MIN_TOKEN_CHARACTERS} characters")
    return token
