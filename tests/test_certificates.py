"""Files of a port with TLS: what is taken up, what is refused, and what is said of it."""

from __future__ import annotations

import asyncio
import logging
import ssl
from collections.abc import Callable
from pathlib import Path

import pytest
from authority import EXPIRED, NOT_YET_VALID, Authority, swap
from multiplexer import until

from tei_manager.errors import CertificateRefused
from tei_manager.settings.sections import GrpcSettings
from tei_manager.tls import Certificates, CurrentContext, Tls


@pytest.fixture
def authority(tmp_path: Path) -> Authority:
    return Authority(tmp_path)


def shown(context: ssl.SSLContext, authority: Authority) -> bytes:
    """Shake hands in memory and return the certificate that the server shows."""
    to_server, to_client = ssl.MemoryBIO(), ssl.MemoryBIO()
    server = context.wrap_bio(to_server, to_client, server_side=True)
    client = authority.client().wrap_bio(to_client, to_server, server_hostname="localhost")
    for side in (client, server, client):
        try:
            side.do_handshake()
        except ssl.SSLWantReadError:
            continue
    return client.getpeercert(binary_form=True) or b""


def foreign_key(authority: Authority) -> None:
    _, key = authority.issue("other", "localhost")
    key.replace(authority.folder / "server.key")


def put(name: str, data: bytes) -> Callable[[Authority], None]:
    return lambda authority: swap(authority.folder / name, data)


def half_written(authority: Authority) -> None:
    cert = authority.folder / "server.pem"
    swap(cert, cert.read_bytes()[:300])


def encrypted(authority: Authority) -> None:
    from cryptography.hazmat.primitives import serialization as to

    key = authority.folder / "server.key"
    known = to.load_pem_private_key(key.read_bytes(), None)
    locked = to.BestAvailableEncryption(b"secret")
    swap(key, known.private_bytes(to.Encoding.PEM, to.PrivateFormat.PKCS8, locked))


BAD: dict[str, tuple[Callable[[Authority], object], str]] = {
    "the key of another": (foreign_key, "the key is not that of the certificate"),
    "a certificate of garbage": (put("server.pem", b"garbage"), "not whole, or not PEM"),
    "a key of garbage": (put("server.key", b"garbage"), "not whole, or not PEM"),
    "an empty certificate": (put("server.pem", b""), "not whole, or not PEM"),
    "a half-written certificate": (half_written, "not whole, or not PEM"),
    "a CA of garbage": (put("ca.pem", b"garbage"), "not whole, or not PEM"),
    "an encrypted key": (encrypted, "store it without a password"),
    "no key": (lambda it: (it.folder / "server.key").unlink(), "cannot be read"),
    "an expired one": (lambda it: it.issue("server", "localhost", **EXPIRED), "has expired"),
    "an early one": (
        lambda it: it.issue("server", "localhost", **NOT_YET_VALID),
        "is not yet valid",
    ),
}


@pytest.mark.parametrize("case", BAD)
def test_files_that_cannot_be_used_change_nothing_and_are_told_once(
    authority: Authority, case: str, caplog: pytest.LogCaptureFixture
) -> None:
    spoil, sentence = BAD[case]
    tls = authority.mutual()
    certificates = Certificates(tls, "h2")
    before = certificates.context, certificates.expires
    spoil(authority)
    for _ in range(3):
        certificates.refresh()
    assert (certificates.context, certificates.expires) == before
    assert certificates.reloads == {"taken": 0, "refused": 1}
    (line,) = [record.message for record in caplog.records if "stays" in record.message]
    assert sentence in line
    assert "PRIVATE KEY" not in line
    with pytest.raises(CertificateRefused, match=sentence):
        Certificates(tls, "h2")


def test_a_good_pair_after_a_bad_one_is_taken_up(authority: Authority) -> None:
    certificates = Certificates(authority.server(), "h2")
    first = shown(certificates.context, authority)
    (authority.folder / "server.pem").write_bytes(b"garbage")
    certificates.refresh()
    assert shown(certificates.context, authority) == first
    authority.server()
    certificates.refresh()
    assert shown(certificates.context, authority) != first
    assert certificates.reloads == {"taken": 1, "refused": 1}


def test_a_writer_who_is_slow_is_waited_for(authority: Authority) -> None:
    """The key lies there a while before its certificate does."""
    certificates = Certificates(authority.server(), "h2")
    cert, key = authority.issue("next", "localhost")
    key.replace(authority.folder / "server.key")
    certificates.refresh()
    assert certificates.reloads == {"taken": 0, "refused": 1}
    cert.replace(authority.folder / "server.pem")
    certificates.refresh()
    assert certificates.reloads == {"taken": 1, "refused": 1}


@pytest.mark.asyncio
async def test_whoever_asks_need_not_wait_for_the_next_look(
    authority: Authority, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("tei_manager.watched.LOOK_SECONDS", 3600)
    certificates = Certificates(authority.server(), "h2")
    authority.server()
    watching = asyncio.create_task(certificates.watch())
    certificates.look_now()
    await until(lambda: bool(certificates.reloads["taken"]), limit=20)
    watching.cancel()


def test_a_server_that_is_given_one_context_shows_each_new_certificate(
    authority: Authority,
) -> None:
    certificates = Certificates(authority.server(), "h2")
    current = CurrentContext.of(certificates)
    first = shown(current, authority)
    authority.server()
    certificates.refresh()
    assert shown(current, authority) != first


def test_a_key_that_everybody_can_read_is_warned_of(
    authority: Authority, caplog: pytest.LogCaptureFixture
) -> None:
    tls = authority.server()
    Certificates(tls, "h2")
    assert not caplog.records
    Path(tls.key_file).chmod(0o644)
    with caplog.at_level(logging.WARNING):
        Certificates(tls, "h2")
    assert caplog.messages == [f"Every user of this machine can read {tls.key_file}; chmod 640 it"]


def test_what_travels_to_a_worker_is_what_comes_out_there(authority: Authority) -> None:
    tls = authority.mutual("client.example")
    assert Tls.from_json(tls.to_json()) == tls


def test_settings_without_a_certificate_ask_for_no_tls() -> None:
    assert Tls.of(GrpcSettings()) is None


@pytest.mark.parametrize(("allowed", "name"), [("::1", "0:0:0:0:0:0:0:1"), ("10.0.0.1",) * 2])
def test_an_address_is_the_same_however_it_is_written(
    authority: Authority, allowed: str, name: str
) -> None:
    certificates = Certificates(authority.mutual(allowed), "h2")
    assert certificates.admits({"subjectAltName": (("IP Address", name),)})
    assert not certificates.admits({"subjectAltName": (("DNS", name),)})
    assert not certificates.admits({})
    assert not certificates.admits(None)
