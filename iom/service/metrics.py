"""Counts for Prometheus; nothing in them is about a person."""

from collections.abc import Callable

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, ProcessCollector, generate_latest

_BUCKETS = (0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0)


class Metrics:
    """Requests and their times, and how comparisons end."""

    def __init__(self) -> None:
        self._registry = CollectorRegistry()
        ProcessCollector(registry=self._registry)
        self._requests = Counter("iom_requests", "Requests.", ["action", "status"], registry=self._registry)
        self._seconds = Histogram(
            "iom_request_seconds", "Time of a request.", ["action"], buckets=_BUCKETS, registry=self._registry
        )
        self._decisions = Counter("iom_decisions", "Comparisons.", ["action", "match"], registry=self._registry)

    def count(self, action: str, status: int, seconds: float) -> None:
        """Count a request."""
        self._requests.labels(action, str(status)).inc()
        self._seconds.labels(action).observe(seconds)

    def decide(self, action: str, match: bool) -> None:
        """Count a comparison."""
        self._decisions.labels(action, str(match).lower()).inc()

    def watch(self, name: str, text: str, value: Callable[[], float]) -> None:
        """Show a number as it is when it is asked for."""
        Gauge(name, text, registry=self._registry).set_function(value)

    def text(self) -> bytes:
        """In the text format of Prometheus."""
        return generate_latest(self._registry)
