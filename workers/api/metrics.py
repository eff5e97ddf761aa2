"""The read API's metrics: requests by operation, client and status, how long they take, its connections, readiness."""

import asyncio
from collections.abc import Callable, Sequence
from time import perf_counter
from typing import Final, NamedTuple

from aiohttp import web
from aiohttp.typedefs import Handler, Middleware
from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, ProcessCollector

from workers.api.tokens import ANYBODY
from workers.telemetry import metric_table
from workers.telemetry.collectors import Sized, register_pool_of
from workers.telemetry.worker_metrics import render_metrics

__all__ = ["CLIENT", "OTHER", "ApiMetrics"]

CLIENT: Final = web.RequestKey("client", str)  # the name of the token, once it was checked
OTHER: Final = "other"  # paths that are no operation

_PROCESS: Final = "api"  # its name among the workers, in metrics that it has as they do
_SECONDS: Final = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0)


class _PoolSizes(NamedTuple):
    """The sizes of several pools together."""

    pools: Sequence[Sized]

    def get_size(self) -> int:
        """Return the number of open connections."""
        return sum(each.get_size() for each in self.pools)

    def get_idle_size(self) -> int:
        """Return the number of idle connections."""
        return sum(each.get_idle_size() for each in self.pools)

    def get_max_size(self) -> int:
        """Return the maximum number of connections."""
        return sum(each.get_max_size() for each in self.pools)


class ApiMetrics:
    """The metrics of one process, in a registry of its own."""

    def __init__(self, pools: Sequence[Sized], ready: Callable[[], bool]) -> None:
        """Create the metrics of an API with these connection pools.

        Args:
            pools: of each server.
            ready: tells whether the API is ready, as `/readyz` does. An API that no load balancer sends requests to
                answers none with an error: without this, an alert would see an API that nobody asks.

        """
        self.registry = CollectorRegistry()
        ProcessCollector(registry=self.registry)
        requests, seconds = metric_table.API_REQUESTS, metric_table.API_SECONDS
        self._requests = Counter(requests.name, requests.meaning, requests.labels, registry=self.registry)
        self._seconds = Histogram(
            seconds.name, seconds.meaning, seconds.labels, buckets=_SECONDS, registry=self.registry
        )
        self._children: dict[tuple[str, str, int], tuple[Histogram, Counter]] = {}  # looking them up takes its time
        register_pool_of(self.registry, _PROCESS, _PoolSizes(pools))
        is_ready = metric_table.READY
        gauge = Gauge(is_ready.name, is_ready.meaning, is_ready.labels, registry=self.registry)
        gauge.labels(_PROCESS).set_function(lambda: float(ready()))

    def page(self) -> tuple[bytes, str]:
        """Return the metrics in Prometheus' text format, and its content type."""
        return render_metrics(self.registry)

    def middleware(self) -> Middleware:
        """Return the middleware that counts each request, outermost of all."""

        @web.middleware
        async def count(request: web.Request, handler: Handler) -> web.StreamResponse:
            began = perf_counter()
            status: int | None = 500  # aiohttp's answer to an error of a middleware
            try:
                response = await handler(request)
                status = response.status
            except web.HTTPException as error:
                status = error.status
                raise
            except asyncio.CancelledError:  # the client has left without an answer
                status = None
                raise
            finally:
                if status is not None:
                    self._count(request, status, perf_counter() - began)
            return response

        return count

    def _count(self, request: web.Request, status: int, took: float) -> None:
        """Count a request that was answered, after so many seconds."""
        labels = (request.match_info.route.name or OTHER, request.get(CLIENT, ANYBODY), status)
        found = self._children.get(labels)
        if found is None:
            operation, client, _ = labels
            requests = self._requests.labels(operation, client, str(status))
            found = self._children[labels] = self._seconds.labels(operation), requests
        seconds, requests = found
        seconds.observe(took)
        requests.inc()
