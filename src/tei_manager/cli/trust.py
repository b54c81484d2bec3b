"""The certificates that a command needs where a server has TLS: flags before the command's name."""

from __future__ import annotations

import os
from contextvars import ContextVar
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from tei_manager.errors import CertificateRefused

if TYPE_CHECKING:
    import ssl

    import grpc

_VARIABLES = ("TEI_MANAGER_CA", "TEI_MANAGER_CERT", "TEI_MANAGER_KEY")

Ca = Annotated[
    Path | None,
    typer.Option(
        "--ca", envvar=_VARIABLES[0], help="PEM; the CA of the server, if the system has it not."
    ),
]
Cert = Annotated[
    Path | None,
    typer.Option("--cert", envvar=_VARIABLES[1], help="PEM; certificate to show to the server."),
]
Key = Annotated[
    Path | None, typer.Option("--key", envvar=_VARIABLES[2], help="PEM; the key of --cert.")
]


@dataclass(frozen=True, slots=True)
class Trust:
    """Whom a command trusts, and how it shows who it is.

    Args:
        ca: Certificate of the server's CA; ``None`` for those that the system trusts.
        cert: To show, with those between it and its CA.
        key: Of ``cert``.
    """

    ca: Path | None = None
    cert: Path | None = None
    key: Path | None = None

    def context(self) -> ssl.SSLContext:
        """Return the means for HTTPS.

        Raises:
            CertificateRefused: A file cannot be used.
        """
        import ssl

        try:
            context = ssl.create_default_context(cafile=self.ca)
            if self.cert is not None:
                context.load_cert_chain(self.cert, self.key)
        except OSError as error:
            raise CertificateRefused(f"--ca, --cert or --key cannot be used: {error}") from None
        return context

    def credentials(self) -> grpc.ChannelCredentials:
        """Return the means for gRPC.

        Raises:
            CertificateRefused: A file cannot be read.
        """
        import grpc

        try:
            ca, cert, key = (
                path.read_bytes() if path else None for path in (self.ca, self.cert, self.key)
            )
        except OSError as error:
            raise CertificateRefused(f"--ca, --cert or --key cannot be read: {error}") from None
        return grpc.ssl_channel_credentials(ca, key, cert)


_given: ContextVar[Trust | None] = ContextVar("trust", default=None)


def use(trust: Trust) -> None:
    """Let this run of a command trust what its flags say."""
    _given.set(trust)


def trust() -> Trust:
    """Return what the flags say; where no command runs, as in completion, the environment."""
    files = (Path(os.environ[name]) if name in os.environ else None for name in _VARIABLES)
    return _given.get() or Trust(*files)
