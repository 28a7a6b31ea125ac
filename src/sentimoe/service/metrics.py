"""What `/metrics` tells Prometheus. Every service has a registry of its own."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, generate_latest

from .batcher import Answers, Batch
from .models import ServedModel

SIZES = (1, 2, 4, 8, 16, 32, 64, 128, 256, 512, 1024)
SECONDS = (0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0)


class Metrics:
    """Counters, gauges and histograms of a service; labels are names of models, dialects and statuses, never texts."""

    def __init__(self) -> None:
        self.registry = CollectorRegistry()
        by_model, of = ("model",), self.registry
        self.requests = Counter("sentimoe_requests", "Requests answered.", ("dialect", "status"), registry=of)
        self.latency = Histogram(
            "sentimoe_request_seconds", "Seconds of a request.", ("dialect",), buckets=SECONDS, registry=of
        )
        self.cancelled = Counter(
            "sentimoe_cancelled_requests", "Requests whose client left before the answer.", registry=of
        )
        self.texts = Counter("sentimoe_texts", "Texts answered.", by_model, registry=of)
        self.tokens = Counter("sentimoe_tokens", "Tokens read.", by_model, registry=of)
        self.queue = Gauge("sentimoe_queue_texts", "Texts that wait or are answered.", by_model, registry=of)
        self.batch_texts = Histogram("sentimoe_batch_texts", "Texts of a batch.", by_model, buckets=SIZES, registry=of)
        self.batch_seconds = Histogram(
            "sentimoe_batch_seconds", "Seconds of a batch.", by_model, buckets=SECONDS, registry=of
        )
        self.exits = Counter("sentimoe_exits", "Texts by the layers that read them.", ("model", "layers"), registry=of)
        self.abstentions = Counter(
            "sentimoe_abstentions", "Texts without a label: blank, or doubtful.", ("model", "reason"), registry=of
        )

    def watch(self, name: str, held: Callable[[], float]) -> None:
        """Read the length of a model's queue from there."""
        self.queue.labels(name).set_function(held)

    def batch(self, name: str, batch: Batch) -> None:
        """A batch of a model is through."""
        self.batch_texts.labels(name).observe(batch.texts)
        self.batch_seconds.labels(name).observe(batch.seconds)

    def answered(self, model: ServedModel, answers: Answers) -> None:
        """The texts of a request are answered, in any dialect."""
        self.texts.labels(model.name).inc(len(answers.probabilities))
        self.tokens.labels(model.name).inc(answers.tokens)
        self._abstained(model.name, "blank", int(np.isnan(answers.probabilities[:, 0]).sum()))
        if answers.layers is not None:
            for layers, count in zip(*np.unique(answers.layers[answers.layers > 0], return_counts=True), strict=True):
                self.exits.labels(model.name, str(layers)).inc(int(count))

    def doubtful(self, model: ServedModel, count: int) -> None:
        """So many texts got no label, for their scores are below the model's threshold."""
        self._abstained(model.name, "doubtful", count)

    def request(self, dialect: str, status: int, seconds: float) -> None:
        """A request is through."""
        self.requests.labels(dialect, str(status)).inc()
        self.latency.labels(dialect).observe(seconds)

    def page(self) -> bytes:
        """The text that Prometheus reads."""
        return generate_latest(self.registry)

    def _abstained(self, name: str, reason: str, count: int) -> None:
        if count:
            self.abstentions.labels(name, reason).inc(count)
