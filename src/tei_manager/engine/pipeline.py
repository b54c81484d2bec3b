"""The way of a text that all model RPCs share: prompt, checks, tokens, queue."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial
from typing import Any, TypeVar

from tei_manager.engine.batcher import Batcher, Inferred
from tei_manager.engine.cost import Cost
from tei_manager.engine.encoder import Array, Output
from tei_manager.engine.refusals import (
    empty,
    prompt_for_pair,
    tokenizer_failed,
    unknown_direction,
    unknown_prompt,
)
from tei_manager.engine.tokenizer import Direction, TokenIds, Tokenizer
from tei_manager.grpc.status import StatusError

# Texts up to this length are tokenised on the event loop: 0.4 ms at most, where the way to a
# thread and back costs 0.1 ms and a text of 64,000 characters would hold up all others for 14 ms.
INLINE_CHARACTERS = 2_000

_T = TypeVar("_T")


@dataclass(frozen=True, slots=True)
class Input:
    """One text with what the request says about it.

    Args:
        text: As it came.
        prompt_name: Names a prompt of the model; ``None`` leaves it to the server's default.
        cut: Which end to cut if the text is too long; ``None`` refuses such a text.
        second: A second text that the model reads with the first; most inputs have none.
    """

    text: str
    prompt_name: str | None
    cut: Direction | None
    second: str | None = None

    @property
    def characters(self) -> int:
        """Unicode scalar values, of both texts."""
        return len(self.text) + len(self.second or "")


@dataclass(frozen=True, slots=True)
class Work:
    """A text on its way through the model; times are nanoseconds on the monotonic clock."""

    future: asyncio.Future[Inferred]
    characters: int
    tokens: int
    started_ns: int
    tokenization_ns: int

    def abandon(self) -> None:
        """Withdraw the text; a failure that nobody will ask for is marked as seen."""
        abandon(self.future)

    def cost(self, inferred: Inferred) -> Cost:
        """Return what the work cost, up to now."""
        return Cost(
            characters=self.characters,
            tokens=self.tokens,
            total_ns=time.monotonic_ns() - self.started_ns,
            tokenization_ns=self.tokenization_ns,
            queue_ns=inferred.queue_ns,
            inference_ns=inferred.inference_ns,
        )


def abandon(future: asyncio.Future[Any]) -> None:
    """Cancel a future; a failure that nobody will ask for is marked as seen."""
    if not future.cancel() and not future.cancelled():
        future.exception()


def cut_of(truncate: bool, direction: int) -> Direction | None:
    """Return which end a request wants to be cut, ``None`` if it wants no truncation.

    Raises:
        Refusal: INVALID_ARGUMENT, the number is no direction, truncation or not.
    """
    if direction not in (Direction.RIGHT, Direction.LEFT):
        raise unknown_direction(direction)
    return Direction(direction) if truncate else None


class Pipeline:
    """The way of a text.

    Args:
        tokenizer: The model's.
        batcher: Started by the caller, and closed by it after this.
        prompts: The model's prompts by name.
        default_prompt: Goes before inputs that name no prompt.
        workers: Threads for tokenising long texts.

    Ownership:
        `close` ends the threads.
    """

    def __init__(
        self,
        tokenizer: Tokenizer,
        batcher: Batcher,
        prompts: Mapping[str, str],
        default_prompt: str,
        workers: int,
    ) -> None:
        self.tokenizer = tokenizer
        self._batcher = batcher
        self._prompts = prompts
        self._default_prompt = default_prompt
        self._threads = ThreadPoolExecutor(workers, thread_name_prefix="tokenize")

    async def submit(self, entry: Input, reduce: Callable[[Output], Array]) -> Work:
        """Check and tokenise a text and queue it.

        Args:
            entry: The text.
            reduce: Makes the answer of the model's output; see `batcher.Entry`.

        Raises:
            StatusError: The text is refused; nothing was queued.
        """
        started = time.monotonic_ns()
        tokens = await self.tokenize(entry.characters, self._encoding(entry))
        tokenized = time.monotonic_ns()
        future = self._batcher.submit(tokens, reduce)
        return Work(future, entry.characters, len(tokens), started, tokenized - started)

    def _encoding(self, entry: Input) -> Callable[[], TokenIds]:
        """Check an input and return what will tokenise it."""
        if entry.second is None:
            prefix = self.prefix(entry.text, entry.prompt_name)
            return partial(self.tokenizer.encode, prefix, entry.text, entry.cut)
        if not entry.characters:
            raise empty("inputs")
        if self._default_prompt:
            raise prompt_for_pair()
        return partial(self.tokenizer.encode_pair, entry.text, entry.second, entry.cut)

    def prefix(self, text: str, prompt_name: str | None) -> str:
        """Return what goes before a text.

        Raises:
            Refusal: INVALID_ARGUMENT, the text is empty or the prompt is not known.
        """
        if not text:
            raise empty("inputs")
        if prompt_name is None:
            return self._default_prompt
        if prompt_name not in self._prompts:
            raise unknown_prompt(prompt_name, self._prompts)
        return self._prompts[prompt_name]

    async def tokenize(self, characters: int, call: Callable[[], _T]) -> _T:
        """Return what ``call`` makes of a text of so many characters, in a thread if it is long.

        Raises:
            StatusError: The text is refused, or the tokenizer cannot read it.
        """
        try:
            if characters <= INLINE_CHARACTERS:
                return call()
            return await asyncio.get_running_loop().run_in_executor(self._threads, call)
        except (StatusError, asyncio.CancelledError):
            raise
        except Exception as error:  # the library raises bare Exception for every kind of mistake
            raise tokenizer_failed(str(error)) from error

    def close(self) -> None:
        """End the threads; nothing may be submitted afterwards."""
        self._threads.shutdown(wait=True)
