from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest
from safetensors.numpy import save_file

from tei_manager.engine import graph_cache
from tei_manager.engine.model import ModelUnusable


@pytest.fixture
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setattr(graph_cache, "user_cache_path", lambda name: tmp_path / "home" / name)
    return tmp_path / "home/tei-manager/graphs"


def test_the_second_start_finds_the_first_ones_graph(
    home: Path, make_model: Callable[..., Any]
) -> None:
    directory, config, _ = make_model()
    first = graph_cache.graph_file(directory, config)
    written = first.stat().st_mtime_ns
    assert graph_cache.graph_file(directory, config) == first
    assert first.stat().st_mtime_ns == written
    assert [path.name for path in home.iterdir()] == [first.parent.name], "no draft is left"


def test_changed_weights_get_a_graph_of_their_own(
    home: Path, make_model: Callable[..., Any]
) -> None:
    directory, config, weights = make_model()
    first = graph_cache.graph_file(directory, config)
    weights["embeddings.LayerNorm.bias"] += 1
    save_file(weights, directory / "model.safetensors")
    assert graph_cache.graph_file(directory, config) != first


def test_two_engines_may_build_the_same_graph_at_once(
    home: Path, make_model: Callable[..., Any]
) -> None:
    directory, config, _ = make_model()
    with ThreadPoolExecutor(4) as threads:
        found = list(threads.map(lambda _: graph_cache.graph_file(directory, config), range(4)))
    assert len(set(found)) == 1
    assert len(list(home.iterdir())) == 1


def test_a_repositorys_own_graph_is_taken_as_it_is(
    home: Path, make_model: Callable[..., Any]
) -> None:
    directory, config, _ = make_model()
    own = directory / "onnx/model.onnx"
    own.parent.mkdir()
    own.touch()
    assert graph_cache.graph_file(directory, config) == own
    assert not home.exists()


def test_a_model_without_weights_is_named(home: Path, make_model: Callable[..., Any]) -> None:
    directory, config, _ = make_model()
    (directory / "model.safetensors").unlink()
    with pytest.raises(ModelUnusable, match=r"neither onnx/model\.onnx nor model\.safetensors"):
        graph_cache.graph_file(directory, config)


def test_a_cache_that_cannot_be_written_says_where_it_is(
    home: Path, make_model: Callable[..., Any]
) -> None:
    directory, config, _ = make_model()
    home.parent.mkdir(parents=True)
    home.touch()
    with pytest.raises(ModelUnusable, match=f"Cannot keep the model's graph in '{home}'"):
        graph_cache.graph_file(directory, config)
