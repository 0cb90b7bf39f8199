"""What the page says about itself: numbers for Prometheus, and one line of JSON for each request."""

from __future__ import annotations

import json
import logging
import sys
import time
from datetime import UTC, datetime

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram

from tercile.page.security import Application, Receive, Scope, Send

logger = logging.getLogger("tercile.page")
#: Upper edges in seconds; the aim is 0.05.
SECONDS = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 1.0, 5.0)


class Metrics:
    """Counters of one application, in a registry of their own."""

    def __init__(self) -> None:
        self.registry = CollectorRegistry()
        self.requests = Counter(
            "tercile_page_requests", "Requests answered", ["method", "route", "status"], registry=self.registry
        )
        self.seconds = Histogram(
            "tercile_page_request_seconds", "Time to answer", ["route"], buckets=SECONDS, registry=self.registry
        )
        self.batches = Histogram(
            "tercile_page_query_batch", "Queries embedded together", buckets=(1, 2, 4, 8, 16, 32, 64),
            registry=self.registry,
        )  # fmt: skip
        self.methods = Gauge("tercile_page_methods", "Methods by verdict", ["verdict"], registry=self.registry)
        self.papers = Gauge("tercile_page_papers", "Papers that readers brought", registry=self.registry)
        self.letters = Gauge("tercile_page_letters", "Letters by state", ["state"], registry=self.registry)
        self.subscribers = Gauge("tercile_page_subscribers", "Readers of the digest", ["state"], registry=self.registry)
        self.meaning = Gauge("tercile_page_search_by_meaning", "1 where it is ready", registry=self.registry)


class Observer:
    """Outermost middleware: counts, times and logs each request by its route, so that odd addresses add no series."""

    def __init__(self, app: Application, metrics: Metrics) -> None:
        self.app, self.metrics = app, metrics

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return
        began, status = time.perf_counter(), 500

        async def noting(message: dict[str, object]) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = int(str(message["status"]))
            await send(message)

        try:
            await self.app(scope, receive, noting)
        finally:
            seconds = time.perf_counter() - began
            route = getattr(scope.get("route"), "path", None) or "none"
            self.metrics.requests.labels(scope["method"], route, str(status)).inc()
            self.metrics.seconds.labels(route).observe(seconds)
            if logger.isEnabledFor(logging.INFO):
                path = route if "{token}" in route else scope["path"]  # such a token entitles: it is in no log
                fields = {"method": scope["method"], "path": path, "route": route, "status": status}
                logger.info("request", extra={"fields": {**fields, "ms": round(1000 * seconds, 2)}})


class JsonLines(logging.Formatter):
    """One JSON object a line. Addresses of readers and what they search for are not in it."""

    def format(self, record: logging.LogRecord) -> str:
        told = {
            "time": datetime.fromtimestamp(record.created, UTC).isoformat(timespec="milliseconds"),
            "level": record.levelname.lower(),
            "logger": record.name,
            "message": record.getMessage(),
            **getattr(record, "fields", {}),
        }
        if record.exc_info:
            told["error"] = self.formatException(record.exc_info)
        return json.dumps(told, ensure_ascii=False)


def log_to_standard_error(level: int = logging.INFO) -> None:
    """Send everything that the page and its server log to standard error, as JSON."""
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(JsonLines())
    for name in ("tercile.page", "uvicorn.error"):
        named = logging.getLogger(name)
        named.handlers, named.propagate = [handler], False
        named.setLevel(level if name == "tercile.page" else max(level, logging.WARNING))
