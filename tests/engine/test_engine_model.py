from __future__ import annotations

from pathlib import Path

import pytest

from tei_manager.engine.model import ModelUnusable, find_model


@pytest.fixture(autouse=True)
def _no_network_and_an_empty_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HF_HUB_CACHE", str(tmp_path / "hub"))
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)


def _cache(root: Path, model: str, revision: str) -> Path:
    """Lay out a downloaded model as the hub's library does."""
    repository = root / f"models--{model.replace('/', '--')}"
    snapshot = repository / "snapshots" / revision
    snapshot.mkdir(parents=True)
    (snapshot / "config.json").write_text("{}")
    (repository / "refs").mkdir(exist_ok=True)
    (repository / "refs/main").write_text(revision)
    return snapshot


@pytest.mark.parametrize("name", ["sentence-transformers/all-MiniLM-L6-v2", "all-MiniLM-L6-v2"])
def test_a_packaged_model_is_found_by_its_id_and_by_half_of_it(name: str, minilm: Path) -> None:
    assert find_model(name) == minilm


def test_a_directory_comes_before_everything(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "all-MiniLM-L6-v2").mkdir()
    assert find_model("all-MiniLM-L6-v2") == Path("all-MiniLM-L6-v2")


def test_the_cache_comes_before_a_package(tmp_path: Path) -> None:
    name = "sentence-transformers/all-MiniLM-L6-v2"
    snapshot = _cache(tmp_path / "hub", name, "0" * 40)
    assert find_model(name) == snapshot


def test_a_cache_directory_can_be_named(tmp_path: Path) -> None:
    snapshot = _cache(tmp_path / "elsewhere", "org/model", "1" * 40)
    assert find_model("org/model", cache=tmp_path / "elsewhere") == snapshot


def test_a_package_does_not_answer_for_a_revision() -> None:
    with pytest.raises(ModelUnusable, match="cannot be downloaded"):
        find_model("sentence-transformers/all-MiniLM-L6-v2", revision="2" * 40)


def test_an_unknown_model_is_one_sentence() -> None:
    with pytest.raises(ModelUnusable) as refusal:
        find_model("org/no-such-model")
    assert str(refusal.value).startswith("The model 'org/no-such-model' is no directory")
    assert "\n" not in str(refusal.value)


@pytest.mark.parametrize("name", ["./nowhere", "/nowhere/at/all", "some/deep/path"])
def test_a_path_that_is_not_there_is_never_looked_up_on_the_hub(name: str) -> None:
    with pytest.raises(ModelUnusable, match=f"The model directory '{name}' does not exist"):
        find_model(name)
