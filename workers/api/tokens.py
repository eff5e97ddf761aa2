"""Who may ask the read API: bearer tokens, of which the process knows only the hashes."""

import re
import secrets
from collections.abc import Mapping
from dataclasses import dataclass
from hashlib import sha256
from hmac import compare_digest
from pathlib import Path
from typing import Final

from infra.addresses import is_loopback
from infra.settings import Settings, SettingsError

__all__ = ["ANYBODY", "ApiTokens", "api_tokens", "hash_token", "is_token_name", "new_token"]

ANYBODY: Final = "anybody"  # the client's name where no token is asked for

_NAME: Final = r"[A-Za-z0-9._-]{1,40}"
_ENTRY: Final = re.compile(rf"({_NAME}):([0-9a-fA-F]{{64}})")
_COMMENT: Final = re.compile(r"#[^\n]*")
_EXPECTED: Final = "expected name:sha256 for each token, as `inmail api --new-token` prints it"


def new_token() -> str:
    """Return a new token of 256 random bits. A plain SHA-256 hides it: nobody can try that many."""
    return secrets.token_urlsafe(32)


def is_token_name(name: str) -> bool:
    """Return whether a token can have this name in the settings."""
    return re.fullmatch(_NAME, name) is not None


def hash_token(token: str) -> str:
    """Return the hash of a token, in hexadecimal digits, as the settings hold it."""
    return sha256(token.encode(errors="replace")).hexdigest()


@dataclass(frozen=True, slots=True)
class ApiTokens:
    """The hashes of the tokens that may read, by the name of each. None: nobody needs one."""

    hashes: Mapping[str, str] | None

    def client_of(self, authorization: str) -> str | None:
        """Return the name of the token in an `Authorization` header; None if there is none, or it is wrong."""
        if self.hashes is None:
            return ANYBODY
        scheme, _, token = authorization.partition(" ")
        given, found = hash_token(token.strip()), None
        # Each is compared, in constant time, whatever the others said.
        for name, known in self.hashes.items():
            if compare_digest(given, known):
                found = name
        return found if scheme.lower() == "bearer" else None


def api_tokens(settings: Settings) -> ApiTokens:
    """Return who may ask, as the settings say.

    Raises:
        SettingsError: when no token is set, except on loopback with INMAIL_API_WITHOUT_TOKENS; when an entry or the
            file cannot be read, or tokens are set beside INMAIL_API_WITHOUT_TOKENS.

    """
    text, variable = _entries(settings)
    if settings.api_without_tokens:
        if text is not None:
            raise SettingsError(f"INMAIL_API_WITHOUT_TOKENS, {variable}: only one of them can be set")
        if not is_loopback(settings.api_address):
            raise SettingsError(
                f"INMAIL_API_WITHOUT_TOKENS: only on loopback, and not on {settings.api_address}, where others can come"
            )
        return ApiTokens(None)
    if text is None:
        raise SettingsError(
            "INMAIL_API_TOKENS_FILE, INMAIL_API_TOKENS: one of them is needed; `inmail api --new-token` makes a token."
            " To serve without on loopback: INMAIL_API_WITHOUT_TOKENS=true"
        )
    hashes: dict[str, str] = {}
    for entry in _COMMENT.sub("", text).replace(",", " ").split():
        found = _ENTRY.fullmatch(entry)
        if found is None:
            raise SettingsError(f"{variable}: {_EXPECTED}")
        if found[1] in hashes:
            raise SettingsError(f"{variable}: the name {found[1]} stands there twice: give each token its own")
        hashes[found[1]] = found[2].lower()
    if not hashes:
        raise SettingsError(f"{variable}: holds no token: {_EXPECTED}")
    return ApiTokens(hashes)


def _entries(settings: Settings) -> tuple[str | None, str]:
    """Return the text that names the tokens, and the variable it comes from."""
    if settings.api_tokens is not None and settings.api_tokens_file is not None:
        raise SettingsError("INMAIL_API_TOKENS, INMAIL_API_TOKENS_FILE: only one of them can be set")
    if settings.api_tokens is not None:
        return settings.api_tokens.get_secret_value(), "INMAIL_API_TOKENS"
    if settings.api_tokens_file is None:
        return None, "INMAIL_API_TOKENS_FILE"
    try:
        return Path(settings.api_tokens_file).read_text(encoding="utf-8"), "INMAIL_API_TOKENS_FILE"
    except (OSError, UnicodeDecodeError) as error:
        raise SettingsError(f"INMAIL_API_TOKENS_FILE: cannot be read: {error}") from error
