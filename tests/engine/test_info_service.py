from __future__ import annotations

from collections.abc import Callable
from typing import Any

import grpc

from tei_manager import __version__
from tei_manager.grpc.proto.tei.v1 import tei_pb2, tei_pb2_grpc


def _info(channel: grpc.Channel) -> tei_pb2.InfoResponse:
    stub: Any = tei_pb2_grpc.InfoStub(channel)
    answer: tei_pb2.InfoResponse = stub.Info(tei_pb2.InfoRequest())
    return answer


def test_minilm_is_described_as_it_runs(channel: grpc.Channel) -> None:
    info = _info(channel)
    assert (info.version, info.model_id) == (__version__, "all-MiniLM-L6-v2")
    assert (info.model_dtype, info.model_type) == ("float32", tei_pb2.MODEL_TYPE_EMBEDDING)
    assert (info.max_input_length, info.max_batch_tokens) == (256, 16384)
    assert (info.max_concurrent_requests, info.max_client_batch_size) == (512, 32)
    for absent in ("sha", "docker_label", "model_sha", "max_batch_requests"):
        assert not info.HasField(absent)


def test_flags_show_and_the_token_budget_bounds_the_length(
    make_model: Callable[..., Any], start_engine: Callable[..., Any]
) -> None:
    directory, _, _ = make_model()
    flags = ("--max-batch-tokens", "16", "--revision", "abc", "--max-batch-requests", "4")
    with grpc.insecure_channel(start_engine(directory, *flags).address) as channel:
        info = _info(channel)
    assert (info.max_input_length, info.max_batch_tokens) == (16, 16)
    assert (info.model_sha, info.max_batch_requests) == ("abc", 4)
    assert info.model_id == str(directory)
