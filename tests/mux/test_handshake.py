"""Who does not come in by TLS: what each sees, what it is counted as, and that no call passed."""

from __future__ import annotations

import asyncio
import contextlib
import ssl
import warnings
from collections.abc import Callable, Iterator
from pathlib import Path
from time import monotonic

import grpc
import grpc.aio
import h2.events
import pytest
from authority import EXPIRED, NOT_YET_VALID, Authority
from cryptography import x509
from cryptography.x509.oid import ExtendedKeyUsageOID
from fake_tei import FakeTei, fake_tei
from http2_peer import Peer, connect
from multiplexer import Multiplexer, embed, framed, multiplexer, path, until

pytestmark = pytest.mark.asyncio

CALLER = "client.example"
Pair = tuple[Path, Path]


@pytest.fixture
def authority(tmp_path: Path) -> Authority:
    return Authority(tmp_path)


def stranger(authority: Authority) -> Pair:
    return Authority(authority.folder, "stranger").issue("client", CALLER)


def self_signed(authority: Authority) -> Pair:
    """A CA's own certificate, which names itself its issuer."""
    own = Authority(authority.folder, "own")
    key = authority.folder / "own.key"
    own.ca.private_key_pem.write_to_path(str(key))
    return own.file, key


def for_servers_only(authority: Authority) -> Pair:
    return authority.altered("client", x509.ExtendedKeyUsage([ExtendedKeyUsageOID.SERVER_AUTH]))


UNVERIFIED: dict[str, Callable[[Authority], Pair | None]] = {
    "expired": lambda it: it.issue("client", CALLER, **EXPIRED),
    "not yet valid": lambda it: it.issue("client", CALLER, **NOT_YET_VALID),
    "of another CA": stranger,
    "self-signed": self_signed,
    "for servers only": for_servers_only,
}


async def sees_its_connection_end(mux: Multiplexer, context: ssl.SSLContext) -> None:
    """Try a call; the client's own hand-shake may be over before the server's has failed."""
    with pytest.raises((ConnectionError, ssl.SSLError)):
        async with connect(mux.port, context) as client:
            await try_a_call(client)


async def try_a_call(client: Peer) -> None:
    client.request(path("Embed"), data=framed(embed()), end=True)
    await client.flush()
    await client.next(h2.events.ResponseReceived)


def no_call_passed(tei: FakeTei, mux: Multiplexer, **rejected: int) -> None:
    report = mux.switch.counters.to_json()
    assert report["rejected"] == rejected
    assert report["responses"] == {}
    assert not tei.calls


@pytest.mark.parametrize("case", UNVERIFIED)
async def test_a_certificate_that_does_not_verify_ends_the_hand_shake(
    authority: Authority, case: str
) -> None:
    async with (
        fake_tei() as tei,
        multiplexer(("a", tei.port), tls=authority.mutual(CALLER)) as mux,
    ):
        pair = UNVERIFIED[case](authority)
        await sees_its_connection_end(mux, authority.client(pair))
        no_call_passed(tei, mux, tls_client_certificate=1)
        async with authority.channel(mux.port, pair) as channel:
            with pytest.raises(grpc.aio.AioRpcError) as failure:
                await channel.unary_unary(path("Embed"))(embed(), timeout=10)
        assert failure.value.code() is grpc.StatusCode.UNAVAILABLE
        assert not tei.calls


async def test_a_client_without_a_certificate_does_not_come_in(authority: Authority) -> None:
    async with fake_tei() as tei, multiplexer(("a", tei.port), tls=authority.mutual()) as mux:
        await sees_its_connection_end(mux, authority.client())
        no_call_passed(tei, mux, tls_no_client_certificate=1)


NAMES = {
    "another": x509.DNSName("other.example"),
    "one that contains it": x509.DNSName("a.client.example"),
    "one that begins with it": x509.DNSName("client.example.evil"),
    "a part of it": x509.DNSName("client.exampl"),
    "another case": x509.DNSName("Client.example"),
    "a wildcard over it": x509.DNSName("*.example"),
    "two in one": x509.DNSName("client.example,other"),
    "another kind": x509.UniformResourceIdentifier(CALLER),
}


@pytest.mark.parametrize("case", NAMES)
async def test_only_the_very_name_is_allowed(authority: Authority, case: str) -> None:
    names = x509.SubjectAlternativeName([NAMES[case]])
    await is_told_that_its_name_is_not_allowed(authority, authority.altered("client", names))


async def test_a_common_name_is_no_name(authority: Authority) -> None:
    pair = authority.issue("client", common_name=CALLER)
    await is_told_that_its_name_is_not_allowed(authority, pair)


async def is_told_that_its_name_is_not_allowed(authority: Authority, pair: Pair) -> None:
    async with (
        fake_tei() as tei,
        multiplexer(("a", tei.port), tls=authority.mutual(CALLER)) as mux,
    ):
        async with connect(mux.port, authority.client(pair)) as client:
            client.request(path("Embed"), data=framed(embed()), end=True)
            await client.flush()
            goodbye = await client.next(h2.events.ConnectionTerminated)
            assert goodbye.error_code == 12  # INADEQUATE_SECURITY
            text = b"no name in the client's certificate is allowed here"
            assert goodbye.additional_data == text
        async with authority.channel(mux.port, pair) as channel:
            with pytest.raises(grpc.aio.AioRpcError) as failure:
                await channel.unary_unary(path("Embed"))(embed(), timeout=10)
        assert failure.value.code() is grpc.StatusCode.UNAVAILABLE
        assert mux.switch.counters.rejected["tls_client_name"] >= 2
        assert not tei.calls


@pytest.mark.parametrize("name", ["spiffe://cluster/ns/rag", "10.1.2.3", "ops@client.example"])
async def test_names_of_every_kind_can_be_allowed(authority: Authority, name: str) -> None:
    if "://" in name:
        names = x509.SubjectAlternativeName([x509.UniformResourceIdentifier(name)])
        pair = authority.altered("client", names)
    else:
        pair = authority.issue("client", name)
    async with (
        fake_tei() as tei,
        multiplexer(("a", tei.port), tls=authority.mutual(name)) as mux,
        connect(mux.port, authority.client(pair)) as client,
    ):
        await try_a_call(client)


@pytest.mark.parametrize("offered", [[], ["http/1.1"]], ids=["nothing", "http/1.1"])
async def test_without_h2_in_alpn_the_connection_ends(
    authority: Authority, offered: list[str]
) -> None:
    context = ssl.create_default_context(cafile=str(authority.file))
    if offered:
        context.set_alpn_protocols(offered)
    async with fake_tei() as tei, multiplexer(("a", tei.port), tls=authority.server()) as mux:
        async with connect(mux.port, context) as client:
            client.request(path("Embed"), data=framed(embed()), end=True)
            await client.flush()
            goodbye = await client.next(h2.events.ConnectionTerminated)
            assert goodbye.additional_data == b"offer the protocol h2 in ALPN"
            await client.closed()
        no_call_passed(tei, mux, tls_no_h2=1)


@contextlib.contextmanager
def old_tls(context: ssl.SSLContext) -> Iterator[None]:
    """Let a context speak TLS 1.1, which Python and OpenSSL both discourage."""
    context.set_ciphers("ALL:@SECLEVEL=0")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)
        context.minimum_version = ssl.TLSVersion.TLSv1
        context.maximum_version = ssl.TLSVersion.TLSv1_1
        yield


async def test_tls_1_1_is_not_spoken(authority: Authority) -> None:
    context = authority.client()
    async with fake_tei() as tei, multiplexer(("a", tei.port), tls=authority.server()) as mux:
        with old_tls(context):
            await sees_its_connection_end(mux, context)
        no_call_passed(tei, mux, tls_version=1)


async def test_tls_1_2_is_spoken(authority: Authority) -> None:
    context = authority.client()
    context.maximum_version = ssl.TLSVersion.TLSv1_2
    async with (
        fake_tei() as tei,
        multiplexer(("a", tei.port), tls=authority.server()) as mux,
        connect(mux.port, context) as client,
    ):
        await try_a_call(client)


@pytest.mark.parametrize("said", [b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n", b"GET / HTTP/1.1\r\n\r\n"])
async def test_who_does_not_speak_tls_is_ended_at_once(authority: Authority, said: bytes) -> None:
    async with fake_tei() as tei, multiplexer(("a", tei.port), tls=authority.server()) as mux:
        reader, writer = await asyncio.open_connection("127.0.0.1", mux.port)
        writer.write(said)
        with contextlib.suppress(ConnectionError):
            assert await asyncio.wait_for(reader.read(), 5) == b""
        writer.close()
        no_call_passed(tei, mux, tls_plaintext=1)


async def test_who_speaks_tls_where_there_is_none_is_ended_at_once(authority: Authority) -> None:
    async with fake_tei() as tei, multiplexer(("a", tei.port)) as mux:
        with pytest.raises((ConnectionError, ssl.SSLError)):
            async with connect(mux.port, authority.client()):
                pass
        await until(lambda: bool(mux.switch.counters.broken["client"]))
        assert mux.switch.counters.broken["client"] == {"protocol_error": 1}
        assert not tei.calls


async def test_a_slow_hand_shake_is_ended_and_counts_as_a_connection(authority: Authority) -> None:
    tls = authority.server(handshake_secs=0.3)
    async with multiplexer(tls=tls, max_connections=1) as mux:
        start = monotonic()
        reader, writer = await asyncio.open_connection("127.0.0.1", mux.port)
        writer.write(b"\x16\x03\x01")  # the first octets of one
        late, late_writer = await asyncio.open_connection("127.0.0.1", mux.port)
        assert await asyncio.wait_for(late.read(), 5) == b""
        with contextlib.suppress(ConnectionError):
            assert await asyncio.wait_for(reader.read(), 5) == b""
        assert monotonic() - start >= 0.3
        for each in (writer, late_writer):
            each.close()
        rejected = {"too_many_connections": 1, "tls_timeout": 1}
        assert mux.switch.counters.rejected == rejected
        async with connect(mux.port, authority.client()) as client:
            await client.next(h2.events.RemoteSettingsChanged)


async def test_clients_that_go_during_the_hand_shake_are_not_counted_for_ever(
    authority: Authority,
) -> None:
    async with multiplexer(tls=authority.server(), max_connections=3) as mux:
        rejected = mux.switch.counters.rejected
        for number in range(20):
            _, writer = await asyncio.open_connection("127.0.0.1", mux.port)
            writer.write(b"\x16\x03\x01")
            writer.close()
            await until(lambda: sum(rejected.values()) == number + 1)  # noqa: B023
        async with connect(mux.port, authority.client()) as client:
            await client.next(h2.events.RemoteSettingsChanged)
