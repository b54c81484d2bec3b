"""One connection to an instance: resets in two steps, goodbyes, silence, and death in mid-call."""

from __future__ import annotations

import asyncio
import os
import signal
import sys
from time import monotonic

import grpc
import grpc.aio
import h2.errors
import h2.events
import pytest
from fake_tei import answer, fake_tei
from http2_peer import ANSWER, Peer, answer_all, connect, scripted
from multiplexer import Multiplexer, embed, framed, multiplexer, path, table, until

from tei_manager.grpc.proto.tei.v1 import tei_pb2
from tei_manager.mux.upstream import MAX_YOUNG_RESETS

pytestmark = pytest.mark.asyncio


async def one(mux: Multiplexer, method: str = "Embed", limit: float = 5) -> tuple[int, str]:
    """Make one call on a connection of its own and return how it ends."""
    async with connect(mux.port) as client:
        call = client.request(path(method), data=framed(embed()), end=True)
        await client.flush()
        return await client.status(call, limit)


async def tei_process() -> tuple[asyncio.subprocess.Process, int]:
    """Start a fake TEI in a process of its own and return its port; the caller ends it."""
    program = (
        "import asyncio, fake_tei\n"
        "async def main():\n"
        "    async with fake_tei.fake_tei() as tei:\n"
        "        print(tei.port, flush=True)\n"
        "        await asyncio.Event().wait()\n"
        "asyncio.run(main())\n"
    )
    process = await asyncio.create_subprocess_exec(
        sys.executable,
        *("-c", program),
        env={**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)},
        stdout=asyncio.subprocess.PIPE,
    )
    assert process.stdout is not None
    return process, int(await asyncio.wait_for(process.stdout.readline(), 20))


@pytest.mark.parametrize("how", ["cancel", "close", "reset the connection"])
async def test_a_client_that_goes_away_cancels_its_call_at_the_instance(how: str) -> None:
    async with fake_tei() as tei, multiplexer(("a", tei.port)) as mux, connect(mux.port) as client:
        for method in ("Embed", "EmbedStream"):
            call = client.request(path(method), data=framed(embed("hang")))
        await client.flush()
        seen = [await tei.call(), await tei.call()]
        if how == "cancel":
            for call in (1, 3):
                client.h2.reset_stream(call, h2.errors.ErrorCodes.CANCEL)
            await client.flush()
        elif how == "close":
            client.writer.close()
        else:
            client.cut()
        for call_seen in seen:
            assert (await call_seen.ended(1)).cancelled
        await mux.settled()


async def test_200_cancels_at_once_never_send_more_than_ten_young_resets_ahead_of_a_ping() -> None:
    """TEI's HTTP/2 library closes the connection at twenty."""
    most = 0
    reset: set[tuple[int, int]] = set()

    async def count(peer: Peer, number: int) -> None:
        nonlocal most
        unacknowledged = 0
        await peer.start()
        while True:
            data = await peer.reader.read(65536)
            if not data:
                return
            for event in peer.h2.receive_data(data):
                if isinstance(event, h2.events.StreamReset):
                    reset.add((number, event.stream_id))
                    unacknowledged += 1
                    most = max(most, unacknowledged)
                elif isinstance(event, h2.events.PingReceived):
                    unacknowledged = 0
            await peer.flush()

    async with scripted(count) as tei, multiplexer(("a", tei.port)) as mux:
        channel = mux.channel()
        calls = [channel.unary_unary(path("Embed"))(embed()) for _ in range(200)]
        await until(lambda: sum(e.live for e in mux.switch.backends["a"]._endpoints) == 200)
        for call in calls:
            call.cancel()
        await mux.settled()
        assert len(reset) == 200
        assert most <= MAX_YOUNG_RESETS


async def test_a_reset_call_keeps_its_slot_until_the_instance_has_seen_the_reset() -> None:
    """What a client resets may still cost the instance; so it counts (CVE-2023-44487)."""
    acknowledge = asyncio.Event()

    async def stall(peer: Peer, _number: int) -> None:
        await peer.start()
        for _ in range(2):
            await peer.next(h2.events.RequestReceived)
        await acknowledge.wait()
        await answer_all(peer)

    async with (
        scripted(stall) as tei,
        multiplexer(("a", tei.port), max_parallel_streams=2) as mux,
        connect(mux.port) as client,
    ):
        calls = [client.request(path("Embed"), data=framed(embed())) for _ in range(2)]
        await client.flush()
        await until(lambda: mux.switch.backends["a"].in_flight == 2)
        await until(lambda: not mux.switch.backends.waiting())
        for call in calls:
            client.h2.reset_stream(call, h2.errors.ErrorCodes.CANCEL)
        refused = client.request(path("Embed"), data=framed(embed()), end=True)
        await client.flush()
        reset = await client.next(h2.events.StreamReset, refused)
        assert reset.error_code == h2.errors.ErrorCodes.REFUSED_STREAM
        acknowledge.set()
        await mux.settled()
        last = client.request(path("Embed"), data=framed(embed()), end=True)
        await client.flush()
        assert (await client.status(last))[0] == 0


async def test_a_call_cancelled_before_there_is_a_connection_is_never_sent() -> None:
    hello, requests = asyncio.Event(), 0

    async def late(peer: Peer, _number: int) -> None:
        nonlocal requests
        await hello.wait()
        await peer.start()
        while True:
            await peer.next(h2.events.RequestReceived, limit=60)
            requests += 1
            await answer_all(peer)

    async with scripted(late) as tei, multiplexer(("a", tei.port)) as mux:
        async with connect(mux.port) as client:
            gone = client.request(path("Embed"), data=framed(embed("gone")), end=True)
            kept = client.request(path("Embed"), data=framed(embed("kept")), end=True)
            await client.flush()
            await until(lambda: mux.switch.backends.waiting() == 2)
            client.h2.reset_stream(gone, h2.errors.ErrorCodes.CANCEL)
            await client.flush()
            await until(lambda: mux.switch.backends.waiting() == 1)
            hello.set()
            assert (await client.status(kept))[0] == 0
            assert requests == 1
        await mux.settled()


async def test_an_instance_killed_in_mid_call_fails_its_own_calls_at_once_and_no_others() -> None:
    process, port = await tei_process()
    async with fake_tei(2) as other, multiplexer(("a", port), ("b", other.port)) as mux:
        channel = mux.channel()
        doomed = [
            channel.stream_stream(path(method))(timeout=20)
            for method in ("EmbedStream", "PredictStream")
        ]
        for stream in doomed:
            await stream.write(embed())
            assert await stream.read()
        hanging = channel.unary_unary(path("Embed"))(embed("hang"), timeout=20)
        spared = channel.stream_stream(path("EmbedStream"))(timeout=20)
        await spared.write(embed(name="b"))
        assert await spared.read()
        await until(lambda: mux.switch.backends["a"].in_flight == 3)

        killed = monotonic()
        process.kill()
        for call in (*doomed, hanging):
            assert await call.code() is grpc.StatusCode.UNAVAILABLE
            assert (await call.details()).startswith("connection to instance 'a' lost: ")
        assert monotonic() - killed < 1

        await spared.write(embed(name="b"))
        inner = tei_pb2.EmbedRequest(inputs="Hello world").SerializeToString()
        assert await spared.read() == answer(2, "EmbedStream", inner)
        await spared.done_writing()
        assert await spared.code() is grpc.StatusCode.OK
        refused = f"cannot connect to instance 'a' at 127.0.0.1:{port}: connection refused"
        while await one(mux) != (14, refused):  # until it has tried, calls hear of the loss
            pass
        await mux.settled()
    await process.communicate()


@pytest.mark.parametrize(
    ("code", "status"),
    [(0x0, 13), (0x1, 13), (0x2, 13), (0x8, 1), (0xB, 8), (0xC, 7), (0xD, 13), (0xFF, 13)],
)
async def test_a_reset_by_the_instance_becomes_the_status_that_it_means(
    code: int, status: int
) -> None:
    async def reset(peer: Peer, _number: int) -> None:
        await peer.start()
        request = await peer.next(h2.events.RequestReceived)
        peer.h2.reset_stream(request.stream_id, code)
        await peer.flush()
        await peer.closed(60)

    async with scripted(reset) as tei, multiplexer(("a", tei.port)) as mux:
        got, message = await one(mux)
        assert got == status
        assert message.startswith("instance 'a' ended the call: reset by peer (")
        await mux.settled()


async def test_a_reset_in_the_middle_of_an_answer_becomes_a_status_behind_it() -> None:
    async def reset(peer: Peer, _number: int) -> None:
        await peer.start()
        request = await peer.next(h2.events.StreamEnded)
        peer.h2.send_headers(request.stream_id, ANSWER)
        peer.h2.send_data(request.stream_id, framed(b"hi"))
        peer.h2.reset_stream(request.stream_id, 2)
        await peer.flush()
        await peer.closed(60)

    async with scripted(reset) as tei, multiplexer(("a", tei.port)) as mux:
        call = mux.channel().stream_stream(path("EmbedStream"))(iter([embed()]), timeout=5)
        assert await call.read() == b"hi"
        assert await call.code() is grpc.StatusCode.INTERNAL
        await mux.settled()


@pytest.mark.parametrize(("times", "code"), [(1, 0), (2, 14)])
async def test_a_refused_call_is_tried_once_more(times: int, code: int) -> None:
    bodies: list[bytes] = []

    async def refuse(peer: Peer, _number: int) -> None:
        await peer.start()
        for _ in range(times):
            request = await peer.next(h2.events.StreamEnded)
            peer.h2.reset_stream(request.stream_id, h2.errors.ErrorCodes.REFUSED_STREAM)
            await peer.flush()
        while True:
            event = await peer.next(h2.events.StreamEnded, limit=60)
            data = [e for e in peer.seen if isinstance(e, h2.events.DataReceived)]
            bodies.append(b"".join(e.data for e in data if e.stream_id == event.stream_id))
            peer.answer(event.stream_id, framed(b"hi"))
            await peer.flush()

    async with scripted(refuse) as tei, multiplexer(("a", tei.port)) as mux:
        assert (await one(mux))[0] == code
        if not code:
            inner = tei_pb2.EmbedRequest(inputs="Hello world").SerializeToString()
            assert bodies == [framed(inner)]
        await mux.settled()


async def test_a_call_that_has_sent_more_than_is_kept_is_not_tried_again() -> None:
    async def refuse(peer: Peer, _number: int) -> None:
        await peer.start()
        request = await peer.next(h2.events.StreamEnded)
        peer.h2.reset_stream(request.stream_id, h2.errors.ErrorCodes.REFUSED_STREAM)
        await peer.flush()
        await answer_all(peer)

    async with scripted(refuse) as tei, multiplexer(("a", tei.port)) as mux:
        with pytest.raises(grpc.aio.AioRpcError) as failure:
            await mux.channel().unary_unary(path("Embed"))(embed("x" * 20_000), timeout=5)
        assert failure.value.code() is grpc.StatusCode.UNAVAILABLE
        await mux.settled()


async def test_calls_above_a_goaway_are_sent_again_and_those_below_finish() -> None:
    async def leave(peer: Peer, number: int) -> None:
        await peer.start()
        if number == 1:
            first = await peer.next(h2.events.StreamEnded)
            second = await peer.next(h2.events.StreamEnded)
            peer.writer.write(_goaway(first.stream_id))
            peer.answer(first.stream_id, framed(b"old"))
            assert second.stream_id == 3
            await peer.flush()
            await peer.closed(5)  # once the last call is over the connection is given up
        else:
            await answer_all(peer, framed(b"new"))

    async with scripted(leave) as tei, multiplexer(("a", tei.port)) as mux:
        channel = mux.channel()
        ask = channel.unary_unary(path("Embed"))
        replies = await asyncio.gather(ask(embed(), timeout=5), ask(embed(), timeout=5))
        assert sorted(replies) == [b"new", b"old"]
        assert tei.connections == 2
        await mux.settled()


async def test_a_goaway_while_nothing_runs_costs_no_call() -> None:
    async def leave(peer: Peer, number: int) -> None:
        await peer.start()
        request = await peer.next(h2.events.StreamEnded)
        peer.answer(request.stream_id, framed(b"%d" % number))
        await peer.flush()
        peer.writer.write(_goaway(request.stream_id))
        await peer.closed(5)

    async with scripted(leave) as tei, multiplexer(("a", tei.port)) as mux:
        ask = mux.channel().unary_unary(path("Embed"))
        for number in range(1, 6):
            assert await ask(embed(), timeout=5) == b"%d" % number
            await until(lambda: not mux.switch.backends["a"]._endpoints)
        assert tei.connections == 5


async def test_a_refused_call_of_a_withdrawn_instance_fails_instead_of_waiting() -> None:
    """An instance that is stopped says GOAWAY, and its route is gone by then."""
    withdrawn = asyncio.Event()

    async def leave(peer: Peer, _number: int) -> None:
        await peer.start()
        await peer.next(h2.events.StreamEnded)
        await withdrawn.wait()
        peer.writer.write(_goaway(0))
        await peer.closed(5)

    async with scripted(leave) as tei, multiplexer(("a", tei.port)) as mux:
        call = asyncio.create_task(one(mux))
        await until(lambda: sum(e.live for e in mux.switch.backends["a"]._endpoints) == 1)
        mux.worker.apply(table(version=2))
        withdrawn.set()
        code, message = await call
        assert code == 14
        assert message.endswith("it was stopped or replaced")
        await mux.settled()


async def test_an_instance_that_stands_still_is_found_by_its_silence_and_then_fails_fast() -> None:
    process, port = await tei_process()
    limits = {"keepalive_secs": 1, "keepalive_timeout_secs": 1, "connect_timeout_secs": 1}
    async with multiplexer(("a", port), **limits) as mux:
        assert (await one(mux))[0] == 0
        process.send_signal(signal.SIGSTOP)
        start = monotonic()
        code, message = await one(mux, limit=10)
        assert code == 14
        assert message == "connection to instance 'a' lost: no answer to PING (NO_ERROR)"
        assert monotonic() - start < 6
        start = monotonic()
        for _ in range(20):
            assert (await one(mux))[0] == 14
        assert monotonic() - start < 1
        process.send_signal(signal.SIGCONT)
        start = monotonic()
        while (await one(mux))[0]:
            pass
        assert monotonic() - start < 3
        await mux.settled()
    process.kill()
    await process.communicate()


async def test_an_instance_that_is_slow_but_alive_is_left_in_peace() -> None:
    async with (
        fake_tei() as tei,
        multiplexer(("a", tei.port), keepalive_secs=0.3, keepalive_timeout_secs=0.5) as mux,
    ):
        ask = mux.channel().unary_unary(path("Embed"))
        assert await ask(embed("sleep 2.5"), timeout=5)
        assert mux.switch.counters.to_json()["connections"] == {"a": 1}


def _goaway(last: int) -> bytes:
    return b"\0\0\x08\x07\0\0\0\0\0" + last.to_bytes(4, "big") + bytes(4)
