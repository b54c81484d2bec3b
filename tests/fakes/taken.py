"""Counts the shortcuts that calls take, for tests that would say nothing of them if none did."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from typing import Any
from unittest.mock import patch

from tei_manager.mux import relay
from tei_manager.mux.backends import Backend
from tei_manager.wire import connection, headers
from tei_manager.wire.sending import SendingHalf

SHORTCUTS: tuple[tuple[Any, str], ...] = (
    (connection, "whole_question"),
    (connection, "whole_answer"),
    (connection, "data_run"),
    (headers, "fill"),
    (relay, "split_run"),
    (SendingHalf, "send_question"),
    (SendingHalf, "send_answer"),
    (Backend, "relieve"),
)
"""Where each is asked for. It was taken where the answer is not empty; `relieve` has none."""


@contextmanager
def shortcuts_taken() -> Iterator[dict[str, int]]:
    """Count by name how often each shortcut was taken."""
    taken = {name: 0 for _, name in SHORTCUTS}
    with ExitStack() as stack:
        for owner, name in SHORTCUTS:
            stack.enter_context(patch.object(owner, name, _counted(owner, name, taken)))
        yield taken


def _counted(owner: Any, name: str, taken: dict[str, int]) -> Any:
    ask = getattr(owner, name)

    def asked(*arguments: Any, **more: Any) -> Any:
        answer = ask(*arguments, **more)
        whole = answer[0] if isinstance(answer, tuple) and answer else answer
        taken[name] += name == "relieve" or bool(whole)
        return answer

    return asked
