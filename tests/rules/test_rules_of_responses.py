"""Answers of instances and of our own: rules 17 to 21 of docs/testing.md."""

from __future__ import annotations

from collections.abc import Callable
from urllib.parse import unquote

import h2.events
import pytest
from between import Headers, Script, between
from http2_peer import ANSWER, OK, Peer
from multiplexer import embed, framed, path

from tei_manager.grpc.status import Code
from tei_manager.mux import backends

pytestmark = pytest.mark.asyncio

HTTP = {400: 13, 401: 16, 403: 7, 404: 12, 429: 14, 431: 13, 502: 14, 503: 14, 504: 14}
HTTP |= dict.fromkeys((201, 204, 302, 405, 500, 501, 599), 2)
RESETS = dict.fromkeys((0x0, 0x1, 0x2, 0x3, 0x4, 0x5, 0x6, 0x9, 0xA, 0xD, 0xE, 0xFFFFFFFF), 13)
RESETS |= {0x7: 14, 0x8: 1, 0xB: 8, 0xC: 7}


def each(act: Callable[[Peer, int], None]) -> Script:
    """The script of an instance that does ``act`` with every call whose question is complete."""

    async def script(peer: Peer, _number: int) -> None:
        await peer.start()
        while True:
            act(peer, (await peer.next(h2.events.StreamEnded, limit=60)).stream_id)
            await peer.flush()

    return script


def trailers_only(*more: tuple[str, str], status: str = "200") -> Script:
    """An instance whose answers are one header block."""
    block: Headers = [(":status", status), ANSWER[1], *more]
    return each(lambda peer, call: peer.h2.send_headers(call, block, end_stream=True))


async def test_r17_trailers_alone_stay_so_with_all_that_is_in_them() -> None:
    more = [
        ("grpc-status", "9"),
        ("grpc-message", "no"),
        ("grpc-status-details-bin", "CAkSA3doeQ"),
        ("endpoint-load-metrics-bin", "CQAAAAAAAOA/"),
        ("grpc-something-new", "1"),
        ("x-any", "1"),
        ("x-any", "2"),
    ]
    async with between(trailers_only(*more)) as all_three:
        assert await all_three.ask() == (9, "no")
        assert [line for line in all_three.answers()[0] if line in more] == more
        assert len(all_three.answers()) == 1
        assert not [e for e in all_three.client.seen if isinstance(e, h2.events.DataReceived)]


@pytest.mark.parametrize("messages", [0, 1, 2])
@pytest.mark.parametrize("method", ["Embed", "EmbedStream"])
async def test_r17_trailers_behind_a_body_stay_behind_it(method: str, messages: int) -> None:
    more = [("grpc-status-details-bin", "CAkSA3doeQ=="), ("x-any", "1")]

    def act(peer: Peer, call: int) -> None:
        peer.h2.send_headers(call, [*ANSWER, ("x-first", "1")])
        for _ in range(messages):
            peer.h2.send_data(call, framed(b"hi"))
        peer.h2.send_headers(call, [("grpc-status", "3"), *more], end_stream=True)

    async with between(each(act)) as all_three:
        assert (await all_three.ask(method=method))[0] == 3
        first, last = all_three.answers()
        assert ("x-first", "1") in first
        assert last == [("grpc-status", "3"), *more]


@pytest.mark.parametrize("text", ["100%25", "%zz%", "%", "%C3%A4%", "%00%FF", "a  b"])
async def test_r18_an_instances_message_passes_as_it_stands(text: str) -> None:
    status = [("grpc-status", "13"), ("grpc-message", text)]
    async with between(trailers_only(*status)) as all_three:
        assert await all_three.ask() == (13, text)


async def test_r18_a_message_of_our_own_is_escaped_where_it_must_be() -> None:
    name = 'ä%\r\n\t\x7f \u2028"~x'
    async with between() as all_three:
        code, message = await all_three.ask(data=framed(embed(name=name)))
        assert code == Code.NOT_FOUND
        assert all(" " <= letter <= "~" for letter in message)
        assert "%25" in message
        assert "%0D%0A%09%7F" in message
        assert unquote(message) == f"Instance '{name}' not found"


async def test_r19_interim_answers_are_never_the_answer() -> None:
    def act(peer: Peer, call: int) -> None:
        for status in ("100", "102", "103", "199"):
            peer.h2.send_headers(call, [(":status", status), ("grpc-status", "13")])
        peer.answer(call, framed(b"hi"))

    async with between(each(act)) as all_three:
        assert (await all_three.ask())[0] == 0
        first, last = all_three.answers()
        assert dict(first)[":status"] == "200"
        assert last == OK


@pytest.mark.parametrize("body", [True, False])
@pytest.mark.parametrize("http", HTTP)
async def test_r19_an_http_status_without_one_of_grpc_is_translated(http: int, body: bool) -> None:
    def act(peer: Peer, call: int) -> None:
        block = [(":status", str(http)), ("content-type", "text/html")]
        peer.h2.send_headers(call, block, end_stream=not body)
        if body:
            peer.h2.send_data(call, b"<html>", end_stream=True)

    async with between(each(act)) as all_three:
        code, message = await all_three.ask()
        assert (code, message) == (HTTP[http], f"instance 'a' answered with HTTP status {http}")
        assert dict(all_three.answers()[0])[":status"] == "200"


@pytest.mark.parametrize("body", [True, False])
@pytest.mark.parametrize(
    "content_type", ["text/html", "application/grpc-web", "application/grpcx", "application/json"]
)
async def test_r19_an_answer_that_is_not_grpcs_is_not_passed_on(
    content_type: str, body: bool
) -> None:
    """Its body would be read as a message of a length that its letters happen to spell."""

    def act(peer: Peer, call: int) -> None:
        block = [ANSWER[0], ("content-type", content_type)]
        peer.h2.send_headers(call, block, end_stream=not body)
        if body:
            peer.h2.send_data(call, b"<html>")
            peer.h2.send_headers(call, OK, end_stream=True)

    async with between(each(act)) as all_three:
        want = f"instance 'a' answered with content-type '{content_type}', which is not gRPC's"
        assert [await all_three.ask() for _ in range(3)] == [(2, want)] * 3
        assert not [e for e in all_three.client.seen if isinstance(e, h2.events.DataReceived)]
        for answer in all_three.answers():
            assert dict(answer)["content-type"] == "application/grpc"
        assert all_three.instance.connections == 1


async def test_r19_an_answer_without_a_content_type_is_not_grpcs() -> None:
    def act(peer: Peer, call: int) -> None:
        peer.h2.send_headers(call, [ANSWER[0], ("x-a", "1"), ("x-b", "2")])
        peer.h2.send_data(call, framed(b"hi"))
        peer.h2.send_headers(call, OK, end_stream=True)

    async with between(each(act)) as all_three:
        assert [(await all_three.ask())[0] for _ in range(3)] == [2, 2, 2]


@pytest.mark.parametrize("content_type", ["application/grpc+proto", "application/grpc;a=b"])
async def test_r19_any_content_type_of_grpcs_passes_as_it_came(content_type: str) -> None:
    def act(peer: Peer, call: int) -> None:
        peer.h2.send_headers(call, [ANSWER[0], ("content-type", content_type)])
        peer.h2.send_data(call, framed(b"hi"))
        peer.h2.send_headers(call, OK, end_stream=True)

    async with between(each(act)) as all_three:
        assert [(await all_three.ask())[0] for _ in range(3)] == [0, 0, 0]
        for answer in all_three.answers()[::2]:
            assert dict(answer)["content-type"] == content_type


@pytest.mark.parametrize("http", ["200", "401", "503"])
async def test_r19_a_status_of_grpc_counts_before_that_of_http(http: str) -> None:
    status = [("grpc-status", "9"), ("grpc-message", "why")]
    async with between(trailers_only(*status, status=http)) as all_three:
        assert await all_three.ask() == (9, "why")
        assert dict(all_three.answers()[0])[":status"] == "200"


@pytest.mark.parametrize("begun", [False, True])
@pytest.mark.parametrize("code", RESETS)
async def test_r20_a_reset_by_the_instance_is_told_as_a_status(code: int, begun: bool) -> None:
    def act(peer: Peer, call: int) -> None:
        if begun:
            peer.h2.send_headers(call, ANSWER)
            peer.h2.send_data(call, framed(b"hi"))
        peer.h2.reset_stream(call, code)

    async with between(each(act)) as all_three:
        status, message = await all_three.ask()
        assert status == RESETS[code]
        assert message.startswith("instance 'a' ended the call: reset by peer (")
        assert not [e for e in all_three.client.seen if isinstance(e, h2.events.StreamReset)]
        assert len(all_three.answers()) == 1 + begun


async def test_r21_a_status_of_our_own_is_a_whole_answer_of_grpc() -> None:
    async with between() as all_three:
        for data, want in ((embed(name="b"), 5), (embed(index=7), 5), (embed(model="m"), 5)):
            assert (await all_three.ask(data=framed(data)))[0] == want
            answer = dict(all_three.answers()[-1])
            assert (answer[":status"], answer["content-type"]) == ("200", "application/grpc")
            assert answer["grpc-message"]


async def _deaf(peer: Peer, _number: int) -> None:
    await peer.reader.read()  # and never answers, so calls wait for a stream


@pytest.mark.parametrize("lacks", ["streams", "memory"])
async def test_r21_a_refusal_for_want_of_room_says_when_to_try_again(
    lacks: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(backends, "MAX_WAITING", 0)
    async with between(_deaf) as all_three:
        pool = all_three.mux.switch.pool
        full = all_three.mux.switch.memory_mark + 1 if lacks == "memory" else 0
        pool.queued += full
        assert (await all_three.ask())[0] == Code.RESOURCE_EXHAUSTED
        pool.queued -= full
        assert ("grpc-retry-pushback-ms", "1000") in all_three.answers()[0]


async def test_r21_a_refusal_that_time_does_not_mend_says_nothing_of_trying_again() -> None:
    async with between() as all_three:
        code, _ = await all_three.ask(data=b"\0\xff\xff\xff\xff")
        assert code == Code.RESOURCE_EXHAUSTED
        assert (await all_three.ask(("x-long", "v" * 17_000)))[0] == Code.RESOURCE_EXHAUSTED
        assert not any("grpc-retry-pushback-ms" in dict(answer) for answer in all_three.answers())


async def test_r21_a_client_out_of_slots_is_refused_so_that_it_may_try_again() -> None:
    """REFUSED_STREAM is HTTP/2's word for it (RFC 9113 8.7), which every gRPC library retries."""
    async with between(lambda peer, _: peer.start(), max_parallel_streams=1) as all_three:
        client = all_three.client
        client.request(path("EmbedStream"))
        late = client.request(path("EmbedStream"))
        await client.flush()
        assert (await client.next(h2.events.StreamReset, late)).error_code == 7


async def test_r21_an_answer_of_ours_behind_an_unfinished_question_ends_both_sides() -> None:
    async with between() as all_three:
        assert (await all_three.ask(data=framed(embed(name="b")), end=False))[0] == 5
        reset = await all_three.client.next(h2.events.StreamReset)
        assert reset.error_code == 0
