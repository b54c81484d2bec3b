"""Methods that are not ours, with ``passthrough`` on: octets through, whatever they are."""

from __future__ import annotations

import asyncio
from typing import Any

import h2.errors
import h2.events
import pytest
from between import Between, Script, between, serve
from http2_peer import OK, Peer, connect, fields, scripted
from hypothesis import given
from hypothesis import strategies as st
from multiplexer import framed, multiplexer, until
from switchboard import LAST, Board, block, cut, feed, payload

from tei_manager.mux.opaque import passes
from tei_manager.mux.upstream import MAX_YOUNG_RESETS
from tei_manager.routes import Route
from tei_manager.wire import frames, hpack
from tei_manager.wire.headers import CONTENT_TYPE
from tei_manager.wire.metadata import parse_timeout
from tei_manager.wire.windows import LARGEST_STREAM_WINDOW, STREAM_WINDOW

pytestmark = pytest.mark.asyncio

DO = "/any.v1.Service/Do"
PIECES = st.lists(st.binary(max_size=400), max_size=20)
CUTS = st.lists(st.integers(0, 1 << 20), max_size=12)
OPEN = block(
    (b":method", b"POST"),
    (b":scheme", b"http"),
    (b":path", DO.encode()),
    (b"content-type", b"application/grpc"),
)


KIND = ("content-type", "application/grpc")


def opaque(script: Script = serve, **options: Any) -> Any:
    """A client, the multiplexer with passthrough, and an instance that follows a script."""
    return between(script, passthrough="any", **options)


async def begin(three: Between, *headers: tuple[str, str], **request: Any) -> int:
    """Start a call on the client's connection."""
    call = three.client.request(DO, *headers, **request)
    await three.client.flush()
    return call


async def first_word(peer: Peer, _number: int) -> None:
    """Greet each caller before it has said anything, then answer it at its half-close."""
    await peer.start()
    request = await peer.next(h2.events.RequestReceived)
    assert not any(isinstance(event, h2.events.DataReceived) for event in peer.seen)
    peer.h2.send_headers(request.stream_id, [(":status", "200"), KIND])
    peer.h2.send_data(request.stream_id, framed(b"welcome"))
    await peer.flush()
    await peer.next(h2.events.StreamEnded)
    peer.h2.send_headers(request.stream_id, OK, end_stream=True)
    await peer.flush()
    await peer.closed(60)


def data(pieces: list[bytes], end: bool) -> bytes:
    """A DATA frame for each piece."""
    sent = b"".join(frames.frame(frames.DATA, 0, 1, piece) for piece in pieces)
    return sent + (frames.frame(frames.DATA, frames.END_STREAM, 1, b"") if end else b"")


@given(PIECES, PIECES, CUTS, CUTS)
async def test_any_octets_in_any_frames_arrive_unchanged_both_ways(
    asked: list[bytes], answered: list[bytes], cuts: list[int], more_cuts: list[int]
) -> None:
    head = frames.frame(frames.HEADERS, frames.END_HEADERS, 1, OPEN)
    answer = frames.frame(frames.HEADERS, frames.END_HEADERS, 1, hpack.STATUS_200 + CONTENT_TYPE)
    tail = frames.frame(frames.HEADERS, LAST, 1, block((b"grpc-status", b"7")))
    board = Board(passthrough="any")
    try:
        feed(board.client, cut(head + data(asked, True), cuts))
        feed(board.instance, cut(answer + data(answered, False) + tail, more_cuts))
        assert payload(board.up.written[len(frames.PREFACE) :])[0] == b"".join(asked)
        assert payload(board.down.written)[0] == b"".join(answered)
        assert board.switch.counters.to_json()["responses"] == {"other": {"7": 1}}
    finally:
        board.close()


async def test_a_client_may_wait_for_the_servers_first_word() -> None:
    async with opaque(first_word) as three:
        call = await begin(three)
        welcome = await three.client.next(h2.events.DataReceived, call)
        assert welcome.data == framed(b"welcome")
        three.client.h2.end_stream(call)
        await three.client.flush()
        assert await three.client.status(call) == (0, "")


async def test_how_messages_are_coded_is_told_to_both_sides_as_it_came() -> None:
    coded = [("grpc-encoding", "snappy"), ("grpc-accept-encoding", "gzip,zstd")]

    async def answer(peer: Peer, _number: int) -> None:
        await peer.start()
        call = (await peer.next(h2.events.StreamEnded)).stream_id
        kind = [(":status", "200"), ("content-type", "application/grpc+json")]
        peer.h2.send_headers(call, [*kind, *coded])
        peer.h2.send_data(call, b"\1\0\0\0\2??")
        peer.h2.send_headers(call, [("x-end", "1"), *OK], end_stream=True)
        await peer.flush()
        await peer.closed(60)

    async with opaque(answer) as three:
        kind = ("content-type", "application/grpc+json;v=2")
        pseudo = [(":method", "POST"), (":scheme", "http"), (":path", DO)]
        call = await three.ask_as([*pseudo, kind, *coded, ("x-tei-instance", "a")], b"\1\0\0\0\1!")
        assert await three.client.status(call) == (0, "")
        (request,) = three.requests()
        assert [f for f in request if f[0] in ("content-type", "te", *dict(coded))] == [
            ("te", "trailers"),
            kind,
            *coded,
        ]
        assert three.received() == b"\1\0\0\0\1!"
        head, trailers = three.answers()
        assert head == [(":status", "200"), ("content-type", "application/grpc+json"), *coded]
        assert trailers == [("x-end", "1"), *OK]


async def test_the_instance_gets_its_key_and_nothing_that_is_for_us() -> None:
    for_us = [("x-tei-index", "0"), ("authorization", "Bearer caller"), ("cookie", "a=b")]
    async with scripted(serve) as instance:
        route = Route("a", port=instance.port, api_key="secret")
        async with multiplexer(route, passthrough="any") as mux, connect(mux.port) as client:
            call = client.request(DO, *for_us, ("user-agent", "me/1"), end=True)
            await client.flush()
            assert (await client.status(call))[0] == 0
            (event,) = [
                e for e in instance.peers[0].seen if isinstance(e, h2.events.RequestReceived)
            ]
            request = fields(event)
            assert ("authorization", "Bearer secret") in request
            assert ("user-agent", "me/1") in request
            assert not {"cookie", "x-tei-index"} & set(dict(request))
            assert dict(request)[":authority"] == route.address


async def test_an_answer_of_trailers_alone_stays_one_and_interim_ones_are_skipped() -> None:
    async def refuse(peer: Peer, _number: int) -> None:
        await peer.start()
        call = (await peer.next(h2.events.RequestReceived)).stream_id
        peer.h2.send_headers(call, [(":status", "103"), ("x-hint", "1")])
        trailers = [(":status", "200"), ("grpc-status", "9"), ("grpc-status-details-bin", "CAE")]
        peer.h2.send_headers(call, trailers, end_stream=True)
        await peer.flush()
        await peer.closed(60)

    async with opaque(refuse) as three:
        call = await begin(three, data=framed(b"never finished"))
        assert (await three.client.status(call))[0] == 9
        (head,) = three.answers()
        assert head[1:] == [("grpc-status", "9"), ("grpc-status-details-bin", "CAE")]


async def test_the_time_spent_is_taken_off_and_no_time_is_given_where_there_was_none() -> None:
    async with opaque(request_timeout_secs=1e-6) as three:
        for headers in ((("grpc-timeout", "60S"),), ()):
            call = await begin(three, *headers, end=True)
            assert (await three.client.status(call))[0] == 0
        first, second = (dict(request).get("grpc-timeout") for request in three.requests())
        assert 50 < parse_timeout(str(first).encode()) < 60
        assert second is None


async def hang(peer: Peer, _number: int) -> None:
    await peer.start()
    await peer.closed(60)


async def test_a_deadline_ends_the_call_on_both_sides() -> None:
    async with opaque(hang) as three:
        call = await begin(three, ("grpc-timeout", "50m"))
        assert await three.client.status(call) == (4, "")
        (peer,) = three.instance.peers
        await until(lambda: any(isinstance(e, h2.events.StreamReset) for e in peer.seen))


async def test_no_first_message_is_waited_for() -> None:
    async with opaque(first_word, first_message_secs=0) as three:
        call = await begin(three)
        await three.client.next(h2.events.DataReceived, call)
        for endpoint in list(three.mux.switch.endpoints):
            endpoint.check(three.mux.switch.now + 1)
        three.client.h2.end_stream(call)
        await three.client.flush()
        assert await three.client.status(call) == (0, "")


async def test_a_cancel_reaches_the_instance_as_a_reset_and_never_as_a_half_close() -> None:
    async with opaque(hang) as three:
        call = await begin(three, data=framed(b"x"))
        await until(lambda: bool(three.received()))
        three.client.h2.reset_stream(call, h2.errors.ErrorCodes.CANCEL)
        await three.client.flush()
        (peer,) = three.instance.peers
        await until(lambda: any(isinstance(e, h2.events.StreamReset) for e in peer.seen))
        assert not any(isinstance(e, h2.events.StreamEnded) for e in peer.seen)


async def test_a_refused_call_is_tried_once_more_and_a_lost_connection_is_told() -> None:
    async def refuse_then_go(peer: Peer, _number: int) -> None:
        await peer.start()
        call = (await peer.next(h2.events.RequestReceived)).stream_id
        peer.h2.reset_stream(call, h2.errors.ErrorCodes.REFUSED_STREAM)
        await peer.flush()
        await peer.next(h2.events.RequestReceived)
        peer.cut()

    async with opaque(refuse_then_go) as three:
        call = await begin(three, data=framed(b"x"), end=True)
        code, message = await three.client.status(call)
        assert code == 14
        assert message.startswith("connection to instance 'a' lost")
        assert len(three.requests()) == 2


async def test_a_message_of_any_size_goes_through_and_a_slow_instance_bounds_what_is_held() -> None:
    message, reads = bytes(range(256)) * (3 << 12), asyncio.Event()

    async def slow(peer: Peer, _number: int) -> None:
        await peer.start()
        await peer.next(h2.events.RequestReceived)
        await reads.wait()
        ended = await peer.next(h2.events.StreamEnded, limit=60)
        peer.answer(ended.stream_id, framed(b"got it"))
        await peer.flush()
        await peer.closed(60)

    async with opaque(slow, max_message_mb=1) as three:
        pool, held = three.mux.switch.pool, [0]
        call = three.mux.channel().unary_unary(DO)(message)

        def watch() -> bool:
            held.append(pool.queued)
            if pool.queued > STREAM_WINDOW // 2:
                reads.set()
            return bool(call.done())

        await until(watch, 60)
        assert await call == b"got it"
        assert three.received() == framed(message)
        assert STREAM_WINDOW // 2 < max(held) <= LARGEST_STREAM_WINDOW < len(message)


@pytest.mark.parametrize(
    ("path", "expected"),
    [
        (b"/any.v1.Service/Do", True),
        (b"/tei.v1.Embed/ALaterMethod", True),
        (b"/deep/er/Path", True),
        (b"/grpc.health.v1.Health/Unknown", False),
        (b"/grpc.reflection.v1.ServerReflection/Unknown", False),
        (b"/tei_multiplexer.v1.TeiMultiplexer/Unknown", False),
        (b"/a b/c", False),
        (b"/a\r\nb/c", False),
        (b"/a/\xff", False),
        (b"/a/b?c", False),
        (b"*", False),
        (b"/", False),
        (b"", False),
    ],
)
async def test_what_is_answered_here_and_what_is_no_path_does_not_pass(
    path: bytes, expected: bool
) -> None:
    assert passes(path) is expected


async def test_without_a_target_the_call_is_told_how_to_name_one() -> None:
    two = (("a", 1), ("b", 2))
    async with multiplexer(*two, passthrough="any") as mux, connect(mux.port) as client:
        for extra, code in (((), 3), ((("x-tei-instance", "c"),), 5)):
            call = client.request(DO, *extra, data=framed(b""), end=True)
            await client.flush()
            assert (await client.status(call))[0] == code
        await mux.settled()


async def test_by_default_nothing_passes() -> None:
    async with between() as three:
        call = await begin(three, end=True)
        assert await three.client.status(call) == (12, f"Method '{DO}' is not served here")
        assert three.instance.connections == 0


async def test_rapid_resets_cost_an_instance_no_more_streams_than_a_client_has_slots() -> None:
    """HEADERS alone open a stream there, so the count is of what was not yet answered by PING."""
    most_young = most_open = 0

    async def count(peer: Peer, _number: int) -> None:
        nonlocal most_young, most_open
        young = 0
        unfinished: set[int] = set()
        await peer.start()
        while octets := await peer.reader.read(65536):
            for event in peer.h2.receive_data(octets):
                if isinstance(event, h2.events.RequestReceived):
                    unfinished.add(event.stream_id)
                    most_open = max(most_open, len(unfinished))
                elif isinstance(event, h2.events.StreamReset):
                    unfinished.discard(event.stream_id)
                    young += 1
                    most_young = max(most_young, young)
                elif isinstance(event, h2.events.PingReceived):
                    young = 0
            await peer.flush()

    async with opaque(count, max_parallel_streams=20) as three:
        calls = [await begin(three)]
        await until(lambda: most_open == 1)
        calls += [three.client.request(DO) for _ in range(19)]
        await three.client.flush()
        for number in range(150):
            three.client.h2.reset_stream(calls[number], h2.errors.ErrorCodes.CANCEL)
            calls.append(three.client.request(DO))
        for call in calls[150:]:
            three.client.h2.reset_stream(call, h2.errors.ErrorCodes.CANCEL)
        await three.client.flush()
        await three.mux.settled()
    assert 0 < most_young <= MAX_YOUNG_RESETS
    assert most_open <= 20
