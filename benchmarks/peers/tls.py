"""Certificates for a measurement with TLS: of an authority of its own, gone when it ends."""

from __future__ import annotations

import ssl
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import trustme


@dataclass(frozen=True)
class Tls:
    """What proxies and their clients need for TLS 1.3 with HTTP/2, all of it as PEM files.

    Args:
        cert: The proxy's certificate.
        key: Its key.
        both: The two in one file, which HAProxy wants.
        authority: Certificate of the CA, for clients.
    """

    cert: Path
    key: Path
    both: Path
    authority: Path

    def client(self) -> ssl.SSLContext:
        """Return what a client needs."""
        context = ssl.create_default_context(cafile=str(self.authority))
        context.minimum_version = ssl.TLSVersion.TLSv1_3
        context.set_alpn_protocols(["h2"])
        return context


@contextmanager
def certificates() -> Iterator[Tls]:
    """Issue a certificate for the loopback address; the files go away at the end."""
    authority = trustme.CA()
    issued = authority.issue_cert("127.0.0.1")
    with tempfile.TemporaryDirectory() as folder:
        names = ("cert.pem", "cert.key", "both.pem", "ca.pem")
        tls = Tls(*(Path(folder) / name for name in names))
        issued.cert_chain_pems[0].write_to_path(str(tls.cert))
        issued.private_key_pem.write_to_path(str(tls.key))
        issued.private_key_and_cert_chain_pem.write_to_path(str(tls.both))
        authority.cert_pem.write_to_path(str(tls.authority))
        yield tls
