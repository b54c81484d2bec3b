"""The engine as a server: everything put together, started, and brought down in order.

Start
    The model is loaded before this file is reached. The metrics port is bound first, then the gRPC
    port; only then is "Ready" logged. A port that is taken ends the program.

Stop
    SIGTERM or SIGINT: health says NOT_SERVING and its watches end, new calls are refused, calls
    under way get `DRAIN_SECONDS`, then they are cancelled. A second signal cancels them at once.
"""

from __future__ import annotations

import asyncio
import gc
import logging
import os
import signal

import grpc
import numpy as np

from tei_manager.engine.auth import ApiKey
from tei_manager.engine.batcher import Batcher, Inferred
from tei_manager.engine.embed_service import EmbedService, embed_handlers
from tei_manager.engine.encoder import Array, Output
from tei_manager.engine.flags import Flags
from tei_manager.engine.health import Health
from tei_manager.engine.info_service import info_handlers
from tei_manager.engine.loading import LoadedModel
from tei_manager.engine.metrics import Exporter, Metrics
from tei_manager.engine.permits import Permits
from tei_manager.engine.pipeline import Pipeline
from tei_manager.engine.predict_service import PredictService, predict_handlers
from tei_manager.engine.reflection import reflection_handlers
from tei_manager.engine.rerank_service import RerankService, rerank_handlers
from tei_manager.engine.rpc import MAX_REQUEST_BYTES
from tei_manager.engine.tokenize_service import TokenizeService, tokenize_handlers
from tei_manager.engine.tokenizer import TokenIds

_log = logging.getLogger(__name__)

# Seconds for calls under way after a signal. A manager's half of stop_timeout_secs is 15.
DRAIN_SECONDS = 10.0

# `rpc` refuses what is over TEI's limit with TEI's status; the library, with its own, only what
# would cost much to hold until then.
_LARGEST_HELD_BYTES = 4 * MAX_REQUEST_BYTES

# Items of one stream between reading and writing, TEI's default and TEI's variable for it.
STREAM_WINDOW = 1024
_STREAM_WINDOW_VARIABLE = "GRPC_MAX_PARALLEL_STREAM_REQUESTS"

_OPTIONS = (
    ("grpc.max_receive_message_length", _LARGEST_HELD_BYTES),
    ("grpc.max_send_message_length", -1),  # EmbedAll: 32 MB for 8192 tokens of 1024 numbers
    # A second engine on the same port must fail, not share its calls.
    ("grpc.so_reuseport", 0),
    # The library's defaults answer a client's fourth keep-alive ping with GOAWAY.
    ("grpc.http2.min_ping_interval_without_data_ms", 1),
    ("grpc.http2.max_ping_strikes", 0),
    ("grpc.keepalive_permit_without_calls", 1),
    # Only identity (bit 0): TEI neither takes nor sends compressed messages.
    ("grpc.compression_enabled_algorithms_bitset", 1),
)


class StartFailed(Exception):
    """The server cannot start; ``str()`` is one sentence that says why."""


class _Observer:
    """Tells the metrics and the health what the inference thread does."""

    def __init__(self, metrics: Metrics, health: Health) -> None:
        self._metrics = metrics
        self._health = health
        self._loop = asyncio.get_running_loop()
        self.batch_taken = metrics.batch_taken
        self.dropped = metrics.dropped

    def batch_ended(self, error: Exception | None) -> None:
        if error is not None:
            _log.error("A batch failed: %s", error)
            self._loop.call_soon_threadsafe(self._health.batch_failed)


class Engine:
    """One model's server, put together but not listening.

    Must be made on the event loop that will serve.

    Ownership:
        `start` begins to listen, `stop` ends everything that this object has made.
    """

    def __init__(self, model: LoadedModel, flags: Flags) -> None:
        self._flags = flags
        self._metrics = Metrics(model.tokenizer.max_length)
        self._health = Health(model.config.kind, self._probe)
        observer = _Observer(self._metrics, self._health)
        self._batcher = Batcher(
            model.encoder, observer, flags.max_batch_tokens, flags.max_batch_requests
        )
        self._pipeline = Pipeline(
            model.tokenizer,
            self._batcher,
            model.config.prompts,
            model.default_prompt,
            flags.tokenization_workers,
        )
        self._probe_tokens = TokenIds([model.config.pad_id], [0])
        self._server = grpc.aio.server(
            interceptors=[ApiKey(flags.api_key)] if flags.api_key is not None else [],
            options=_OPTIONS,
        )
        self._server.add_generic_rpc_handlers(self._handlers(model))

    def _handlers(self, model: LoadedModel) -> list[grpc.GenericRpcHandler[object, object]]:
        window = _stream_window()
        permits = Permits(self._flags.max_concurrent_requests)
        pipeline, metrics, config = self._pipeline, self._metrics, model.config
        embed = EmbedService(pipeline, config.pooling, model.dense, metrics)
        predict = PredictService(pipeline, config.labels, metrics)
        texts = self._flags.max_client_batch_size
        rerank = RerankService(pipeline, config.kind, metrics, permits, texts)
        return [
            embed_handlers(embed, metrics, permits, window),
            predict_handlers(predict, metrics, permits, window),
            rerank_handlers(rerank, metrics),
            tokenize_handlers(TokenizeService(pipeline), window),
            info_handlers(self._flags, config.kind, model.tokenizer.max_length),
            self._health.handlers(),
            *reflection_handlers(),
        ]

    async def _probe(self) -> Inferred:
        return await self._batcher.submit(self._probe_tokens, _nothing)

    async def start(self) -> None:
        """Bind both ports and serve.

        Raises:
            StartFailed: A port is taken.
        """
        host, port = self._flags.hostname, self._flags.prometheus_port
        try:
            self._exporter = Exporter(self._metrics, host, port)
        except OSError as error:
            raise StartFailed(
                f"Cannot serve metrics on {_address(host, port)}: {error.strerror};"
                " choose another --prometheus-port"
            ) from error
        try:
            bound = self._server.add_insecure_port(_address(host, self._flags.port))
        except RuntimeError as error:
            self._exporter.close()
            raise StartFailed(
                f"Cannot listen on {_address(host, self._flags.port)}; choose another --port"
            ) from error
        self._batcher.start()
        await self._server.start()
        _log.info("Starting gRPC server: %s", _address(host, bound))
        _log.info("Ready")

    async def stop(self, hurry: asyncio.Event) -> None:
        """Drain and end; ``hurry`` cuts the draining short."""
        await self._health.close()
        draining = asyncio.create_task(self._server.stop(DRAIN_SECONDS))
        hurried = asyncio.create_task(hurry.wait())
        await asyncio.wait((draining, hurried), return_when=asyncio.FIRST_COMPLETED)
        hurried.cancel()
        if not draining.done():
            await self._server.stop(0)
        await draining
        self._batcher.close()
        self._pipeline.close()
        self._exporter.close()


async def serve(model: LoadedModel, flags: Flags) -> None:
    """Serve until a signal says to stop.

    Raises:
        StartFailed: A port is taken, or a variable of the environment is wrong.
    """
    engine = Engine(model, flags)
    stop, hurry = asyncio.Event(), asyncio.Event()
    loop = asyncio.get_running_loop()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, _signalled, stop, hurry)
    await engine.start()
    # What start-up made stays for good; the collector need not look at it again.
    gc.collect()
    gc.freeze()
    await stop.wait()
    _log.info("Stopping")
    await engine.stop(hurry)


def _signalled(stop: asyncio.Event, hurry: asyncio.Event) -> None:
    (hurry if stop.is_set() else stop).set()


def _stream_window() -> int:
    text = os.environ.get(_STREAM_WINDOW_VARIABLE, str(STREAM_WINDOW))
    if not text.isdecimal() or int(text) < 1:
        raise StartFailed(f"{_STREAM_WINDOW_VARIABLE} must be a positive integer, not '{text}'")
    return int(text)


def _address(host: str, port: int) -> str:
    return f"[{host}]:{port}" if ":" in host else f"{host}:{port}"


def _nothing(_output: Output) -> Array:
    return np.empty(0, np.float32)
