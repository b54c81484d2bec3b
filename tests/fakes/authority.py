"""A certificate authority of the tests' own, and files with what it issues."""

from __future__ import annotations

import ssl
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import grpc
import grpc.aio
import trustme
from cryptography import x509
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.serialization import Encoding, load_pem_private_key
from multiplexer import CHANNEL_OPTIONS

from tei_manager.tls import Tls

DAY = timedelta(days=1)
_NOW = datetime.now(UTC)
EXPIRED = {"not_before": _NOW - 2 * DAY, "not_after": _NOW - DAY}
NOT_YET_VALID = {"not_before": _NOW + DAY, "not_after": _NOW + 2 * DAY}


class Authority:
    """A CA, and a folder with its certificate and those that it has issued.

    Args:
        folder: For the files.
        name: Of its own file; two in one folder need two names.
    """

    def __init__(self, folder: Path, name: str = "ca") -> None:
        self.folder = folder
        self.ca = trustme.CA()
        self.file = folder / f"{name}.pem"
        self.ca.cert_pem.write_to_path(str(self.file))

    def server(self, **fields: Any) -> Tls:
        """TLS with a certificate for localhost; ``fields`` are of `Tls`."""
        cert, key = self.issue("server", "localhost", "127.0.0.1")
        return replace(Tls(str(cert), str(key)), **fields)

    def mutual(self, *names: str, **fields: Any) -> Tls:
        """The same, and clients need a certificate of this CA."""
        return self.server(client_ca_file=str(self.file), client_names=names, **fields)

    def issue(self, file: str, *names: str, **fields: Any) -> tuple[Path, Path]:
        """Write a certificate and its key, each whole at once, and return where they are."""
        return self.write(file, self.ca.issue_cert(*names, **fields))

    def write(self, file: str, issued: trustme.LeafCert) -> tuple[Path, Path]:
        cert, key = self.folder / f"{file}.pem", self.folder / f"{file}.key"
        swap(key, issued.private_key_pem.bytes())
        swap(cert, b"".join(pem.bytes() for pem in issued.cert_chain_pems))
        return cert, key

    def altered(self, file: str, *extensions: x509.ExtensionType) -> tuple[Path, Path]:
        """Issue a certificate with these extensions in place of its own of their kinds."""
        cert, key = self.issue(file, "client.example")
        known = x509.load_pem_x509_certificate(cert.read_bytes())
        builder = x509.CertificateBuilder(
            known.issuer, known.subject, known.public_key(), known.serial_number,
            known.not_valid_before_utc, known.not_valid_after_utc,
        )  # fmt: skip
        given = {extension.oid: extension for extension in extensions}
        for old in known.extensions:
            builder = builder.add_extension(given.get(old.oid, old.value), old.critical)
        signer: Any = load_pem_private_key(self.ca.private_key_pem.bytes(), None)
        swap(cert, builder.sign(signer, SHA256()).public_bytes(Encoding.PEM))
        return cert, key

    def client(self, pair: tuple[Path, Path] | None = None) -> ssl.SSLContext:
        """What a client with Python's ``ssl`` needs, with a certificate of its own or without."""
        context = ssl.create_default_context(cafile=str(self.file))
        context.set_alpn_protocols(["h2"])
        if pair:
            context.load_cert_chain(*pair)
        return context

    def channel(self, port: int, pair: tuple[Path, Path] | None = None) -> Any:
        """A gRPC channel with TLS, untyped, as octets go raw."""
        cert, key = (path.read_bytes() for path in pair) if pair else (None, None)
        credentials = grpc.ssl_channel_credentials(self.file.read_bytes(), key, cert)
        return grpc.aio.secure_channel(f"localhost:{port}", credentials, CHANNEL_OPTIONS)


def swap(path: Path, data: bytes) -> None:
    """Put a whole file into another's place."""
    beside = path.with_suffix(".new")
    beside.touch(0o600)
    beside.write_bytes(data)
    beside.replace(path)
