"""Model directories that are broken or say what cannot be served: one sentence, and exit code 1."""

from __future__ import annotations

import json
import os
import struct
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from safetensors.numpy import save_file

import numpy_encoder
from tei_manager.engine import graph_cache, main
from tei_manager.engine.checkpoint import INDEX, WEIGHTS
from tei_manager.engine.flags import parse_flags
from tei_manager.engine.loading import load
from tei_manager.engine.tokenizer import TokenIds
from tiny_models import TinyModel

MakeModel = Callable[..., TinyModel]
Break = Callable[[TinyModel], object]

CANNOT_READ = "Cannot read the weights"
DEEP = '{"a":' * 100_000
UNREADABLE: dict[str, str | bytes] = {
    "too deep": DEEP,
    "octets": b"\xff\xfe\0",
    "empty": "",
    "null": "null",
    "a number of 5000 digits": f'{{"max_seq_length": {"9" * 5000}}}',
}


@pytest.fixture
def ends(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> Callable[..., tuple[int, list[str]]]:
    """Return a starter of the program in this process: its exit code and its lines on stderr."""
    monkeypatch.setattr(graph_cache, "user_cache_path", lambda name: tmp_path / "cache" / name)
    monkeypatch.setattr(main, "start_logging", lambda *_, **__: None)
    monkeypatch.setattr(os, "environ", dict(os.environ))

    def end(*flags: str) -> tuple[int, list[str]]:
        code = main.main(["--intra-op-threads", "1", *flags])
        return code, capsys.readouterr().err.splitlines()

    return end


def _text(name: str, content: str | bytes) -> Break:
    def write(model: TinyModel) -> None:
        (model.directory / name).parent.mkdir(exist_ok=True)
        raw = content.encode() if isinstance(content, str) else content
        (model.directory / name).write_bytes(raw)

    return write


def _config(**changes: Any) -> Break:
    return lambda model: _text("config.json", json.dumps(model.config | changes))(model)


def _modules(*kinds: str) -> Break:
    return _text(
        "modules.json",
        json.dumps(
            [{"type": f"sentence_transformers.models.{kind}", "path": ""} for kind in kinds]
        ),
    )


def _dense(**shapes: tuple[int, ...]) -> Break:
    def write(model: TinyModel) -> None:
        (model.directory / "2_Dense").mkdir()
        (model.directory / "2_Dense/config.json").write_text("{}")
        tensors = {f"linear.{name}": np.ones(shape, np.float32) for name, shape in shapes.items()}
        save_file(tensors, model.directory / "2_Dense/model.safetensors")
        rows = [{"type": "sentence_transformers.models.Dense", "path": "2_Dense"}]
        (model.directory / "modules.json").write_text(json.dumps(rows))

    return write


def _index(shard: str) -> Break:
    def write(model: TinyModel) -> None:
        (model.directory / WEIGHTS).unlink()
        (model.directory / INDEX).write_text(json.dumps({"weight_map": {"a": shard}}))

    return write


def _header(size: int, header: bytes = b"{}") -> Break:
    return _text(WEIGHTS, struct.pack("<Q", size) + header)


def _claims(shape: list[int], octets: int) -> Break:
    header = json.dumps({"a": {"dtype": "F32", "shape": shape, "data_offsets": [0, octets]}})
    return _header(len(header), header.encode())


def _cut(octets: int) -> Break:
    def cut(model: TinyModel) -> None:
        file = model.directory / WEIGHTS
        file.write_bytes(file.read_bytes()[:octets])

    return cut


def _raw(kind: str, width: int) -> Break:
    """Write the weights as a kind that NumPy does not have, all zeros."""

    def write(model: TinyModel) -> None:
        shapes = {name: list(tensor.shape) for name, tensor in model.weights.items()}
        _write_raw(model.directory / WEIGHTS, kind, {
            name: (shape, bytes(int(np.prod(shape)) * width)) for name, shape in shapes.items()
        })  # fmt: skip

    return write


def _write_raw(file: Path, kind: str, tensors: Mapping[str, tuple[list[int], bytes]]) -> None:
    header, data = {}, b""
    for name, (shape, octets) in tensors.items():
        place = [len(data), len(data) + len(octets)]
        header[name] = {"dtype": kind, "shape": shape, "data_offsets": place}
        data += octets
    text = json.dumps(header).encode()
    file.write_bytes(struct.pack("<Q", len(text)) + text + data)


def _saved(change: Callable[[dict[str, Any]], Any]) -> Break:
    def save(model: TinyModel) -> None:
        change(model.weights)
        save_file(model.weights, model.directory / WEIGHTS)

    return save


def _integers(weights: dict[str, Any]) -> None:
    weights.update({name: tensor.astype(np.int8) for name, tensor in weights.items()})


def _without(name: str) -> Break:
    return lambda model: (model.directory / name).unlink()


def _folder(name: str) -> Break:
    def replace(model: TinyModel) -> None:
        (model.directory / name).unlink()
        (model.directory / name).mkdir()

    return replace


BROKEN: dict[str, tuple[Break, str]] = {
    "no tokenizer": (_without("tokenizer.json"), "Cannot read the tokenizer"),
    "tokenizer is a folder": (_folder("tokenizer.json"), "Cannot read the tokenizer"),
    "tokenizer of octets": (_text("tokenizer.json", b"\xff\xfe\0"), "Cannot read the tokenizer"),
    "tokenizer too deep": (_text("tokenizer.json", DEEP), "Cannot read the tokenizer"),
    "no description": (_without("config.json"), "has no config.json"),
    "description is a folder": (_folder("config.json"), "Cannot read config.json"),
    "relative positions": (_config(position_embedding_type="relative_key"), "'relative_key'"),
    "a decoder": (_config(is_decoder=True), "has `is_decoder`"),
    "activation of lines": (_config(hidden_act="a\nb"), "activation 'a b' is not known"),
    "norm of infinity": (_config(layer_norm_eps=float("inf")), "'layer_norm_eps'"),
    "norm below zero": (_config(layer_norm_eps=-1), "'layer_norm_eps'"),
    "padding beyond words": (_config(pad_token_id=10**30), "cannot run 1 tokens"),
    "no weights": (_without(WEIGHTS), "neither onnx/model.onnx nor model.safetensors"),
    "no octet of weights": (_text(WEIGHTS, b""), CANNOT_READ),
    "header without end": (_cut(50), CANNOT_READ),
    "tensors without end": (_cut(3000), CANNOT_READ),
    "header of an exabyte": (_header(2**60), CANNOT_READ),
    "header of every octet": (_header(2**64 - 1), CANNOT_READ),
    "header too deep": (_header(len(DEEP), DEEP.encode()), CANNOT_READ),
    "tensor of terabytes": (_claims([2**40], 2**42), CANNOT_READ),
    "tensor of too few octets": (_claims([3], 4), CANNOT_READ),
    "missing tensor": (
        _saved(lambda weights: weights.pop("encoder.layer.1.output.dense.bias")),
        "lack the tensor 'encoder.layer.1.output.dense.bias'",
    ),
    "integers for weights": (_saved(_integers), "is of type I8"),
    "floats of 8 bits": (_raw("F8_E4M3", 1), "is of type F8_E4M3"),
    "shard elsewhere": (_index("../model.safetensors"), "files of other folders"),
    "shard is the folder above": (_index(".."), "lacks .."),
    "shard with a NUL": (_index("a\0b"), "lacks a"),
    "shard with a line end": (_index("a\nb"), "lacks a b, which"),
    "graph of nothing": (_text("onnx/model.onnx", b""), "ONNX Runtime cannot load"),
    "graph of octets": (_text("model.onnx", b"\x99" * 999), "ONNX Runtime cannot load"),
    "a module of another kind": (_modules("Transformer", "LSTM"), "a module 'LSTM'"),
    "a Dense module without files": (_modules("Dense"), "Cannot read the Dense module"),
    "Dense of no vector": (_dense(weight=(16,)), "Cannot read the Dense module"),
    "Dense of a cube": (_dense(weight=(2, 16, 2)), "Cannot read the Dense module"),
    "Dense with a bias of its own": (_dense(weight=(3, 16), bias=(5, 3)), "Cannot read the Dense"),
    **{
        f"{name}: {kind}": (_text(name, content), name)
        for name in (
            *("config.json", "tokenizer_config.json", "1_Pooling/config.json", "modules.json"),
            *("sentence_bert_config.json", "config_sentence_transformers.json"),
        )
        for kind, content in UNREADABLE.items()
    },
}


@pytest.mark.parametrize("case", BROKEN)
def test_a_broken_model_ends_the_program_with_one_sentence_and_1(
    case: str, make_model: MakeModel, ends: Callable[..., tuple[int, list[str]]]
) -> None:
    breaks, sentence = BROKEN[case]
    model = make_model()
    breaks(model)
    code, lines = ends("--model-id", str(model.directory))
    assert (code, len(lines)) == (1, 1)
    assert lines[0].startswith("Error: ")
    assert sentence in lines[0]


def _half(weights: dict[str, Any]) -> None:
    weights.update({name: tensor.astype(np.float16) for name, tensor in weights.items()})


def _brain_floats(model: TinyModel) -> None:
    """Write the weights as bfloat16, the upper half of each float32."""
    tensors = {}
    for name, tensor in model.weights.items():
        upper = (tensor.view(np.uint32) >> 16).astype("<u2")
        tensors[name] = list(tensor.shape), upper.tobytes()
        model.weights[name] = (upper.astype(np.uint32) << 16).view(np.float32)
    _write_raw(model.directory / WEIGHTS, "BF16", tensors)


SOUND: dict[str, Break] = {
    "half precision": _saved(_half),
    "bfloat16": _brain_floats,
    "double precision": _saved(
        lambda weights: weights.update({n: t.astype(np.float64) for n, t in weights.items()})
    ),
    "a tensor more": _saved(lambda weights: weights.update({"more": np.ones((2, 2, 2), "f4")})),
    "a length of 1e30": _text("tokenizer_config.json", '{"model_max_length": 1e30}'),
    "padding on the left": _text("tokenizer_config.json", '{"padding_side": "left"}'),
    "modules that change nothing": _modules("Transformer", "Pooling", "Dropout", "Normalize"),
}


@pytest.mark.parametrize("case", SOUND)
def test_what_looks_odd_and_is_sound_gives_the_definitions_vectors(
    case: str, make_model: MakeModel, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(graph_cache, "user_cache_path", lambda name: tmp_path / "cache" / name)
    model = make_model()
    SOUND[case](model)
    loaded = load(parse_flags(["--model-id", str(model.directory), "--intra-op-threads", "1"], {}))
    (output,) = loaded.encoder.run([TokenIds([2, 4, 9, 3], [0] * 4)])
    assert output.tokens is not None
    expected = numpy_encoder.forward(model.config, model.weights, [2, 4, 9, 3])
    np.testing.assert_allclose(output.tokens, expected, atol=1e-4)
