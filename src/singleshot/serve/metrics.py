"""What `GET /metrics` shows, in Prometheus' form."""

from __future__ import annotations

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, generate_latest
from prometheus_client.exposition import CONTENT_TYPE_LATEST

_SECONDS = (0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0)


class Metrics:
    """The figures of one service."""

    content_type = CONTENT_TYPE_LATEST

    def __init__(self) -> None:
        self._registry = own = CollectorRegistry()
        name = "singleshot"
        self.requests = Counter(f"{name}_requests", "Answers", ["route", "status"], registry=own)
        self.seconds = Histogram(
            f"{name}_request_seconds", "Until the answer", ["route"], buckets=_SECONDS, registry=own
        )
        self.images = Counter(f"{name}_images", "Images detected in", ["model"], registry=own)
        self.refused = Counter(f"{name}_refused", "Requests that were refused, by reason", ["code"], registry=own)
        self.batch_size = Histogram(
            f"{name}_batch_images", "Images that a worker got at once", buckets=(1, 2, 4, 8, 16, 32), registry=own
        )
        self.worker_deaths = Counter(f"{name}_worker_deaths", "Workers that ended by themselves", registry=own)
        self.retries = Counter(f"{name}_retries", "Images that were given to another worker", registry=own)
        self.reloads = Counter(f"{name}_reloads", "Model files taken over", ["result"], registry=own)
        self.waiting = Gauge(f"{name}_waiting_images", "Images in the queue", registry=own)
        self.workers = Gauge(f"{name}_workers", "Workers that are ready", registry=own)

    def text(self) -> bytes:
        """All figures in Prometheus' text form."""
        return generate_latest(self._registry)
