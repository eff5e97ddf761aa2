"""Which version of Kafka a broker runs, by the newest level of `metadata.version` that it supports.

No broker tells its version. Each tells the levels of its features (KIP-584), and each release adds levels of its own:
read from `MetadataVersion.LATEST_PRODUCTION` in kafka-server-common 4.0.2, 4.1.1, 4.2.1, 4.3.0, 4.3.1 and 4.4.0.
"""

from io import BytesIO
from typing import Any, Final, NamedTuple

from aiokafka.protocol.api import ResponseHeader_v0
from aiokafka.protocol.types import Int16, Int32

from infra.kafka.cluster_queries import ClusterQueries, open_cluster_queries
from infra.kafka.raw_requests import TEXT, RawRequest, request_struct, table
from infra.settings import Settings

__all__ = [
    "BrokerVersion",
    "VersionConcern",
    "fetch_version_concerns",
    "fetch_versions",
    "version_concern",
]

_FEATURES_TAG = 0
_FEATURE: Final = "metadata.version"
_RELEASES: Final = {25: "4.0", 27: "4.1", 29: "4.2", 30: "4.3", 33: "4.4"}
_RUN: Final = {"4.0", "4.1", "4.2"}  # by `make versions`; on 4.0 and 4.2 also every fault (`make crash`)
_NO_MARKERS: Final = {"4.3", "4.4"}
_PAGE: Final = "docs/kafka-versions.md"
_SUPPORTED = table(("name", TEXT), ("min_level", Int16), ("max_level", Int16))


class BrokerVersion(NamedTuple):
    """A broker, and what it says of its version."""

    address: str
    level: int | None  # the newest `metadata.version` that it supports; None: it does not tell
    release: str | None  # as `4.2`; None: of a release that is not known here

    @property
    def text(self) -> str:
        """The version in words."""
        if self.release is not None:
            return f"Kafka {self.release}"
        if self.level is None or self.level < min(_RELEASES):
            return "older than Kafka 4.0"
        return f"newer than Kafka {_RELEASES[max(_RELEASES)]}" if self.level > max(_RELEASES) else "a release between"


class VersionConcern(NamedTuple):
    """What speaks against a broker's version, and what to do."""

    text: str
    remedy: str


def version_concern(version: BrokerVersion) -> VersionConcern | None:
    """Return what speaks against a broker's version; None for one on which the system was tested."""
    if version.release in _RUN:
        return None
    if version.release in _NO_MARKERS or (version.level or 0) > max(_RELEASES):
        text = (
            f"{version.text}: it may leave out the markers that end a transaction when a partition has no leader"
            " (KAFKA-20734); then answers may come twice"
        )
        return VersionConcern(text, f"run 4.2 or 4.0 instead, see {_PAGE}")
    return VersionConcern(f"{version.text}, on which nothing was tested", f"run 4.2 or 4.0, see {_PAGE}")


_API_VERSIONS: Any = request_struct(
    "ApiVersions",
    18,
    3,
    [("client_software_name", TEXT), ("client_software_version", TEXT)],
    [
        ("error_code", Int16),
        ("api_keys", table(("api_key", Int16), ("min_version", Int16), ("max_version", Int16))),
        ("throttle_time_ms", Int32),
    ],
)


class _ApiVersionsRequest(_API_VERSIONS):  # type: ignore[misc] # aiokafka is untyped
    """Asks a broker what it speaks and which features it has."""

    def parse_response_header(self, read_buffer: BytesIO | bytes) -> Any:  # noqa: ANN401 - aiokafka's
        """Read the header: of this answer alone it is the old one, so that old clients can read it (KIP-511)."""
        return ResponseHeader_v0.decode(read_buffer)


async def fetch_versions(lookup: ClusterQueries) -> list[BrokerVersion]:
    """Return the version of each broker.

    Raises:
        KafkaError: when a broker does not answer.

    """
    found = []
    for node, address in sorted(lookup.brokers().items()):
        answer = await lookup.send(node, RawRequest(_ApiVersionsRequest, "inmail", "1"))
        level = None
        if (told := answer.tags.get(_FEATURES_TAG)) is not None:
            level = {row[0]: row[2] for row in _SUPPORTED.decode(BytesIO(told)) or ()}.get(_FEATURE)
        found.append(BrokerVersion(address, level, _RELEASES.get(level) if level is not None else None))
    return found


async def fetch_version_concerns(settings: Settings) -> list[str]:
    """Return a sentence for each broker whose version something speaks against.

    Raises:
        KafkaError: when a broker does not answer.

    """
    async with open_cluster_queries(settings) as lookup:
        versions = await fetch_versions(lookup)
    return [
        f"the broker at {each.address} runs {concern.text}. To do: {concern.remedy}"
        for each in versions
        if (concern := version_concern(each)) is not None
    ]
