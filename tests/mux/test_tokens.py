"""Calls that need a token: none without a good one reaches an instance, whichever way it comes."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import grpc
import grpc.aio
import pytest
from fake_tei import fake_tei
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from multiplexer import embed, framed, multiplexer, path, until
from switchboard import Board, cut, feed, payload, request_block

from tei_manager.errors import LaunchFailed
from tei_manager.tokens import MAX_LENGTH, TokenFile, Tokens
from tei_manager.wire import frames

pytestmark = pytest.mark.asyncio

GOOD, NEW = "correct-horse-battery-staple", "another-horse-another-staple"
REFUSED = grpc.StatusCode.UNAUTHENTICATED


def write(folder: Path, *tokens: str, mode: int = 0o600) -> TokenFile:
    fresh = folder / "fresh"
    fresh.write_text("\n".join(tokens))
    fresh.chmod(mode)
    return TokenFile(fresh.rename(folder / "token"))


def bearer(token: str, scheme: str = "Bearer") -> tuple[tuple[str, str], ...]:
    return (("authorization", f"{scheme} {token}"),)


async def failure(call: Any) -> tuple[grpc.StatusCode, str]:
    """What a unary call fails with."""
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        await call
    return caught.value.code(), caught.value.details() or ""


def streamed(port: int, method: str) -> grpc.StatusCode:
    """What a call fails with that has one message, of whatever kind its method is.

    Not with grpc.aio: it says INTERNAL of a call that ends while it still writes.
    """
    with grpc.insecure_channel(f"127.0.0.1:{port}") as channel:
        call = channel.stream_stream(method, None, None)(
            iter([embed()]), metadata=(("x-tei-instance", "a"),)
        )
        with pytest.raises(grpc.RpcError) as caught:
            next(iter(call))
    return caught.value.code()


async def test_a_call_with_a_token_is_answered_and_the_token_stays_behind(tmp_path: Path) -> None:
    tokens = Tokens(write(tmp_path, GOOD, NEW))
    async with fake_tei() as tei, multiplexer(("a", tei.port), tokens=tokens) as mux:
        call = mux.channel().unary_unary(path("Embed"))
        for token, scheme in ((GOOD, "Bearer"), (NEW, "bearer"), (GOOD, "Bearer")):
            assert await call(embed(), metadata=bearer(token, scheme), timeout=10)
        assert [seen.values("authorization") for seen in tei.calls] == [[], [], []]


@pytest.mark.parametrize(
    ("metadata", "sentence"),
    [
        ((), "Send the metadata 'authorization: Bearer TOKEN'"),
        (bearer(GOOD[:-1]), "The token is not one of"),
        (bearer(GOOD + "x"), "The token is not one of"),
        (bearer(GOOD, "Basic"), "The token is not one of"),
        ((("authorization", "Bearer"),), "The token is not one of"),
        (bearer("x" * 8000), "The token is not one of"),
        (bearer(GOOD) + bearer(GOOD), "The token is not one of"),
    ],
)
async def test_any_other_is_refused_in_a_sentence_and_counted(
    tmp_path: Path, metadata: Any, sentence: str
) -> None:
    tokens = Tokens(write(tmp_path, GOOD))
    async with fake_tei() as tei, multiplexer(("a", tei.port), tokens=tokens) as mux:
        call = mux.channel().unary_unary(path("Embed"))
        code, details = await failure(call(embed(), metadata=metadata, timeout=10))
        assert (code, details.startswith(sentence)) == (REFUSED, True), details
        assert GOOD not in details
        report = mux.switch.counters.to_json()
        assert report["rejected"] == {"unauthenticated": 1}
        assert report["responses"] == {"embed": {"16": 1}}
        assert tei.calls == []
        await mux.settled()


async def test_no_kind_of_call_but_health_comes_in_without(tmp_path: Path) -> None:
    tokens = Tokens(write(tmp_path, GOOD))
    async with (
        fake_tei() as tei,
        multiplexer(("a", tei.port), tokens=tokens, passthrough="any") as mux,
    ):
        for method in (
            path("Embed"),
            path("EmbedStream"),
            path("RerankStream"),
            "/tei.v1.Embed/Embed",
            "/other.Service/Method",
            "/unknown",
            "/grpc.reflection.v1.ServerReflection/ServerReflectionInfo",
            "/grpc.health.v1.Healthy/Check",
        ):
            assert await asyncio.to_thread(streamed, mux.port, method) is REFUSED
        channel = mux.channel()
        assert tei.calls == []
        assert await channel.unary_unary("/grpc.health.v1.Health/Check")(b"") == b"\x08\x01"
        with_token = channel.stream_stream(path("EmbedStream"))(
            iter([embed()]), metadata=bearer(GOOD)
        )
        assert await with_token.read()


Call = tuple[str | None, bytes | None, bool]

TOKENS = st.sampled_from([GOOD, GOOD, NEW, "wrong", None])
TRACES = st.sampled_from([None, b"00-1", b"00-2", b"00-33"])


def question(number: int, token: str | None, trace: bytes | None, late: bool) -> bytes:
    """A whole call, whose text says whether it has the good token."""
    fields: list[tuple[bytes, bytes]] = []
    if trace is not None:
        fields.append((b"traceparent", trace))
    if token is not None:
        fields.insert(len(fields) if late else 0, (b"authorization", b"Bearer " + token.encode()))
    text = "good" if token == GOOD else "refused"
    head = request_block("Embed", [(b"user-agent", b"x"), *fields])
    return frames.frame(frames.HEADERS, frames.END_HEADERS, number, head) + frames.frame(
        frames.DATA, frames.END_STREAM, number, framed(embed(text, "a"))
    )


def counted(tokens: Tokens, calls: Sequence[Call], at: Sequence[int]) -> tuple[int, int, int]:
    """How many good and other calls reach the instance, and how many are refused."""
    board = Board(tokens)
    try:
        asked = b"".join(question(2 * n + 1, *call) for n, call in enumerate(calls))
        feed(board.client, cut(asked, at))
        passed, _ = payload(bytes(board.up.written[len(frames.PREFACE) :]))
        refused = board.switch.counters.to_json()["rejected"].get("unauthenticated", 0)
        return passed.count(b"good"), passed.count(b"refused"), refused
    finally:
        board.close()


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    st.lists(st.tuples(TOKENS, TRACES, st.booleans()), min_size=1, max_size=12),
    st.lists(st.integers(0, 1 << 16), max_size=6),
)
async def test_no_shortcut_goes_around_the_question(
    tmp_path: Path, calls: list[Call], at: Sequence[int]
) -> None:
    """Whole questions, remembered heads, known beginnings and their slots, in any division."""
    good = sum(token == GOOD for token, _, _ in calls)
    tokens = Tokens(write(tmp_path, GOOD))
    assert counted(tokens, calls, at) == (good, 0, len(calls) - good)


@pytest.mark.parametrize("late", [False, True])
async def test_token_in_a_known_beginning_and_behind_one_is_each_calls_own(
    tmp_path: Path, late: bool
) -> None:
    """The third call of a row begins as the two before it; from the fourth on its end is known."""
    tokens = Tokens(write(tmp_path, GOOD))
    rows = [(token, b"00-%d" % n, late) for token in (GOOD, "wrong", None, GOOD) for n in range(9)]
    assert counted(tokens, rows, ()) == (18, 0, 18)


async def test_indexed_token_counts_for_the_call_that_sends_it_and_for_no_other(
    tmp_path: Path,
) -> None:
    """A token in the dynamic table, and the block without it that follows."""
    board = Board(Tokens(write(tmp_path, GOOD)))
    try:
        plain = request_block("Embed")
        value = b"Bearer " + GOOD.encode()
        entered = plain + b"\x40\x0dauthorization" + bytes((len(value),)) + value
        indexed = plain + b"\xbe"  # the newest entry of the dynamic table
        for number, block in enumerate((plain, entered, indexed, plain, indexed, plain)):
            head = frames.frame(frames.HEADERS, frames.END_HEADERS, 2 * number + 1, block)
            data = framed(embed("x", "a"))
            feed(board.client, [head + frames.frame(frames.DATA, 1, 2 * number + 1, data)])
        assert payload(bytes(board.up.written[len(frames.PREFACE) :]))[1] == 3
        assert board.switch.counters.to_json()["rejected"] == {"unauthenticated": 3}
    finally:
        board.close()


async def test_new_token_is_taken_up_while_calls_go_on(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("tei_manager.watched.LOOK_SECONDS", 0.01)
    tokens = Tokens(write(tmp_path, GOOD))
    async with fake_tei() as tei, multiplexer(("a", tei.port), tokens=tokens) as mux:
        call = mux.channel().unary_unary(path("Embed"))
        held = asyncio.ensure_future(call(embed("hold"), metadata=bearer(GOOD)))
        await until(lambda: bool(tei.calls))
        write(tmp_path, GOOD, NEW)
        await until(lambda: tokens.admits(b"Bearer " + NEW.encode()), limit=20)
        for token in (GOOD, NEW):
            assert await call(embed(), metadata=bearer(token))
        write(tmp_path, NEW)
        await until(lambda: not tokens.admits(b"Bearer " + GOOD.encode()), limit=20)
        assert (await failure(call(embed(), metadata=bearer(GOOD))))[0] is REFUSED
        assert await call(embed(), metadata=bearer(NEW))
        tei.release.set()
        assert await held


async def test_file_that_turns_unfit_changes_nothing_and_is_named_once(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    tokens = Tokens(write(tmp_path, GOOD))
    for unfit in ((NEW,), ("short",), ("x" * (MAX_LENGTH + 1),), ()):
        caplog.clear()
        write(tmp_path, *unfit, mode=0o644 if unfit == (NEW,) else 0o600)
        with caplog.at_level(logging.ERROR):
            tokens.refresh()
            tokens.refresh()
        assert len(caplog.records) == 1
        assert "The tokens in force stay: Token file" in caplog.text
        assert NEW not in caplog.text
        assert tokens.admits(b"Bearer " + GOOD.encode())
    write(tmp_path, NEW)
    tokens.refresh()
    assert not tokens.admits(b"Bearer " + GOOD.encode())
    with pytest.raises(LaunchFailed, match="above 500 characters"):
        Tokens(write(tmp_path, "x" * (MAX_LENGTH + 1)))
