"""What the service tells Prometheus: requests, latencies of each step, what waits, what is served."""

from __future__ import annotations

from typing import Any

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, generate_latest

SECONDS = (0.001, 0.002, 0.005, 0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1, 2, 5, 10)


class Metrics:
    """The counters of one service; a registry of its own, so that several may run in one process."""

    def __init__(self) -> None:
        self.registry = CollectorRegistry()
        common: dict[str, Any] = {"namespace": "mecoq_faiss", "registry": self.registry}
        self.requests = Counter("requests", "Answers", ["route", "method", "status"], **common)
        self.seconds = Histogram("request_seconds", "Time of an answer", ["route"], buckets=SECONDS, **common)
        self.decode = Histogram("decode_seconds", "Decoding of a request's images", buckets=SECONDS, **common)
        self.encode = Histogram("encode_seconds", "Embedding of a batch", buckets=SECONDS, **common)
        self.search = Histogram("search_seconds", "Search of a batch in the index", buckets=SECONDS, **common)
        self.waiting = Gauge("waiting_queries", "Queries that wait for their batch", **common)
        self.items = Gauge("items", "Items of the bundle", ["bundle"], **common)
        self.generations = Counter("generations", "Exports taken up since the start", ["bundle"], **common)

    def text(self) -> bytes:
        """Prometheus's text format."""
        return generate_latest(self.registry)
