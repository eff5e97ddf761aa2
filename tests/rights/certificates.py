"""A certificate authority of a test's own, and a server's certificate by it."""

import os
import subprocess
from pathlib import Path
from typing import NamedTuple

from infra.local.postgres_server import server_user
from tests.tools import tool

__all__ = ["Certificates", "make_certificates"]


class Certificates(NamedTuple):
    """PEM files: the authority's certificate, the server's certificate and key, and both of the latter in one."""

    authority: Path
    certificate: Path
    key: Path
    both: Path


def make_certificates(folder: Path, name: str = "IP:127.0.0.1") -> Certificates:
    """Make an authority and, by it, the certificate of a server with a name (`IP:...` or `DNS:...`)."""
    openssl = tool("openssl")
    made = Certificates(*(folder / each for each in ("ca.pem", "server.pem", "server.key", "both.pem")))
    authority_key, request, extensions = (folder / each for each in ("ca.key", "server.csr", "server.ext"))
    extensions.write_text(f"subjectAltName={name}\n")
    new_key = ("-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes")
    by = ("-CA", made.authority, "-CAkey", authority_key, "-CAcreateserial", "-extfile", extensions, "-days", "1")
    for arguments in (
        ("req", "-x509", *new_key, "-keyout", authority_key, "-out", made.authority, "-days", "1", "-subj", "/CN=test"),
        ("req", *new_key, "-keyout", made.key, "-out", request, "-subj", "/CN=server"),
        ("x509", "-req", "-in", request, "-out", made.certificate, *by),
    ):
        subprocess.run([openssl, *map(str, arguments)], check=True, capture_output=True)
    if os.geteuid() == 0:  # Postgres does not run as root, and wants its key to be its own
        os.chown(made.key, server_user(None) or 0, 0)
    made.both.write_text(made.key.read_text() + made.certificate.read_text())
    return made
