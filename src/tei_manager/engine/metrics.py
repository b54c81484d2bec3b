"""TEI's Prometheus series, under TEI's names, on a port of their own.

TEI's counters lack the ``_total`` that the Python library insists on, so they are kept here and
shown as untyped. Two oddities of TEI are not copied: EmbedAll and EmbedSparse are counted once and
their successes are counted, and no empty batches are recorded.
"""

from __future__ import annotations

import logging
import socket
import threading
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from wsgiref.simple_server import WSGIRequestHandler, WSGIServer, make_server

from prometheus_client import (
    CollectorRegistry,
    Gauge,
    Histogram,
    disable_created_metrics,
    make_wsgi_app,
)
from prometheus_client.core import Metric
from prometheus_client.exposition import ThreadingWSGIServer
from prometheus_client.registry import Collector

from tei_manager.engine.cost import Cost

_log = logging.getLogger(__name__)

_NS_PER_S = 1_000_000_000

# TEI's buckets: seconds grow by half from 15 microseconds to 14.6 s; counts double.
_SECONDS = [1.5e-5 * 1.5**power for power in range(35)]
_BATCH_TEXTS = [2**power for power in range(13)]
_BATCH_TOKENS = [2**power for power in range(21)]

_STAGES = ("duration", "tokenization_duration", "queue_duration", "inference_duration")


class _Counters(Collector):
    """Counters that are shown without ``_total``, from their first use on."""

    def __init__(self) -> None:
        self._values: Counter[tuple[str, tuple[tuple[str, str], ...]]] = Counter()
        self._lock = threading.Lock()

    def add(self, name: str, amount: int = 1, **labels: str) -> None:
        with self._lock:
            self._values[name, tuple(labels.items())] += amount

    def collect(self) -> Iterable[Metric]:
        with self._lock:
            rows = sorted(self._values.items())
        families: dict[str, Metric] = {}
        for (name, labels), value in rows:
            family = families.setdefault(name, Metric(name, "See TEI's documentation", "unknown"))
            family.add_sample(name, dict(labels), value)
        return families.values()


class Metrics:
    """What is counted and measured; safe to use from several threads.

    Args:
        max_input_length: The longest input in tokens; bounds the buckets of lengths.
    """

    def __init__(self, max_input_length: int) -> None:
        disable_created_metrics()  # type: ignore[no-untyped-call]  # a series more for each of ours
        self.registry = CollectorRegistry()
        self._counters = _Counters()
        self.registry.register(self._counters)
        self._requests = self._stages("request")
        self._texts = {kind: self._stages(kind) for kind in ("embed", "predict")}
        lengths = list(_powers_of_two(max_input_length))
        self._input_length = self._histogram("te_request_input_length", lengths)
        self._batch_texts = self._histogram("te_batch_next_size", _BATCH_TEXTS)
        self._batch_tokens = self._histogram("te_batch_next_tokens", _BATCH_TOKENS)
        self._queue_size = Gauge("te_queue_size", "See TEI's documentation", registry=self.registry)

    def _stages(self, kind: str) -> list[Histogram]:
        return [self._histogram(f"te_{kind}_{stage}", _SECONDS) for stage in _STAGES]

    def _histogram(self, name: str, buckets: Iterable[float]) -> Histogram:
        return Histogram(
            name, "See TEI's documentation", buckets=list(buckets), registry=self.registry
        )

    def request_started(self, method: str) -> None:
        """Count a unary call; ``method`` is ``single`` or ``batch``."""
        self._counters.add("te_request_count", method=method)

    def request_succeeded(self, method: str) -> None:
        """Count a unary call that was answered."""
        self._counters.add("te_request_success", method=method)

    def request_failed(self, kind: str) -> None:
        """Count a request, unary or of a stream, that was refused or went wrong."""
        self._counters.add("te_request_failure", err=kind)

    def text_started(self, kind: str) -> None:
        """Count a text that is to be run; ``kind`` is ``embed`` or ``predict``."""
        self._counters.add(f"te_{kind}_count")

    def text_succeeded(self, kind: str, cost: Cost) -> None:
        """Count a text that was run and record what it cost."""
        self._counters.add(f"te_{kind}_success")
        self._input_length.observe(cost.tokens)
        _observe(self._texts[kind], cost)

    def request_took(self, cost: Cost) -> None:
        """Record what an answer cost: that of one text, or of all texts of a Rerank."""
        _observe(self._requests, cost)

    def batch_taken(self, texts: int, tokens: int, waiting: int) -> None:
        """Record a batch and what is left in the queue."""
        self._batch_texts.observe(texts)
        self._batch_tokens.observe(tokens)
        self._queue_size.set(waiting)

    def dropped(self, texts: int) -> None:
        """Count texts whose callers went away."""
        self._counters.add("te_request_failure", texts, err="dropped")


def _observe(stages: Iterable[Histogram], cost: Cost) -> None:
    times = (cost.total_ns, cost.tokenization_ns, cost.queue_ns, cost.inference_ns)
    for histogram, nanoseconds in zip(stages, times, strict=True):
        histogram.observe(nanoseconds / _NS_PER_S)


def _powers_of_two(limit: int) -> Iterator[float]:
    value = 1
    while value <= limit:
        yield value
        value *= 2


class _SilentHandler(WSGIRequestHandler):
    """Answers without a line on stderr for each scrape."""

    def log_message(self, format: str, *args: object) -> None:  # noqa: A002 -- the library's name
        pass


class Exporter:
    """The HTTP port of the metrics: every path shows them, but ``/health`` says ``OK``.

    Args:
        host: An IP address.
        port: 0 lets the system choose; `address` says what it chose.

    Raises:
        OSError: The port cannot be bound.

    Ownership:
        `close` ends the thread and frees the port.
    """

    def __init__(self, metrics: Metrics, host: str, port: int) -> None:
        self._server: WSGIServer = make_server(
            host, port, _app(metrics.registry), _server_class(host), handler_class=_SilentHandler
        )
        self._thread = threading.Thread(target=self._server.serve_forever, name="metrics")
        self._thread.start()
        shown = f"[{host}]" if ":" in host else host
        self.address = f"{shown}:{self._server.server_port}"
        _log.info("Serving Prometheus metrics: %s", self.address)

    def close(self) -> None:
        """Stop answering."""
        self._server.shutdown()
        self._server.server_close()
        self._thread.join()


def _server_class(host: str) -> type[WSGIServer]:
    class Server(ThreadingWSGIServer):
        """One thread for each scrape, of the address family of the host."""

        address_family = socket.AF_INET6 if ":" in host else socket.AF_INET
        daemon_threads = True

    return Server


def _app(registry: CollectorRegistry) -> Callable[..., Iterable[bytes]]:
    show = make_wsgi_app(registry)

    def app(environ: dict[str, str], start_response: Callable[..., object]) -> Iterable[bytes]:
        if environ["PATH_INFO"] == "/health":
            start_response("200 OK", [("Content-Type", "text/plain")])
            return [b"OK"]
        page: Iterable[bytes] = show(environ, start_response)
        return page

    return app
