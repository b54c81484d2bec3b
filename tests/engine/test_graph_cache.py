from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest
from safetensors.numpy import save_file

from tei_manager.engine import graph_cache
from tei_manager.engine.kinds import Head
from tei_manager.engine.model import ModelUnusable


@pytest.fixture
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setattr(graph_cache, "user_cache_path", lambda name: tmp_path / "home" / name)
    return tmp_path / "home/tei-manager/graphs"


def _file(directory: Path, config: dict[str, Any], head: Head = Head.NONE) -> Path:
    return graph_cache.graph_file(directory, config, head, "float32")


def test_the_second_start_finds_the_first_ones_graph(
    home: Path, make_model: Callable[..., Any]
) -> None:
    directory, config, _ = make_model()
    first = _file(directory, config)
    written = first.stat().st_mtime_ns
    assert _file(directory, config) == first
    assert first.stat().st_mtime_ns == written
    assert [path.name for path in home.iterdir()] == [first.parent.name], "no draft is left"


def test_changed_weights_get_a_graph_of_their_own(
    home: Path, make_model: Callable[..., Any]
) -> None:
    directory, config, weights = make_model()
    first = _file(directory, config)
    weights["embeddings.LayerNorm.bias"] += 1
    save_file(weights, directory / "model.safetensors")
    assert _file(directory, config) != first


def test_two_engines_may_build_the_same_graph_at_once(
    home: Path, make_model: Callable[..., Any]
) -> None:
    directory, config, _ = make_model()
    with ThreadPoolExecutor(4) as threads:
        found = list(threads.map(lambda _: _file(directory, config), range(4)))
    assert len(set(found)) == 1
    assert len(list(home.iterdir())) == 1


def test_a_repositorys_own_graph_is_taken_as_it_is(
    home: Path, make_model: Callable[..., Any]
) -> None:
    directory, config, _ = make_model()
    own = directory / "onnx/model.onnx"
    own.parent.mkdir()
    own.touch()
    assert _file(directory, config) == own
    assert not home.exists()


def test_each_head_has_a_graph_of_its_own(home: Path, make_model: Callable[..., Any]) -> None:
    directory, config, _ = make_model(head="splade")
    assert _file(directory, config) != _file(directory, config, Head.MASKED_LM)


@pytest.mark.parametrize(
    ("dtype", "name"),
    [
        ("float16", "onnx/model_fp16.onnx"),
        ("int8", "onnx/model_quantized.onnx"),
        ("uint8", "onnx/model_quint8_avx2.onnx"),
        ("float32", "model.onnx"),
    ],
)
def test_a_dtype_chooses_among_the_repositorys_own_graphs(
    dtype: str, name: str, home: Path, make_model: Callable[..., Any]
) -> None:
    directory, config, _ = make_model()
    (directory / "onnx").mkdir()
    (directory / name).touch()
    assert graph_cache.graph_file(directory, config, Head.NONE, dtype) == directory / name


def test_a_dtype_that_the_repository_lacks_is_named_with_what_was_looked_for(
    home: Path, make_model: Callable[..., Any]
) -> None:
    directory, config, _ = make_model()
    with pytest.raises(ModelUnusable, match=r"no float16 graph; looked for onnx/model_fp16\.onnx"):
        graph_cache.graph_file(directory, config, Head.NONE, "float16")


def test_a_model_without_weights_is_named(home: Path, make_model: Callable[..., Any]) -> None:
    directory, config, _ = make_model()
    (directory / "model.safetensors").unlink()
    with pytest.raises(ModelUnusable, match=r"neither onnx/model\.onnx nor model\.safetensors"):
        _file(directory, config)


def test_a_cache_that_cannot_be_written_says_where_it_is(
    home: Path, make_model: Callable[..., Any]
) -> None:
    directory, config, _ = make_model()
    home.parent.mkdir(parents=True)
    home.touch()
    with pytest.raises(ModelUnusable, match=f"Cannot keep the model's graph in '{home}'"):
        _file(directory, config)
