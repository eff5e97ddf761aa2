"""Who may look and who may act: tokens, and the sessions that are signed in with one."""

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

__all__ = ["Access", "Role", "Session", "TooManyAttemptsError", "WrongTokenError", "access_of"]

_SESSION_SECONDS = 12 * 3600.0
_SESSIONS_AT_MOST = 1000
_ATTEMPTS = 10  # with a wrong token, in a minute, from one address
_ATTEMPTS_SECONDS = 60.0
_CALLERS_AT_MOST = 1000  # addresses that are remembered for wrong tokens
_NETWORK_BITS = 64  # of an IPv6 address: what one caller commonly has all to itself
_TOKEN_CHARACTERS = 16  # at least: it is all that stands between the network and the ledger


class Role(IntEnum):
    """What somebody may do. Each may also do what those before it may."""

    NOBODY = 0
    READER = 1
    OPERATOR = 2


class WrongTokenError(Exception):
    """No role has that token."""


class TooManyAttemptsError(Exception):
    """Too many wrong tokens came from one address in a short time."""


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
    _wrong: "OrderedDict[str, deque[float]]" = field(default_factory=OrderedDict)  # when, by who came

    def role_of(self, token: str, address: str) -> Role:
        """Return what a token lets do.

        Args:
            token: what was given.
            address: from where it came; behind a proxy that is the proxy's.

        Raises:
            WrongTokenError: when it is none of ours.
            TooManyAttemptsError: when there were too many of those from that address in the last minute.

        """
        now, caller = self.clock(), _caller(address)
        wrong = self._wrong.get(caller)
        if wrong is not None and len(wrong) == _ATTEMPTS and now - wrong[0] < _ATTEMPTS_SECONDS:
            raise TooManyAttemptsError("too many wrong tokens from your address: wait a minute")
        # Both are compared whatever the first says, each in constant time: neither can be guessed a letter at a time.
        reads, acts = _same(token, self.reader_token), _same(token, self.operator_token)
        if not (reads or acts):
            self._note_wrong(caller, now)
            raise WrongTokenError("that is no token of this console")
        return Role.OPERATOR if acts else Role.READER

    def _note_wrong(self, caller: str, now: float) -> None:
        """Remember a wrong token, the callers in the order of their last one: the table cannot grow without end."""
        self._wrong.setdefault(caller, deque(maxlen=_ATTEMPTS)).append(now)
        self._wrong.move_to_end(caller)
        while len(self._wrong) > _CALLERS_AT_MOST:
            self._wrong.popitem(last=False)

    def sign_in(self, token: str, actor: str, address: str) -> tuple[str, Session]:
        """Begin a session; return its secret id, for the cookie, and what it is.

        Raises:
            WrongTokenError, TooManyAttemptsError: as `role_of` does.

        """
        role = self.role_of(token, address)
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


def _caller(address: str) -> str:
    """Return whom an address stands for: in IPv6 its network, since its owner can take any address of that."""
    try:
        found = ip_address(address)
    except ValueError:
        return address
    if not isinstance(found, IPv6Address):
        return address
    if found.ipv4_mapped is not None:
        return str(found.ipv4_mapped)
    return f"{int(found) >> (128 - _NETWORK_BITS):x}/{_NETWORK_BITS}"


def _same(given: str, token: str | None) -> bool:
    return compare_digest(given.encode(errors="replace"), (token or "").encode()) and bool(token)


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
