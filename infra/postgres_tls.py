"""Mistakes in the settings of TLS of a database URL: as errors of the system, they look like a server that is away."""

import ssl
from pathlib import Path
from typing import Final
from urllib.parse import parse_qs, urlsplit

from infra.settings import SettingsError

__all__ = ["check_tls_files"]

_FILES: Final = "sslrootcert", "sslcert", "sslkey", "sslcrl"


def check_tls_files(url: str, error: OSError) -> None:
    """Raise an error that says what is wrong where a connection failed for the files that its URL names.

    Args:
        url: of the database.
        error: with which connecting ended. A socket that is not there is no file of TLS.

    Raises:
        SettingsError: when the server's certificate is not trusted, or a file is not there.

    """
    if isinstance(error, ssl.SSLCertVerificationError):
        raise SettingsError(
            f"INMAIL_DATABASE_URL: the server's certificate is not trusted ({error.verify_message}): sslrootcert names"
            " the file of who has signed it"
        ) from error
    if not isinstance(error, FileNotFoundError):
        return
    query = parse_qs(urlsplit(url).query)
    named = [(name, path) for name in _FILES for path in query.get(name, [])]
    if missing := [f"{path} ({name})" for name, path in named if not Path(path).is_file()]:
        raise SettingsError(f"INMAIL_DATABASE_URL: there is no file {', '.join(missing)}") from error
