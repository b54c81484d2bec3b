"""What becomes of a client's TLS hand-shake: who may stay, and what a failed one is counted as.

A client that is refused behind its hand-shake is told why by a GOAWAY, since HTTP/2 over TLS is
what it speaks by then, or should (RFC 9113 3.3, 9.2); nothing that it sent is read. One whose
hand-shake fails sees its connection end: uvloop does not deliver the alert that says why.
"""

from __future__ import annotations

import asyncio
import ssl
from typing import cast

from tei_manager.tls import Certificates

PROTOCOL = "h2"
"""What HTTP/2 over TLS is called in ALPN (RFC 9113 3.2)."""

SHUTDOWN_SECONDS = 5.0
"""How long a client may take for its close_notify: as long as a closing transport gets."""

_REASONS = {
    "HTTP_REQUEST": "tls_plaintext",
    "WRONG_VERSION_NUMBER": "tls_plaintext",
    "UNSUPPORTED_PROTOCOL": "tls_version",
    "PEER_DID_NOT_RETURN_A_CERTIFICATE": "tls_no_client_certificate",
    "CERTIFICATE_VERIFY_FAILED": "tls_client_certificate",
}


def objection(
    certificates: Certificates, transport: asyncio.BaseTransport
) -> tuple[str, str] | None:
    """Return why a client whose hand-shake went well may not stay; ``None`` if it may.

    Returns:
        A label for the metrics, and a sentence for the client.
    """
    connection = cast(ssl.SSLObject, transport.get_extra_info("ssl_object"))
    if connection.selected_alpn_protocol() != PROTOCOL:
        return "tls_no_h2", "offer the protocol h2 in ALPN"
    if not certificates.admits(connection.getpeercert()):
        return "tls_client_name", "no name in the client's certificate is allowed here"
    return None


def failure(error: OSError) -> str:
    """Return what a hand-shake that failed is counted as; from a fixed set."""
    if isinstance(error, ssl.SSLError):
        return _REASONS.get(getattr(error, "reason", None) or "", "tls_handshake")
    return "tls_timeout" if isinstance(error, ConnectionAbortedError) else "tls_lost"
