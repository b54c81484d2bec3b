"""Run a graph on a batch of token lists with ONNX Runtime.

Takes the graphs of `graph` and those that published repositories carry: inputs are given by the
names and integer types that the graph asks for, and outputs are known by the names that exporters
give them. Rows are filled on the right, and what comes out is handed on for each text without its
padding, so that nobody above can let a batch change an answer.

A tokenizer may want its padding on the left. For the vectors of tokens that makes no difference
here. A graph that pools them itself may take the last column for the text's, and would find padding
there; filled on the left, one that counts positions by columns would count them wrong. Such a graph
runs texts of one length at a time, without any padding.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime as ort  # type: ignore[import-untyped]
from numpy.typing import NDArray

from tei_manager.engine.kinds import Head
from tei_manager.engine.model import ModelUnusable
from tei_manager.engine.tokenizer import TokenIds

_INTEGERS: dict[str, type[np.signedinteger[Any]]] = {
    "tensor(int64)": np.int64,
    "tensor(int32)": np.int32,
}

# Outputs of encoders with one vector for each text, made by the graph, and for each token. TEI
# takes the first of the first kind, else the first of the second.
_TEXT_OUTPUTS = ("sentence_embedding",)
_TOKEN_OUTPUTS = ("last_hidden_state", "token_embeddings")

# The output of a graph with a head: for each text, or for each token of a masked language model.
_LOGITS = ("logits",)

# How the threads of a run wait for each other. They sleep between runs: the core belongs to gRPC
# and the tokenizer then. Within a run they spin from one operator to the next, some 20 µs for a
# short text, and no longer: where another engine has the core, a thread would otherwise spin for as
# long as its sibling is not scheduled. Work is cut into more blocks than there are threads, so that
# one that comes late finds less left. With a second engine at work on the same two cores, 8 x 32
# tokens take 53 ms so, and 135 ms with spinning at will. A runtime passes names over that it does
# not know.
_THREADING = {
    "session.force_spinning_stop": "1",
    "session.intra_op.spin_duration_us": "50",
    "session.dynamic_block_base": "4",
}

Integers = NDArray[np.int64]
Array = NDArray[np.float32]


@dataclass(frozen=True, slots=True)
class Output:
    """What the model gave for one text; views of larger arrays, to be copied if kept.

    Args:
        tokens: One row for each token, special ones included; ``None`` if the graph has no such
            output.
        text: One vector for the whole text, made by the graph itself; ``None`` likewise.
    """

    tokens: Array | None
    text: Array | None


class Encoder:
    """A loaded model.

    One call of `run` at a time is meant: the threads inside a call are what keeps the
    cores busy. Calls from several threads are safe and slower.

    Args:
        path: The ONNX file.
        head: Whether the encoder's own outputs are wanted or those of a head.
        pad_id: What fills short rows.
        threads: Cores that one call may use.
        pads_left: Whether the model's tokenizer pads on the left.

    Raises:
        ModelUnusable: The file cannot be loaded, or asks for inputs or gives outputs that no
            encoder has.
    """

    def __init__(
        self, path: Path, head: Head, pad_id: int, threads: int, pads_left: bool = False
    ) -> None:
        self._pad_id = pad_id
        try:
            self._session = ort.InferenceSession(
                str(path), _options(threads), providers=["CPUExecutionProvider"]
            )
        except Exception as error:  # the runtime's own classes share no base of their own
            reason = str(error).partition("\n")[0]
            raise ModelUnusable(f"ONNX Runtime cannot load '{path}': {reason}") from error
        self._inputs = [
            (entry.name, _integer_type(entry.type, path), _known_input(entry.name, path))
            for entry in self._session.get_inputs()
        ]
        names = [entry.name for entry in self._session.get_outputs()]
        self._outputs = _choose_outputs(names, head, path)
        self._one_length = pads_left and any(name in _TEXT_OUTPUTS for name in self._outputs)

    def run(self, batch: Sequence[TokenIds]) -> list[Output]:
        """Return what the model makes of each text.

        Args:
            batch: One or more texts, of any lengths.

        Raises:
            Exception: Whatever the runtime raises when it cannot run the graph.
        """
        if not self._one_length:
            return self._run(batch)
        outputs: dict[int, Output] = {}
        for length in {len(text) for text in batch}:
            rows = [row for row, text in enumerate(batch) if len(text) == length]
            outputs |= zip(rows, self._run([batch[row] for row in rows]), strict=True)
        return [outputs[row] for row in range(len(batch))]

    def _run(self, batch: Sequence[TokenIds]) -> list[Output]:
        longest = max(map(len, batch))
        arrays = [(name, kind, make(self, batch, longest)) for name, kind, make in self._inputs]
        feed = {name: array.astype(kind, copy=False) for name, kind, array in arrays}
        found = self._session.run(self._outputs, feed)
        by_rank = {array.ndim: array.astype(np.float32, copy=False) for array in found}
        tokens, text = by_rank.get(3), by_rank.get(2)
        return [
            Output(
                tokens=None if tokens is None else tokens[row, : len(entry)],
                text=None if text is None else text[row],
            )
            for row, entry in enumerate(batch)
        ]

    def ids(self, batch: Sequence[TokenIds], longest: int) -> Integers:
        """Return token ids, rows filled on the right."""
        return _padded([text.ids for text in batch], longest, self._pad_id)

    def type_ids(self, batch: Sequence[TokenIds], longest: int) -> Integers:
        """Return token types, rows filled on the right."""
        return _padded([text.type_ids for text in batch], longest, 0)

    def mask(self, batch: Sequence[TokenIds], longest: int) -> Integers:
        """Return 1 for tokens and 0 for padding."""
        lengths = np.array([len(text) for text in batch])
        return (np.arange(longest) < lengths[:, None]).astype(np.int64)

    def positions(self, batch: Sequence[TokenIds], longest: int) -> Integers:
        """Return 0, 1, 2 and so on for each row; TEI gives the same whatever the family."""
        return np.tile(np.arange(longest, dtype=np.int64), (len(batch), 1))


_Maker = Callable[[Encoder, Sequence[TokenIds], int], Integers]

_MAKERS: dict[str, _Maker] = {
    "input_ids": Encoder.ids,
    "attention_mask": Encoder.mask,
    "token_type_ids": Encoder.type_ids,
    "position_ids": Encoder.positions,
}


def _options(threads: int) -> ort.SessionOptions:
    options = ort.SessionOptions()
    options.intra_op_num_threads = threads
    options.inter_op_num_threads = 1
    options.log_severity_level = 4  # fatal ones: what it raises is reported from here
    for name, value in _THREADING.items():
        options.add_session_config_entry(name, value)
    return options


def _padded(rows: list[list[int]], longest: int, fill: int) -> Integers:
    array = np.full((len(rows), longest), fill, dtype=np.int64)
    for index, row in enumerate(rows):
        array[index, : len(row)] = row
    return array


def _integer_type(name: str, path: Path) -> type[np.signedinteger[Any]]:
    if name not in _INTEGERS:
        raise ModelUnusable(f"The graph '{path}' wants an input of type {name}")
    return _INTEGERS[name]


def _known_input(name: str, path: Path) -> _Maker:
    if name not in _MAKERS:
        raise ModelUnusable(f"The graph '{path}' wants an input '{name}' that encoders do not have")
    return _MAKERS[name]


def _choose_outputs(names: list[str], head: Head, path: Path) -> list[str]:
    """Return what to ask the graph for: at most one output of each kind."""
    kinds = (_TEXT_OUTPUTS, _TOKEN_OUTPUTS) if head is Head.NONE else (_LOGITS,)
    chosen = [next((name for name in kind if name in names), None) for kind in kinds]
    if not any(chosen):
        wanted = " or ".join(name for kind in kinds for name in kind)
        raise ModelUnusable(f"The graph '{path}' has outputs {names}, none of them {wanted}")
    return [name for name in chosen if name is not None]
