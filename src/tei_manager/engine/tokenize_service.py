"""``tei.v1.Tokenize``: text to tokens with byte offsets, and ids to text. Needs no permit."""

from __future__ import annotations

from functools import partial

import grpc

from tei_manager.engine.pipeline import Pipeline
from tei_manager.engine.refusals import empty, tokenizer_failed
from tei_manager.engine.rpc import Calls, Handler, Running
from tei_manager.engine.tokenizer import Token
from tei_manager.grpc.proto.tei.v1 import tei_pb2


class TokenizeService:
    """The tokenizer of one model.

    Args:
        pipeline: Has the tokenizer, the prompts and the threads for long texts.
    """

    def __init__(self, pipeline: Pipeline) -> None:
        self._pipeline = pipeline

    async def tokenize(self, request: tei_pb2.EncodeRequest) -> Running:
        """Answer with the tokens of a text."""
        prompt = request.prompt_name if request.HasField("prompt_name") else None
        text = request.inputs
        prefix = self._pipeline.prefix(text, prompt)
        call = partial(
            self._pipeline.tokenizer.tokens, prefix, text, special=request.add_special_tokens
        )
        tokens = await self._pipeline.tokenize(len(text), call)
        return Running.done(tei_pb2.EncodeResponse(tokens=map(_simple, tokens)))

    async def decode(self, request: tei_pb2.DecodeRequest) -> Running:
        """Answer with the text of token ids."""
        if not request.ids:
            raise empty("input_ids")
        try:
            text = self._pipeline.tokenizer.decode(
                list(request.ids), skip_special=request.skip_special_tokens
            )
        except Exception as error:  # the library raises bare Exception for every kind of mistake
            raise tokenizer_failed(str(error)) from error
        return Running.done(tei_pb2.DecodeResponse(text=text))


def _simple(token: Token) -> tei_pb2.SimpleToken:
    """Return a token as it is sent; offsets are left out of special ones."""
    start, stop = token.span or (None, None)
    special = token.span is None
    return tei_pb2.SimpleToken(
        id=token.id, text=token.text, special=special, start=start, stop=stop
    )


def tokenize_handlers(
    service: TokenizeService, window: int
) -> grpc.GenericRpcHandler[object, object]:
    """Return the methods of ``tei.v1.Tokenize``.

    Args:
        service: Answers them.
        window: Most items of one stream between reading and writing.
    """
    calls = Calls(window)
    methods: dict[str, Handler] = {
        "Tokenize": calls.unary(tei_pb2.EncodeRequest, service.tokenize),
        "TokenizeStream": calls.stream(tei_pb2.EncodeRequest, service.tokenize),
        "Decode": calls.unary(tei_pb2.DecodeRequest, service.decode),
        "DecodeStream": calls.stream(tei_pb2.DecodeRequest, service.decode),
    }
    return grpc.method_handlers_generic_handler("tei.v1.Tokenize", methods)
