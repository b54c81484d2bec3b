"""The own metrics of instances: what hangs, lies or is gone costs nothing but its own series."""

from __future__ import annotations

import asyncio
import contextlib
import logging
from collections.abc import AsyncIterator, Awaitable, Callable

import pytest
import pytest_asyncio
from te_metrics import te_page

from tei_manager.manager import scraper as rules
from tei_manager.manager.scraper import Scraper, Target

pytestmark = pytest.mark.asyncio

LONG = 30.0
"""Seconds for instances that answer; nobody waits for it on an idle machine."""

Answer = Callable[[asyncio.StreamWriter], Awaitable[None]]


class Instances:
    """Exporters with answers of our choice, which count how often they are asked."""

    def __init__(self, stack: contextlib.AsyncExitStack) -> None:
        self._stack = stack
        self.asked = 0

    async def add(self, name: str, answer: Answer) -> Target:
        async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            with contextlib.suppress(ConnectionError, asyncio.IncompleteReadError):
                await reader.readuntil(b"\r\n\r\n")
                self.asked += 1
                await answer(writer)
            writer.close()

        server = await asyncio.start_server(serve, "127.0.0.1", 0)
        await self._stack.enter_async_context(server)
        return Target(name, f"org/{name}", "127.0.0.1", server.sockets[0].getsockname()[1])


@pytest_asyncio.fixture
async def instances() -> AsyncIterator[Instances]:
    async with contextlib.AsyncExitStack() as stack:
        yield Instances(stack)


@contextlib.asynccontextmanager
async def scraper(limit: float = LONG) -> AsyncIterator[Scraper]:
    made = Scraper(limit)
    try:
        yield made
    finally:
        await made.close()


def says(body: bytes, status: bytes = b"200 OK") -> Answer:
    async def answer(writer: asyncio.StreamWriter) -> None:
        writer.write(b"HTTP/1.1 %b\r\ncontent-length: %d\r\n\r\n%b" % (status, len(body), body))
        await writer.drain()

    return answer


async def flood(writer: asyncio.StreamWriter) -> None:
    writer.write(b"HTTP/1.1 200 OK\r\n\r\n")
    while True:
        writer.write(b"te_x 1\n" * 10_000)
        await writer.drain()


good = says(te_page().encode())


async def test_instances_are_told_apart(instances: Instances) -> None:
    both = [await instances.add(name, good) for name in ("a", "b")]
    async with scraper() as scraped:
        page = (await scraped.page(both)).decode()
    assert 'te_queue_size{instance="a",model="org/a"} 7.0' in page
    assert 'te_queue_size{instance="b",model="org/b"} 7.0' in page


@pytest.mark.parametrize(
    ("answer", "reason"),
    [
        (says(b"te_x{ 1\n"), "text format"),
        (says(b"te_x 1\n", b"404 Not Found"), "404"),
        (says(b"\xff"), "utf-8"),
        (flood, "octets"),
    ],
)
async def test_answer_that_is_no_page_is_counted_and_hides_nobody_else(
    instances: Instances, answer: Answer, reason: str, caplog: pytest.LogCaptureFixture
) -> None:
    both = [await instances.add("a", good), await instances.add("bad", answer)]
    async with scraper() as scraped:
        page = await scraped.page(both)
        assert scraped.failures == {"bad": 1}
    assert b'te_queue_size{instance="a"' in page
    assert b"te_x" not in page
    (record,) = [record for record in caplog.records if record.levelno == logging.WARNING]
    assert vars(record)["instance"] == "bad"
    assert caplog.text.count("Instance 'bad': its own metrics cannot be read") == 1
    assert reason in caplog.text


async def test_instance_that_is_gone_is_counted(instances: Instances) -> None:
    gone = await instances.add("gone", good)
    await instances._stack.aclose()
    async with scraper() as scraped:
        assert await scraped.page([gone]) == b""
        assert scraped.failures == {"gone": 1}


async def test_all_are_asked_at_the_same_time(instances: Instances) -> None:
    """Nobody answers before all were asked, so one after the other none would in time."""
    all_asked = asyncio.Event()

    async def answer(writer: asyncio.StreamWriter) -> None:
        if instances.asked == 8:
            all_asked.set()
        await all_asked.wait()
        await good(writer)

    eight = [await instances.add(f"i{number}", answer) for number in range(8)]
    async with scraper() as scraped:
        page = await scraped.page(eight)
        assert scraped.failures == {}
    assert page.count(b"te_queue_size{") == 8


async def test_instance_that_hangs_is_left_after_the_limit_and_told_of_once(
    instances: Instances, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(rules, "FRESH", -1.0)
    over = asyncio.Event()

    async def hang(writer: asyncio.StreamWriter) -> None:
        await over.wait()

    hung = await instances.add("hung", hang)
    async with scraper(0.1) as scraped:
        for _ in range(2):
            assert await scraped.page([hung]) == b""
        assert scraped.failures == {"hung": 2}
    over.set()
    assert caplog.text.count("'hung': its own metrics cannot be read") == 1


async def test_two_readers_cost_the_instances_one_question(
    instances: Instances, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(rules, "FRESH", 1e9)
    target = await instances.add("a", good)
    async with scraper() as scraped:
        first, second = await asyncio.gather(scraped.page([target]), scraped.page([target]))
    assert first == second != b""
    assert instances.asked == 1


async def test_what_is_old_is_asked_for_again(
    instances: Instances, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(rules, "FRESH", -1.0)
    target = await instances.add("a", good)
    async with scraper() as scraped:
        await scraped.page([target])
        await scraped.page([target])
    assert instances.asked == 2


async def test_instance_that_is_gone_from_the_targets_is_gone_from_the_page(
    instances: Instances, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(rules, "FRESH", 1e9)
    both = [await instances.add(name, good) for name in ("a", "b")]
    async with scraper() as scraped:
        assert b'instance="b"' in await scraped.page(both)
        assert b'instance="b"' not in await scraped.page(both[:1])


async def test_failures_of_an_instance_that_does_not_exist_any_more_are_forgotten(
    instances: Instances,
) -> None:
    bad = [await instances.add(name, says(b"", b"500 No")) for name in ("a", "b")]
    async with scraper() as scraped:
        await scraped.page(bad)
        scraped.retain({"b"})
        assert scraped.failures == {"b": 1}


async def test_turn_of_the_loop_begins_one_request(
    instances: Instances, monkeypatch: pytest.MonkeyPatch
) -> None:
    """However many instances there are; a request is a millisecond's work."""
    turn, begun, read = 0, list[int](), Scraper._read

    async def count() -> None:
        nonlocal turn
        while True:
            turn += 1
            await asyncio.sleep(0)

    async def counted(self: Scraper, target: Target) -> bytes | Exception:
        begun.append(turn)
        return await read(self, target)

    monkeypatch.setattr(Scraper, "_read", counted)
    targets = [await instances.add(f"i{number}", says(te_page().encode())) for number in range(20)]
    counting = asyncio.create_task(count())
    async with scraper() as made:
        page = await made.page(targets)
    counting.cancel()
    assert all(f'instance="{target.instance}"'.encode() in page for target in targets)
    assert len(set(begun)) == len(targets)
