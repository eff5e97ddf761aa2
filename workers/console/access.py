"""Who may look and who may act: tokens, and the sessions that are signed in with one."""

import secrets
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass, field
from enum import IntEnum
from hmac import compare_digest
from ipaddress import ip_address
from pathlib import Path
from time import monotonic

from infra.settings import Settings, SettingsError

__all__ = ["Access", "Role", "Session", "TooManyAttemptsError", "WrongTokenError", "access_of", "is_loopback"]

_SESSION_SECONDS = 12 * 3600.0
_SESSIONS_AT_MOST = 1000
_ATTEMPTS = 10  # with a wrong token, in a minute, from anywhere
_ATTEMPTS_SECONDS = 60.0
_TOKEN_CHARACTERS = 16  # at least: it is all that stands between the network and the ledger


class Role(IntEnum):
    """What somebody may do. Each may also do what those before it may."""

    NOBODY = 0
    READER = 1
    OPERATOR = 2


class WrongTokenError(Exception):
    """No role has that token."""


class TooManyAttemptsError(Exception):
    """Too many wrong tokens came in a short time."""


@dataclass(frozen=True, slots=True)
class Session:
    """Somebody who is signed in, or who looks without being."""

    role: Role
    actor: str = ""  # as they named themselves, for the record
    csrf: str = ""  # what each of their actions has to bring along
    ends_at: float = 0.0


@dataclass(slots=True)
class Access:
    """The tokens, and who is signed in. Sessions live as long as the process."""

    reader_token: str | None
    operator_token: str | None
    open_to_all: bool  # whether looking needs no token
    clock: Callable[[], float] = monotonic
    _sessions: dict[str, Session] = field(default_factory=dict)
    _wrong: "deque[float]" = field(default_factory=lambda: deque(maxlen=_ATTEMPTS))

    def role_of(self, token: str) -> Role:
        """Return what a token lets do.

        Raises:
            WrongTokenError: when it is none of ours.
            TooManyAttemptsError: when there were too many of those in the last minute.

        """
        now = self.clock()
        if len(self._wrong) == _ATTEMPTS and now - self._wrong[0] < _ATTEMPTS_SECONDS:
            raise TooManyAttemptsError("too many wrong tokens: wait a minute")
        # Both are compared whatever the first says, each in constant time: neither can be guessed a letter at a time.
        reads, acts = _same(token, self.reader_token), _same(token, self.operator_token)
        if not (reads or acts):
            self._wrong.append(now)
            raise WrongTokenError("that is no token of this console")
        return Role.OPERATOR if acts else Role.READER

    def sign_in(self, token: str, actor: str) -> tuple[str, Session]:
        """Begin a session; return its secret id, for the cookie, and what it is.

        Raises:
            WrongTokenError, TooManyAttemptsError: as `role_of` does.

        """
        role = self.role_of(token)
        now = self.clock()
        self._sessions = {key: each for key, each in self._sessions.items() if each.ends_at > now}
        if len(self._sessions) >= _SESSIONS_AT_MOST:
            self._sessions.pop(next(iter(self._sessions)))
        key = secrets.token_urlsafe(32)
        self._sessions[key] = Session(role, actor, secrets.token_urlsafe(32), now + _SESSION_SECONDS)
        return key, self._sessions[key]

    def sign_out(self, key: str) -> None:
        """End a session."""
        self._sessions.pop(key, None)

    def session(self, key: str | None) -> Session:
        """Return the session of a cookie; without one, what anybody may do."""
        found = self._sessions.get(key or "")
        if found is not None and found.ends_at > self.clock():
            return found
        return Session(Role.READER if self.open_to_all else Role.NOBODY)


def _same(given: str, token: str | None) -> bool:
    return compare_digest(given.encode(errors="replace"), (token or "").encode()) and bool(token)


def is_loopback(address: str) -> bool:
    """Tell whether only this machine can connect to an address."""
    try:
        return ip_address(address).is_loopback
    except ValueError:
        return address == "localhost"


def access_of(settings: Settings) -> Access:
    """Return the access that the settings give.

    Raises:
        SettingsError: when a token is missing where it is needed, too short, given twice, or its file cannot be read.

    """
    reader, operator = _token(settings, "console_reader_token"), _token(settings, "console_operator_token")
    loopback = is_loopback(settings.console_address)
    if not loopback and reader is None:
        raise SettingsError(
            f"INMAIL_CONSOLE_READER_TOKEN: needed to serve the console on {settings.console_address}, where others can"
            " come to it; only on loopback is looking free"
        )
    if reader is not None and reader == operator:
        raise SettingsError("INMAIL_CONSOLE_OPERATOR_TOKEN: has to differ from INMAIL_CONSOLE_READER_TOKEN")
    return Access(reader, operator, open_to_all=loopback and reader is None)


def _token(settings: Settings, name: str) -> str | None:
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
    if len(token) < _TOKEN_CHARACTERS:
        raise SettingsError(f"{variable}: expected at least {_TOKEN_CHARACTERS} characters")
    return token
