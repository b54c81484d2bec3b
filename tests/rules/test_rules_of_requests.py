"""gRPC over HTTP/2, what a request may be and what of it travels: rules 1 to 10."""

from __future__ import annotations

import re

import h2.errors
import h2.events
import pytest
from between import PSEUDO, between
from http2_peer import ANSWER, OK, Peer, answer_all, fields
from multiplexer import embed, framed, path

from tei_manager.wire.metadata import parse_timeout

pytestmark = pytest.mark.asyncio

GRPC = [("te", "trailers"), ("content-type", "application/grpc")]
BROKEN = {
    "no method": [*PSEUDO[1:], *GRPC],
    "no scheme": [PSEUDO[0], PSEUDO[2], *GRPC],
    "no path": [*PSEUDO[:2], *GRPC],
    "empty path": [*PSEUDO[:2], (":path", ""), *GRPC],
    "two methods": [PSEUDO[0], *PSEUDO, *GRPC],
    "two paths": [*PSEUDO, PSEUDO[2], *GRPC],
    "pseudo-header field behind others": [*PSEUDO[:2], *GRPC, PSEUDO[2]],
    "pseudo-header field of an answer": [(":status", "200"), *PSEUDO, *GRPC],
    "host differs": [*PSEUDO, (":authority", "test"), *GRPC, ("host", "elsewhere")],
    "two hosts": [*PSEUDO, *GRPC, ("host", "test"), ("host", "test")],
}
OF_THIS_HOP = ("connection", "keep-alive", "proxy-connection", "transfer-encoding", "upgrade")
NO_FIELDS = [
    *((name, "x") for name in ("X-Capital", "", "x a", "x:a", "x\x7f")),
    *(("x-a", value) for value in ("a\0b", "a\rb", "a\nb", "a\r\nb: c", "\x1b", " a", "a\t")),
]


async def broken(headers: list[tuple[str, str]], data: bytes = framed(embed())) -> None:
    """Expect a stream error for these fields, nothing at the instance, and a sound connection."""
    async with between() as all_three:
        call = await all_three.ask_as(headers, data)
        reset = await all_three.client.next(h2.events.StreamReset, call, 10)
        assert reset.error_code == h2.errors.ErrorCodes.PROTOCOL_ERROR
        assert not all_three.requests()
        assert (await all_three.ask())[0] == 0


async def test_r01_a_timeout_has_eight_digits_at_most_and_never_grows() -> None:
    values = ["99999999H", "99999999M", "99999999S", "99999999m", "99999999u", "00000060S", "7H"]
    async with between() as all_three:
        for value in values:
            assert (await all_three.ask(("grpc-timeout", value)))[0] == 0
        for value, request in zip(values, all_three.requests(), strict=True):
            (sent,) = [text.encode() for name, text in request if name == "grpc-timeout"]
            assert re.fullmatch(rb"[0-9]{1,8}[HMSmun]", sent)
            assert 0 < parse_timeout(sent) <= parse_timeout(value.encode())


async def test_r01_a_second_try_gets_what_the_first_left_of_the_time() -> None:
    async def refuse_once(peer: Peer, _number: int) -> None:
        await peer.start()
        request = await peer.next(h2.events.StreamEnded)
        peer.h2.reset_stream(request.stream_id, h2.errors.ErrorCodes.REFUSED_STREAM)
        await peer.flush()
        await answer_all(peer)

    async with between(refuse_once) as all_three:
        assert (await all_three.ask(("grpc-timeout", "60S")))[0] == 0
        first, second = (dict(request)["grpc-timeout"] for request in all_three.requests())
        assert parse_timeout(second.encode()) < parse_timeout(first.encode()) <= 60


async def test_r01_without_a_timeout_the_instance_hears_of_none() -> None:
    async with between() as all_three:
        assert (await all_three.ask())[0] == 0
        assert (await all_three.ask(method="EmbedStream"))[0] == 0
        assert not any("grpc-timeout" in dict(request) for request in all_three.requests())


@pytest.mark.parametrize("content_type", ["application/grpc+json", "application/grpc+x; a=b"])
async def test_r02_whatever_a_caller_calls_it_the_instance_gets_grpc(content_type: str) -> None:
    async with between() as all_three:
        call = await all_three.ask_as([*PSEUDO, GRPC[0], ("content-type", content_type)])
        assert (await all_three.client.status(call))[0] == 0
        (request,) = all_three.requests()
        assert [v for name, v in request if name == "content-type"] == ["application/grpc"]


@pytest.mark.parametrize("content_type", ["application/grp", "application/grpcx", "text/grpc"])
async def test_r02_what_is_not_grpc_gets_415_and_no_status_of_grpc(content_type: str) -> None:
    async with between() as all_three:
        call = await all_three.ask_as([*PSEUDO, GRPC[0], ("content-type", content_type)])
        answer = dict(fields(await all_three.client.next(h2.events.ResponseReceived, call)))
        await all_three.client.next(h2.events.StreamEnded, call)
        assert answer[":status"] == "415"
        assert not any("grpc-status" in dict(headers) for headers in all_three.answers())
        assert not all_three.requests()


async def test_r03_the_instance_gets_te_trailers_whether_or_not_the_caller_sent_it() -> None:
    async with between() as all_three:
        for headers in ([*PSEUDO, *GRPC], [*PSEUDO, GRPC[1]]):
            call = await all_three.ask_as(headers)
            assert (await all_three.client.status(call))[0] == 0
        for request in all_three.requests():
            assert [value for name, value in request if name == "te"] == ["trailers"]


@pytest.mark.parametrize("te", ["gzip", "trailers, deflate", "Trailers", ""])
async def test_r03_any_other_te_is_an_error_of_its_stream(te: str) -> None:
    await broken([*PSEUDO, ("te", te), GRPC[1]])


@pytest.mark.parametrize("headers", BROKEN.values(), ids=BROKEN)
async def test_r04_a_broken_set_of_pseudo_header_fields_resets_its_stream(
    headers: list[tuple[str, str]],
) -> None:
    await broken(headers)


async def test_r04_a_path_is_taken_letter_by_letter() -> None:
    async with between() as all_three:
        for method in ("embed", "Embed/", "Embed?a=b", "%45mbed"):
            code, message = await all_three.ask(method=method)
            assert code == 12
            assert path(method).replace("%", "%25") in message
        assert not all_three.requests()


@pytest.mark.parametrize("name", OF_THIS_HOP)
async def test_r05_a_field_of_one_hop_resets_its_stream(name: str) -> None:
    await broken([*PSEUDO, *GRPC, (name, "x")])


@pytest.mark.parametrize("length", [-1, 1])
async def test_r05_a_body_of_another_length_than_announced_resets_its_stream(length: int) -> None:
    data = framed(embed())
    async with between() as all_three:
        said = ("content-length", str(len(data) + length))
        call = await all_three.ask_as([*PSEUDO, *GRPC, said], data)
        reset = await all_three.client.next(h2.events.StreamReset, call, 10)
        assert reset.error_code == h2.errors.ErrorCodes.PROTOCOL_ERROR
        assert (await all_three.ask())[0] == 0


async def test_r05_an_instances_fields_of_its_own_hop_end_at_the_switch() -> None:
    async def chatty(peer: Peer, _number: int) -> None:
        await peer.start()
        request = await peer.next(h2.events.StreamEnded)
        more = [(name, "x") for name in (*OF_THIS_HOP, "x-kept")]
        peer.h2.send_headers(request.stream_id, [*ANSWER, *more, ("content-length", "7")])
        peer.h2.send_data(request.stream_id, framed(b"hi"))
        peer.h2.send_headers(request.stream_id, [*OK, *more], end_stream=True)
        await peer.flush()
        await peer.closed(60)

    async with between(chatty) as all_three:
        assert (await all_three.ask())[0] == 0
        for headers in all_three.answers():
            assert dict(headers)["x-kept"] == "x"
            assert not {name for name, _ in headers} & {*OF_THIS_HOP, "content-length"}


async def test_r06_fields_keep_their_order_and_their_duplicates_both_ways() -> None:
    lines = [("x-b", "1"), ("x-a", "1"), ("x-b", "2"), ("grpc-new", "1"), ("x-b", "1")]
    lines += [("x._-9", ""), ("grpc-new", "1"), ("x-tab", "a\tb")]

    async def echo(peer: Peer, _number: int) -> None:
        await peer.start()
        request = await peer.next(h2.events.StreamEnded)
        peer.h2.send_headers(request.stream_id, [*ANSWER, *lines])
        peer.h2.send_headers(request.stream_id, [*OK, *lines], end_stream=True)
        await peer.flush()
        await peer.closed(60)

    async with between(echo) as all_three:
        assert (await all_three.ask(*lines))[0] == 0
        for headers in (*all_three.requests(), *all_three.answers()):
            assert [line for line in headers if line in lines] == lines


@pytest.mark.parametrize("line", NO_FIELDS)
async def test_r06_what_no_field_may_hold_resets_its_stream(line: tuple[str, str]) -> None:
    await broken([*PSEUDO, *GRPC, line])


@pytest.mark.parametrize("line", [("x-a", "a\nb"), ("x-a", "a\0"), ("X-A", "b"), ("x a", "b")])
async def test_r06_an_instances_broken_field_fails_its_call_and_nobody_else(
    line: tuple[str, str],
) -> None:
    async def break_one(peer: Peer, _number: int) -> None:
        await peer.start()
        first = await peer.next(h2.events.StreamEnded)
        second = await peer.next(h2.events.StreamEnded)
        peer.h2.send_headers(first.stream_id, [*ANSWER, line])
        peer.answer(second.stream_id, framed(b"hi"))
        await peer.flush()
        await peer.closed(60)

    async with between(break_one) as all_three:
        bad = all_three.client.request(path("Embed"), data=framed(embed()), end=True)
        assert (await all_three.ask())[0] == 0
        assert (await all_three.client.status(bad))[0] == 13
        assert all_three.instance.connections == 1


async def test_r07_a_binary_value_travels_as_the_text_that_it_came_as() -> None:
    texts = ["AAE=", "AAE", "AA==", "AA", "AAEC", "AAE=,AA==,AAEC", "AAE,AA", ""]
    lines = [(f"x-{number}-bin", text) for number, text in enumerate(texts)]
    async with between() as all_three:
        assert (await all_three.ask(*lines))[0] == 0
        (request,) = all_three.requests()
        assert [line for line in request if line in lines] == lines


@pytest.mark.parametrize("text", ["A", "%%%", "AAE==", "A===", "AAE=AAE=", "AAF", "AA_-", "AA ="])
async def test_r07_a_bad_binary_value_fails_its_call_and_nobody_else(text: str) -> None:
    async with between() as all_three:
        stay = all_three.client.request(path("EmbedStream"), data=framed(embed()))
        code, message = await all_three.ask(("x-bin", text))
        assert (code, message) == (3, "metadata 'x-bin' is not base64")
        all_three.client.h2.end_stream(stay)
        await all_three.client.flush()
        assert (await all_three.client.status(stay))[0] == 0
        assert len(all_three.requests()) == 1


@pytest.mark.parametrize("where", ["answer", "trailers"])
@pytest.mark.parametrize("text", ["A", "%%%", "AAE==", "AAF", "AA_-"])
async def test_r07_an_instances_bad_binary_value_fails_its_call_and_nobody_else(
    text: str, where: str
) -> None:
    async def one_bad(peer: Peer, _number: int) -> None:
        await peer.start()
        for bad in (text, "AAE"):
            request = await peer.next(h2.events.StreamEnded)
            more = [("x-bin", bad)]
            peer.h2.send_headers(request.stream_id, ANSWER + more * (where == "answer"))
            peer.h2.send_headers(
                request.stream_id, OK + more * (where == "trailers"), end_stream=True
            )
            await peer.flush()
        await peer.closed(60)

    async with between(one_bad) as all_three:
        code, message = await all_three.ask()
        assert code == 13
        assert message.startswith("instance 'a' ended the call: metadata 'x-bin' is not base64")
        assert (await all_three.ask())[0] == 0
        assert not any(("x-bin", text) in headers for headers in all_three.answers())
        assert any(("x-bin", "AAE") in headers for headers in all_three.answers())
        assert all_three.instance.connections == 1


async def test_r08_trailers_over_the_limit_fail_their_call_and_keep_the_table_in_step() -> None:
    """The peer's encoder enters every field in its table, and goes on to refer to it."""

    async def long_winded(peer: Peer, _number: int) -> None:
        await peer.start()
        for size in (17_000, 1):
            request = await peer.next(h2.events.StreamEnded)
            call = request.stream_id
            peer.h2.send_headers(call, ANSWER)
            more = [("x-first", "1"), ("x-long", "v" * size), ("x-last", "2")]
            peer.h2.send_headers(call, [*OK, *more], end_stream=True)
            await peer.flush()
        await peer.closed(60)

    async with between(long_winded) as all_three:
        assert (await all_three.ask())[0] == 8
        assert (await all_three.ask())[0] == 0
        trailers = all_three.answers()[-1]
        assert trailers == [*OK, ("x-first", "1"), ("x-long", "v"), ("x-last", "2")]
        assert all_three.instance.connections == 1


async def test_r09_an_early_answer_ends_the_upload_on_both_sides() -> None:
    codes: list[int] = []

    async def early(peer: Peer, _number: int) -> None:
        await peer.start()
        request = await peer.next(h2.events.DataReceived)
        busy = [*ANSWER, ("grpc-status", "8"), ("grpc-message", "busy")]
        peer.h2.send_headers(request.stream_id, busy, end_stream=True)
        await peer.flush()
        codes.append((await peer.next(h2.events.StreamReset, request.stream_id)).error_code)
        await answer_all(peer)

    async with between(early) as all_three:
        assert await all_three.ask(method="EmbedStream", end=False) == (8, "busy")
        reset = await all_three.client.next(h2.events.StreamReset)
        assert (await all_three.ask())[0] == 0
        assert (reset.error_code, codes) == (0, [0])


async def test_r10_an_empty_end_is_the_usual_half_close_and_passed_on_once() -> None:
    """A hundred in a row, where eleven empty frames that end nothing would end the connection."""
    async with between() as all_three:
        for number in range(100):
            call = all_three.client.request(path("EmbedStream"), data=framed(embed()))
            await all_three.client.flush()
            all_three.client.h2.end_stream(call)
            await all_three.client.flush()
            assert (await all_three.client.status(call))[0] == 0, number
        (peer,) = all_three.instance.peers
        kind = h2.events.DataReceived
        ends = [e for e in peer.seen if isinstance(e, kind) and e.stream_ended is not None]
        assert len(ends) == 100
