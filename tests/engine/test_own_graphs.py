"""Engines with a repository's own graph and with Dense modules, through gRPC."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import grpc
import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper
from safetensors.numpy import save_file

import numpy_encoder
from tei_manager.engine.graph.writer import write_graph
from tei_manager.engine.kinds import Head
from tei_manager.grpc.proto.tei.v1 import tei_pb2, tei_pb2_grpc
from tiny_models import TinyModel

Serve = Callable[..., Any]


@pytest.fixture
def serve(start_engine: Callable[..., Any]) -> Iterator[Serve]:
    """Return a starter of engines that gives a stub of Embed."""
    channels: list[grpc.Channel] = []

    def start(directory: Path, *flags: str) -> Any:
        channels.append(grpc.insecure_channel(start_engine(directory, *flags).address))
        return tei_pb2_grpc.EmbedStub(channels[-1])

    yield start
    for channel in channels:
        channel.close()


def _publish(model: TinyModel, name: str = "model", dtype: int = TensorProto.FLOAT) -> None:
    """Write the model's graph as a repository has it; weights alone are not enough then."""
    folder = model.directory / "onnx"
    folder.mkdir()
    write_graph(model.config, Head.NONE, [model.directory / "model.safetensors"], folder)
    graph = onnx.load(folder / "model.onnx")
    (last,) = graph.graph.output
    if name != "model":
        graph.graph.node.append(helper.make_node("Cast", [last.name], ["half"], to=dtype))
        graph.graph.node.append(helper.make_node("Identity", ["half"], ["token_embeddings"]))
        last.CopyFrom(helper.make_tensor_value_info("token_embeddings", dtype, ["b", "s", 16]))
        (folder / "model.onnx").unlink()
    onnx.save(graph, folder / f"{name}.onnx")
    (model.directory / "model.safetensors").unlink()


def _expected(model: TinyModel) -> Any:
    return numpy_encoder.forward(model.config, model.weights, [2, 4, 5, 3])


def test_a_published_graph_needs_no_weights(
    make_model: Callable[..., TinyModel], serve: Serve
) -> None:
    model = make_model()
    _publish(model)
    found = serve(model.directory).Embed(tei_pb2.EmbedRequest(inputs="a b", normalize=False))
    np.testing.assert_allclose(found.embeddings, _expected(model).mean(axis=0), atol=1e-4)


def test_a_graph_of_half_precision_is_chosen_by_its_dtype(
    make_model: Callable[..., TinyModel], serve: Serve
) -> None:
    model = make_model()
    _publish(model, "model_fp16", TensorProto.FLOAT16)
    stub = serve(model.directory, "--dtype", "float16")
    rows = stub.EmbedAll(tei_pb2.EmbedAllRequest(inputs="a b")).token_embeddings
    found = np.array([row.embeddings for row in rows])
    np.testing.assert_allclose(found, _expected(model), atol=5e-3)


def test_a_graph_that_pools_itself_has_no_tokens_to_show_and_the_process_lives(
    make_model: Callable[..., TinyModel], serve: Serve
) -> None:
    model = make_model()
    _publish(model)
    path = model.directory / "onnx/model.onnx"
    graph = onnx.load(path)
    graph.graph.node.append(
        helper.make_node("ReduceMax", ["last_hidden_state"], ["sentence_embedding"], axes=[1])
    )
    graph.graph.node[-1].attribute.append(helper.make_attribute("keepdims", 0))
    del graph.graph.output[:]
    graph.graph.output.append(
        helper.make_tensor_value_info("sentence_embedding", TensorProto.FLOAT, ["b", 16])
    )
    onnx.save(graph, path)
    stub = serve(model.directory)
    with pytest.raises(grpc.RpcError) as refusal:
        stub.EmbedAll(tei_pb2.EmbedAllRequest(inputs="a b"))
    error: Any = refusal.value
    assert error.code() is grpc.StatusCode.FAILED_PRECONDITION
    assert error.details() == "Backend error: the model's graph has no output for single tokens"
    found = stub.Embed(tei_pb2.EmbedRequest(inputs="a b", normalize=False)).embeddings
    np.testing.assert_allclose(found, _expected(model).max(axis=0), atol=1e-4)


def test_a_dense_module_changes_the_vector_and_its_size_but_not_the_tokens(
    make_model: Callable[..., TinyModel], serve: Serve
) -> None:
    model = make_model()
    weight = np.random.default_rng(3).normal(size=(5, 16)).astype(np.float32)
    (model.directory / "2_Dense").mkdir()
    save_file({"linear.weight": weight}, model.directory / "2_Dense/model.safetensors")
    (model.directory / "2_Dense/config.json").write_text(json.dumps({"bias": False}))
    rows = [{"path": "2_Dense", "type": "sentence_transformers.models.Dense"}]
    (model.directory / "modules.json").write_text(json.dumps(rows))
    stub = serve(model.directory)
    found = stub.Embed(tei_pb2.EmbedRequest(inputs="a b", normalize=False)).embeddings
    expected = np.tanh(weight @ _expected(model).mean(axis=0))
    np.testing.assert_allclose(found, expected, atol=1e-4)
    every = stub.EmbedAll(tei_pb2.EmbedAllRequest(inputs="a b"))
    assert len(every.token_embeddings[0].embeddings) == 16
