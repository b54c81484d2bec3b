from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from tei_manager.engine.config import read_config
from tei_manager.engine.kinds import Head, Kind, Pooling
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
    directory, _, _ = make_model("xlm-roberta", max_position_embeddings=514)
    assert read_config(directory).max_positions == 512


def test_a_roberta_that_names_no_padding_has_the_familys(make_model: Callable[..., Any]) -> None:
    directory = make_model("roberta", pad_token_id=None, eos_token_id=2).directory
    config = read_config(directory)
    assert (config.pad_id, config.max_positions) == (1, 22)


def test_mpnet_positions_start_there_too_unlike_in_the_router(
    make_model: Callable[..., Any],
) -> None:
    directory, _, _ = make_model("mpnet", max_position_embeddings=514)
    assert read_config(directory).max_positions == 512


@pytest.mark.parametrize(
    ("content", "left"),
    [({}, False), ({"padding_side": "right"}, False), ({"padding_side": "left"}, True)],
)
def test_the_side_of_the_padding_is_the_tokenizers(
    content: dict[str, str], left: bool, make_model: Callable[..., Any]
) -> None:
    directory, _, _ = make_model()
    assert not read_config(directory).pads_left
    _write(directory, "tokenizer_config.json", content)
    assert read_config(directory).pads_left is left


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
            "config.json of a classifier must have `id2label` and `label2id`",
        ),
        ("sentence_bert_config.json", {}, "must have a positive integer `max_seq_length`"),
        ("1_Pooling/config.json", {"pooling_mode_max_tokens": True}, "asks for none of"),
    ],
)
def test_a_description_that_cannot_be_followed_is_refused_by_name(
    name: str, content: object, sentence: str, make_model: Callable[..., Any]
) -> None:
    directory, _, _ = make_model()
    _write(directory, name, content)
    with pytest.raises(ModelUnusable, match=sentence):
        read_config(directory)


def test_splade_needs_a_masked_language_model(make_model: Callable[..., Any]) -> None:
    directory, _, _ = make_model()
    with pytest.raises(ModelUnusable, match=r"masked language model .*, and this is BertModel"):
        read_config(directory, Pooling.SPLADE)


@pytest.mark.parametrize(
    ("head", "pooling", "kind", "graph"),
    [
        ("embedding", None, Kind.EMBEDDING, Head.NONE),
        ("splade", Pooling.SPLADE, Kind.EMBEDDING, Head.MASKED_LM),
        ("splade", Pooling.CLS, Kind.EMBEDDING, Head.NONE),
        ("reranker", None, Kind.RERANKER, Head.CLASSIFIER),
        ("classifier", Pooling.MEAN, Kind.CLASSIFIER, Head.CLASSIFIER),
    ],
)
def test_the_architecture_says_what_a_model_is_for(
    head: str, pooling: Pooling | None, kind: Kind, graph: Head, make_model: Callable[..., Any]
) -> None:
    config = read_config(make_model(head=head).directory, pooling)
    assert (config.kind, config.head) == (kind, graph)
    assert (config.pooling is None) == (kind is not Kind.EMBEDDING)


def test_labels_come_in_the_order_of_their_numbers(make_model: Callable[..., Any]) -> None:
    labels = {str(index): f"label {index}" for index in reversed(range(12))}
    directory = make_model(head="classifier", id2label=labels).directory
    assert read_config(directory).labels == tuple(f"label {index}" for index in range(12))


def test_a_gap_in_the_labels_is_named(make_model: Callable[..., Any]) -> None:
    directory = make_model(head="classifier", id2label={"0": "a", "2": "b"}).directory
    with pytest.raises(ModelUnusable, match="has no label '1'"):
        read_config(directory)


def test_token_classification_without_labels_means_an_embedding_model(
    make_model: Callable[..., Any],
) -> None:
    directory = make_model(architectures=["NewForTokenClassification"]).directory
    assert read_config(directory).kind is Kind.EMBEDDING


def test_broken_json_is_named(make_model: Callable[..., Any]) -> None:
    directory, _, _ = make_model()
    (directory / "config.json").write_text("{")
    with pytest.raises(ModelUnusable, match=r"Cannot read config\.json"):
        read_config(directory)


def test_a_missing_description_is_named(tmp_path: Path) -> None:
    with pytest.raises(ModelUnusable, match=r"has no config\.json"):
        read_config(tmp_path)
