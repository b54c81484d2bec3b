from __future__ import annotations

from collections.abc import Callable
from typing import Any

import grpc
import httpx
import pytest

from tei_manager.engine.cost import Cost
from tei_manager.engine.metrics import Exporter, Metrics
from tei_manager.grpc.proto.tei.v1 import tei_pb2, tei_pb2_grpc


def _series(metrics: str, path: str = "/metrics") -> dict[str, float]:
    text = httpx.get(f"http://{metrics}{path}").text
    rows = [line.rpartition(" ") for line in text.splitlines() if not line.startswith("#")]
    return {name: float(value) for name, _, value in rows}


def test_calls_are_counted_under_the_routers_names(
    make_model: Callable[..., Any], start_engine: Callable[..., Any]
) -> None:
    directory, _, _ = make_model()
    engine = start_engine(directory)
    with grpc.insecure_channel(engine.address) as channel:
        embed: Any = tei_pb2_grpc.EmbedStub(channel)
        rerank: Any = tei_pb2_grpc.RerankStub(channel)
        embed.Embed(tei_pb2.EmbedRequest(inputs="a b"))
        assert len(list(embed.EmbedStream(tei_pb2.EmbedRequest(inputs="a") for _ in range(3)))) == 3
        for call, request in (
            (embed.Embed, tei_pb2.EmbedRequest()),
            (rerank.Rerank, tei_pb2.RerankRequest(texts=["a"])),
        ):
            with pytest.raises(grpc.RpcError):
                call(request)
    series = _series(engine.metrics)
    assert series['te_request_count{method="single"}'] == 2
    assert series['te_request_success{method="single"}'] == 1
    assert series['te_request_count{method="batch"}'] == 1
    assert series['te_request_failure{err="validation"}'] == 1
    assert series['te_request_failure{err="model_type"}'] == 1
    assert (series["te_embed_count"], series["te_embed_success"]) == (5, 4)
    assert series["te_request_duration_count"] == series["te_embed_duration_count"] == 4
    assert series["te_request_input_length_sum"] == 4 + 3 * 3
    assert series["te_batch_next_size_sum"] == 4
    assert series["te_queue_size"] == 0
    assert not [name for name in series if name.endswith(("_total", "_created"))]


def test_texts_of_a_ranking_are_predictions_and_the_call_is_one_request(
    make_model: Callable[..., Any], start_engine: Callable[..., Any]
) -> None:
    engine = start_engine(make_model("bert", "reranker").directory)
    with grpc.insecure_channel(engine.address) as channel:
        rerank: Any = tei_pb2_grpc.RerankStub(channel)
        rerank.Rerank(tei_pb2.RerankRequest(query="a", texts=["b", "c", "d"]))
    series = _series(engine.metrics)
    assert series['te_request_count{method="batch"}'] == 1
    assert series['te_request_success{method="batch"}'] == 1
    assert (series["te_predict_count"], series["te_predict_success"]) == (3, 3)
    assert series["te_predict_duration_count"] == series["te_request_input_length_count"] == 3
    assert series["te_request_duration_count"] == 1


@pytest.fixture
def exported() -> Any:
    metrics = Metrics(256)
    exporter = Exporter(metrics, "127.0.0.1", 0)
    yield metrics, exporter.address
    exporter.close()


def test_any_path_shows_the_metrics_and_health_says_ok(exported: Any) -> None:
    _, address = exported
    assert "te_queue_size" in _series(address, "/")
    answer = httpx.get(f"http://{address}/health")
    assert (answer.status_code, answer.text) == (200, "OK")


def test_buckets_are_the_routers(exported: Any) -> None:
    metrics, address = exported
    cost = Cost(1, 2, 3, 4, 5, 6)
    metrics.text_succeeded("predict", cost)
    metrics.request_took(cost)
    names = [name for name in _series(address) if "_bucket" in name]
    bounds = {
        series: [float(name.split('"')[1]) for name in names if name.startswith(f"{series}_b")]
        for series in ("te_request_duration", "te_request_input_length", "te_batch_next_tokens")
    }
    seconds = bounds["te_request_duration"]
    assert (len(seconds), seconds[0]) == (36, 1.5e-05)
    assert seconds[-2] == pytest.approx(14.56, abs=0.01)
    assert bounds["te_request_input_length"][-2] == 256
    assert bounds["te_batch_next_tokens"][-2] == 2**20
