"""A mistake in the settings of TLS is told as one, and not as a server that is away."""

import ssl
from pathlib import Path

import pytest
from pydantic import SecretStr

from infra.postgres import connect_database
from infra.postgres_tls import check_tls_files
from infra.settings import Settings, SettingsError


async def test_a_file_that_is_not_there_is_named(settings: Settings, tmp_path: Path) -> None:
    """With the part of the URL that names it; the server need not answer."""
    url = f"postgresql://u:p@127.0.0.1:1/x?sslmode=verify-full&sslrootcert={tmp_path}/none.pem"
    wrong = settings.model_copy(update={"database_url": SecretStr(url)})

    with pytest.raises(SettingsError, match=r"^INMAIL_DATABASE_URL: there is no file .*/none\.pem \(sslrootcert\)$"):
        await connect_database(wrong)


def test_a_certificate_that_is_not_trusted_is_told(tmp_path: Path) -> None:
    """A socket that is not there, and a connection that ended within its handshake, are no mistakes of these."""
    untrusted = ssl.SSLCertVerificationError()
    untrusted.verify_message = "self-signed certificate"
    url = f"postgresql://u@/x?host={tmp_path}/none"

    with pytest.raises(SettingsError, match=r"not trusted \(self-signed certificate\)"):
        check_tls_files(url, untrusted)
    check_tls_files(url, ssl.SSLEOFError())
    check_tls_files(url, FileNotFoundError())
