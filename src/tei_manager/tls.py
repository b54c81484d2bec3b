"""TLS of a listening port: the context made of its files, and new files taken up while it serves.

Theory
    A context is never changed once it is used. Changed files make a new one, which serves the
    connections that come from then on; those that are there go on with what they shook hands on.
    So a rotation costs no call, and a client CA that was taken out of its file is out.

    Before a context is used it has to shake hands, in memory, with a client that trusts exactly
    this certificate. OpenSSL then judges the pair as clients will (expired, not valid yet, not for
    servers), and the dates come out of it decoded, which the standard library offers no other way.

Rules of this file
    1. Files that cannot be used change nothing, however they fail. They are tried again at each
       look, since a certificate may become valid, or a writer finish, without a sign in the files.
    2. Whether a client may come in is decided by the names in its verified certificate, kind and
       text, both exact: no substring, no wildcard, no other case, no common name.
    3. Nothing of a key is ever shown.

Known flaws
    A worker that starts while its files are bad has no earlier pair to keep, and ends.
    Lists of revoked certificates and OCSP are not asked.
"""

from __future__ import annotations

import logging
import os
import ssl
import stat
import time
from collections.abc import Iterable, Mapping
from contextlib import suppress
from dataclasses import asdict, dataclass
from ipaddress import ip_address
from typing import TYPE_CHECKING, Any

from tei_manager.errors import CertificateRefused
from tei_manager.watched import Watched

if TYPE_CHECKING:  # a worker does without the settings, and without what reads them
    from tei_manager.settings.sections import ApiSettings, GrpcSettings

logger = logging.getLogger(__name__)

HANDSHAKE_SECONDS = 5.0
"""How long a hand-shake may take: as long as the preface and SETTINGS of HTTP/2 behind it."""

_Signature = tuple[tuple[int, int, int], ...]


@dataclass(frozen=True, slots=True)
class Tls:
    """What TLS of one port is made of.

    Args:
        cert_file: PEM: the server's certificate, then those between it and its CA.
        key_file: PEM, not encrypted.
        client_ca_file: PEM: clients need a certificate that one of these CAs has signed; empty if
            they need none.
        client_names: Subject alternative names of the clients that may come in; empty for all
            that the CA has signed.
        handshake_secs: Limit of a hand-shake.
    """

    cert_file: str
    key_file: str
    client_ca_file: str = ""
    client_names: tuple[str, ...] = ()
    handshake_secs: float = HANDSHAKE_SECONDS

    @classmethod
    def of(cls, section: ApiSettings | GrpcSettings) -> Tls | None:
        """Return what a section of the settings asks for; ``None`` for no TLS."""
        if section.tls_cert_file is None or section.tls_key_file is None:
            return None
        ca = section.tls_client_ca_file
        return cls(
            str(section.tls_cert_file.absolute()),
            str(section.tls_key_file.absolute()),
            str(ca.absolute()) if ca else "",
            section.tls_client_names,
        )

    @classmethod
    def from_json(cls, document: dict[str, Any]) -> Tls:
        """Read what `to_json` wrote."""
        return cls(**{**document, "client_names": tuple(document["client_names"])})

    def to_json(self) -> dict[str, Any]:
        """Return the fields as JSON has them."""
        return asdict(self) | {"client_names": list(self.client_names)}

    @property
    def files(self) -> tuple[str, ...]:
        """The names of all files."""
        return tuple(filter(None, (self.cert_file, self.key_file, self.client_ca_file)))


class Certificates(Watched):
    """The files of one port as they are in force.

    Args:
        tls: Which files.
        protocol: The one protocol that is offered in ALPN.

    Attributes:
        tls: As given.
        context: For the next connection.
        expires: Seconds since 1970 at which the certificate in force does.
        reloads: How often changed files were ``taken`` and ``refused``.

    Raises:
        CertificateRefused: The files cannot be used now.
    """

    def __init__(self, tls: Tls, protocol: str) -> None:
        self.tls = tls
        self.reloads = {"taken": 0, "refused": 0}
        self._protocol = protocol
        super().__init__()
        self._names = frozenset(map(_kind_and_name, tls.client_names))
        self._refused: tuple[_Signature, str] | None = None
        self._taken = _signature(tls.files)
        self.context, self.expires = _load(tls, protocol)
        _look_at_mode(tls.key_file)

    def __repr__(self) -> str:
        return f"<Certificates: {self.tls.cert_file}, expires {_date(self.expires)}>"

    def refresh(self) -> None:
        """Take up the files if they have changed; what cannot be used is logged once."""
        seen: _Signature = ()
        try:
            seen = _signature(self.tls.files)
            if seen != self._taken:
                self.context, self.expires = _load(self.tls, self._protocol)
                self._taken = seen
                self.reloads["taken"] += 1
                logger.info("Took up %s, which expires %s", self.tls.cert_file, _date(self.expires))
        except CertificateRefused as error:
            if self._refused != (seen, str(error)):
                self._refused = seen, str(error)
                self.reloads["refused"] += 1
                logger.error("The certificate in force stays: %s", error)

    def admits(self, certificate: Mapping[str, Any] | None) -> bool:
        """Say whether a client may come in.

        Args:
            certificate: What `ssl.SSLObject.getpeercert` says of it, verified by the hand-shake.
        """
        if not self._names:
            return True
        given: Iterable[tuple[str, str]] = (certificate or {}).get("subjectAltName", ())
        return any((kind, _spelled(kind, name)) in self._names for kind, name in given)


class CurrentContext(ssl.SSLContext):
    """The context in force at each connection, for a server that is given one when it starts."""

    certificates: Certificates

    @classmethod
    def of(cls, certificates: Certificates) -> CurrentContext:
        """Return one that stands for whatever context these certificates have."""
        current = cls(ssl.PROTOCOL_TLS_SERVER)
        current.certificates = certificates
        return current

    def wrap_bio(self, *args: Any, **kwargs: Any) -> ssl.SSLObject:
        """Begin a connection, as the context in force does it."""
        return self.certificates.context.wrap_bio(*args, **kwargs)


def _load(tls: Tls, protocol: str) -> tuple[ssl.SSLContext, float]:
    """Return a context of the files as they are now, and when its certificate expires."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    context.options |= ssl.OP_NO_COMPRESSION | ssl.OP_NO_RENEGOTIATION  # RFC 9113 9.2.1
    context.set_alpn_protocols([protocol])
    try:
        context.load_cert_chain(tls.cert_file, tls.key_file, _no_password)
        expires = ssl.cert_time_to_seconds(_tried(context, tls.cert_file)["notAfter"])
        if tls.client_ca_file:
            context.load_verify_locations(tls.client_ca_file)
            context.verify_mode = ssl.CERT_REQUIRED
            context.num_tickets = 0  # a session that is resumed is not verified again
    except (OSError, ValueError) as error:
        raise CertificateRefused(f"{' and '.join(tls.files)}: {_reason(error)}") from None
    return context, float(expires)


def _tried(context: ssl.SSLContext, cert_file: str) -> dict[str, Any]:
    """Shake hands in memory with a client that trusts this one certificate; return it decoded."""
    client_side = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    client_side.check_hostname = False
    client_side.verify_flags |= ssl.VERIFY_X509_PARTIAL_CHAIN
    client_side.load_verify_locations(cert_file)
    to_server, to_client = ssl.MemoryBIO(), ssl.MemoryBIO()
    server = context.wrap_bio(to_server, to_client, server_side=True)
    client = client_side.wrap_bio(to_client, to_server)
    for side in (client, server, client):
        with suppress(ssl.SSLWantReadError):
            side.do_handshake()
    return client.getpeercert() or {}


def _no_password() -> str:
    raise ValueError("the key is encrypted; store it without a password")


def _reason(error: Exception) -> str:
    """Return a clause about what OpenSSL found; it never quotes a file."""
    if isinstance(error, ssl.SSLCertVerificationError):
        return error.verify_message
    if not isinstance(error, ssl.SSLError):
        return str(error)
    if error.reason == "KEY_VALUES_MISMATCH":
        return "the key is not that of the certificate"
    if error.reason is None or error.reason.startswith(("NO_", "BAD_", "NOT_")):
        return "one of them is not whole, or not PEM"
    return error.reason.lower().replace("_", " ")


def _signature(files: Iterable[str]) -> _Signature:
    """Return what changes when a file does; taken before the files are read."""
    try:
        found = [os.stat(file) for file in files]  # noqa: PTH116  # three times a second
    except OSError as error:
        reason = (error.strerror or "unknown error").lower()
        raise CertificateRefused(f"{error.filename}: cannot be read: {reason}") from None
    return tuple((it.st_ino, it.st_size, it.st_mtime_ns) for it in found)


def _look_at_mode(key_file: str) -> None:
    if os.stat(key_file).st_mode & stat.S_IROTH:  # noqa: PTH116  # a string, as OpenSSL wants it
        logger.warning("Every user of this machine can read %s; chmod 640 it", key_file)


def _kind_and_name(name: str) -> tuple[str, str]:
    """Return the kind of a name that was written without one, in OpenSSL's words, and the name."""
    with suppress(ValueError):
        return "IP Address", str(ip_address(name))
    kind = "URI" if ":" in name else "email" if "@" in name else "DNS"
    return kind, name


def _spelled(kind: str, name: str) -> str:
    """Return a name of a certificate as `_kind_and_name` has it: OpenSSL spells IPv6 in full."""
    return str(ip_address(name.strip())) if kind == "IP Address" else name


def _date(seconds: float) -> str:
    return time.strftime("%Y-%m-%d %H:%M UTC", time.gmtime(seconds))
