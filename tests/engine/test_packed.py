from __future__ import annotations

import numpy as np
import pytest

from tei_manager.engine.packed import rows_message, vector_message
from tei_manager.grpc.proto.tei.v1 import tei_pb2

METADATA = tei_pb2.Metadata(compute_chars=3, total_time_ns=2**40)


@pytest.mark.parametrize("size", [1, 31, 32, 4095, 4096, 70_000])
def test_a_vector_reads_as_the_library_would_have_written_it(size: int) -> None:
    vector = np.random.default_rng(1).normal(size=size).astype(np.float32)
    data = vector_message(vector, tei_pb2.EmbedResponse(metadata=METADATA))
    expected = tei_pb2.EmbedResponse(embeddings=vector.tolist(), metadata=METADATA)
    assert data == expected.SerializeToString()


@pytest.mark.parametrize("shape", [(1, 1), (3, 31), (2, 32), (2, 4096)])
def test_rows_read_as_the_library_would_have_written_them(shape: tuple[int, int]) -> None:
    rows = np.random.default_rng(1).normal(size=shape).astype(np.float32)
    data = rows_message(rows, tei_pb2.EmbedAllResponse(metadata=METADATA))
    tokens = [tei_pb2.TokenEmbedding(embeddings=row) for row in rows.tolist()]
    expected = tei_pb2.EmbedAllResponse(token_embeddings=tokens, metadata=METADATA)
    assert data == expected.SerializeToString()


def test_an_array_that_is_a_view_is_written_in_its_own_order() -> None:
    rows = np.arange(12, dtype=np.float32).reshape(3, 4).T
    found = tei_pb2.EmbedAllResponse.FromString(rows_message(rows, tei_pb2.EmbedAllResponse()))
    assert [list(row.embeddings) for row in found.token_embeddings] == rows.tolist()
