"""TLS and the Unix socket under a real manager: taken over, rotated without it, and cleaned up."""

from __future__ import annotations

import asyncio
import signal
import socket
import ssl
from pathlib import Path
from typing import Any

import pytest
from authority import Authority
from fake_tei import fake_tei
from manager_process import Home, Samples, calling, failures, more

pytestmark = [pytest.mark.asyncio, pytest.mark.timeout(240)]

EXPIRY = ("tei_grpc_multiplexer_tls_certificate_expiry_timestamp_seconds", ())
TAKEN = ("tei_grpc_multiplexer_tls_reloads_total", (("result", "taken"),))

GRPC = """
uds_path = "{folder}/mux.sock"
uds_mode = "0660"
tls_cert_file = "{folder}/server.pem"
tls_key_file = "{folder}/server.key"
tls_client_ca_file = "{folder}/ca.pem"
tls_client_names = ["client.example"]
"""


def shown(address: str, context: ssl.SSLContext) -> Any:
    """The certificate that the port shows to a new connection."""
    host, _, port = address.rpartition(":")
    with (
        socket.create_connection((host, int(port)), timeout=20) as plain,
        context.wrap_socket(plain, server_hostname="localhost") as client,
    ):
        return client.getpeercert(binary_form=True)


async def test_a_manager_that_comes_back_finds_both_doors_open_and_new_certificates_in_use(
    tmp_path: Path, homes: list[Home]
) -> None:
    authority = Authority(tmp_path)
    authority.server()
    pair = authority.issue("client", "client.example")

    def secure(address: str) -> Any:
        return authority.channel(int(address.rpartition(":")[2]), pair)

    async with fake_tei() as tei:
        more_grpc = GRPC.format(folder=tmp_path)
        homes.append(here := Home(tmp_path, tei.port, on_exit="leave", grpc_more=more_grpc))
        unix = tmp_path / "mux.sock"
        async with here.manager() as manager:
            await manager.all_run()
            async with (
                calling(here.address, "stub", "fake", connect=secure) as by_tls,
                calling(f"unix:{unix}", "stub", "fake") as by_unix,
            ):
                await manager.end(signal.SIGTERM)
                old = shown(here.address, authority.client(pair))
                authority.server()
                async with asyncio.timeout(60):
                    while shown(here.address, authority.client(pair)) == old:
                        await more(by_tls, 5)
                async with here.manager() as successor:
                    samples = await successor.samples_when(rotated_everywhere)
                    assert samples[EXPIRY] > 0
                    await more([*by_tls, *by_unix])
                    assert failures([*by_tls, *by_unix]) == []
                    assert unix.stat().st_mode & 0o777 == 0o660
        assert here.workers() == set()
        assert not unix.exists()


def rotated_everywhere(samples: Samples) -> bool:
    return samples.get(TAKEN, 0) == 2  # one for each worker
