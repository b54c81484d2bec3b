from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from tei_manager.engine.config import Pooling, read_config
from tei_manager.engine.model import ModelUnusable


def _write(directory: Path, name: str, content: object) -> None:
    (directory / name).write_text(json.dumps(content))


def test_minilm_is_mean_pooled_and_reads_256_tokens_not_512(minilm: Path) -> None:
    config = read_config(minilm)
    assert (config.pooling, config.max_positions) == (Pooling.MEAN, 256)
    assert (config.pad_id, dict(config.prompts)) == (0, {})


def test_the_users_pooling_comes_before_the_models(make_model: Callable[..., Any]) -> None:
    directory, _, _ = make_model()
    assert read_config(directory, Pooling.CLS).pooling is Pooling.CLS


def test_cls_comes_before_mean_and_mean_before_last_token(make_model: Callable[..., Any]) -> None:
    directory, _, _ = make_model()
    names = ("pooling_mode_cls_token", "pooling_mode_mean_tokens", "pooling_mode_lasttoken")
    for first, expected in enumerate((Pooling.CLS, Pooling.MEAN, Pooling.LAST_TOKEN)):
        modes = {name: index >= first for index, name in enumerate(names)}
        _write(directory, "1_Pooling/config.json", modes)
        assert read_config(directory).pooling is expected


def test_a_bert_without_a_pooling_file_pools_its_first_token(
    make_model: Callable[..., Any],
) -> None:
    directory, _, _ = make_model()
    (directory / "1_Pooling/config.json").unlink()
    assert read_config(directory).pooling is Pooling.CLS


def test_roberta_positions_start_behind_the_padding(make_model: Callable[..., Any]) -> None:
    directory, _, _ = make_model(
        model_type="xlm-roberta", max_position_embeddings=514, pad_token_id=1
    )
    assert read_config(directory).max_positions == 512


def test_prompts_are_read(make_model: Callable[..., Any]) -> None:
    directory, _, _ = make_model()
    _write(directory, "config_sentence_transformers.json", {"prompts": {"query": "q: "}})
    assert read_config(directory).prompts == {"query": "q: "}


@pytest.mark.parametrize(
    ("name", "content", "sentence"),
    [
        ("config.json", [], "config.json of the model .* is not a JSON object"),
        ("config.json", {"model_type": "bert"}, "must have `architectures` and `model_type`"),
        (
            "config.json",
            {"model_type": "bert", "architectures": ["BertForSequenceClassification"]},
            "BertForSequenceClassification is a classifier",
        ),
        ("sentence_bert_config.json", {}, "must have a positive integer `max_seq_length`"),
        ("1_Pooling/config.json", {"pooling_mode_max_tokens": True}, "asks for none of"),
        (
            "modules.json",
            [{"type": "sentence_transformers.models.Dense"}],
            "has a Dense module, which tei-engine does not apply",
        ),
    ],
)
def test_a_description_that_cannot_be_followed_is_refused_by_name(
    name: str, content: object, sentence: str, make_model: Callable[..., Any]
) -> None:
    directory, _, _ = make_model()
    _write(directory, name, content)
    with pytest.raises(ModelUnusable, match=sentence):
        read_config(directory)


def test_splade_pooling_is_refused(make_model: Callable[..., Any]) -> None:
    directory, _, _ = make_model()
    with pytest.raises(ModelUnusable, match="masked language model head"):
        read_config(directory, Pooling.SPLADE)


def test_broken_json_is_named(make_model: Callable[..., Any]) -> None:
    directory, _, _ = make_model()
    (directory / "config.json").write_text("{")
    with pytest.raises(ModelUnusable, match=r"Cannot read config\.json"):
        read_config(directory)


def test_a_missing_description_is_named(tmp_path: Path) -> None:
    with pytest.raises(ModelUnusable, match=r"has no config\.json"):
        read_config(tmp_path)
