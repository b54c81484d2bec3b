"""Where external instances may be: what ``[instances] external_hosts`` allows.

Rules of this file
    1. Loopback addresses are always allowed; everything else has to be in the list.
    2. A name is compared as it is written, never by what it resolves to: whoever owns a name can
       let it point to an address that is allowed, and later elsewhere.
    3. Link-local addresses, and those at which clouds give out credentials (169.254.169.254), are
       allowed only by an entry of their own, not by ``*`` or a wider network; this also holds for
       what a name that is allowed resolves to.
    4. What is no address of one server (0.0.0.0, multicast) is never allowed.
"""

from __future__ import annotations

import ipaddress
import re
from collections.abc import Iterable
from typing import Annotated

from pydantic import AfterValidator

Address = ipaddress.IPv4Address | ipaddress.IPv6Address
Network = ipaddress.IPv4Network | ipaddress.IPv6Network

ANY = "*"

# fd00:ec2::254 is the address of AWS' instance metadata service in IPv6 (EC2's user guide).
_GUARDED: tuple[Network, ...] = (
    ipaddress.IPv4Network("169.254.0.0/16"),
    ipaddress.IPv6Network("fe80::/10"),
    ipaddress.IPv6Network("fd00:ec2::254/128"),
)

# The last label begins with a letter: resolvers read 2130706433, 0x7f.1 and 127.1 as addresses.
_NAME = re.compile(
    r"(?:[a-z0-9_](?:[a-z0-9_-]{0,61}[a-z0-9_])?\.)*[a-z](?:[a-z0-9-]{0,61}[a-z0-9])?"
)
_LONGEST_NAME = 253


def split_address(address: str) -> tuple[str, int]:
    """Split ``host:port`` of an external instance.

    Returns:
        An IP address without brackets, or a name in small letters; and the port.

    Raises:
        ValueError: It is not of that form; the sentence says what to write.
    """
    host, _, port = address.rpartition(":")
    if not port.isascii() or not port.isdigit() or not 0 < int(port[:6]) < 65536:
        raise ValueError("address must be host:port, such as 127.0.0.1:8080")
    bracketed = host.startswith("[") and host.endswith("]")
    return _host(host[1:-1] if bracketed else host, bracketed), int(port)


def _host(text: str, bracketed: bool) -> str:
    try:
        found = plain(text)
    except ValueError:
        name = text.lower().removesuffix(".")
        if bracketed or len(name) > _LONGEST_NAME or not _NAME.fullmatch(name):
            raise ValueError("address must be host:port, such as 127.0.0.1:8080") from None
        return "127.0.0.1" if name == "localhost" else name
    if bracketed != (ipaddress.ip_address(text).version == 6):
        raise ValueError("address: write an IPv6 address in brackets, such as [::1]:8080")
    return str(found)


def plain(text: str) -> Address:
    """Return an IP address; IPv4 that is written as IPv6 (``::ffff:127.0.0.1``) as IPv4.

    Raises:
        ValueError: It is none, or one with a zone.
    """
    found = ipaddress.ip_address(text)
    if isinstance(found, ipaddress.IPv6Address):
        if found.scope_id is not None:
            raise ValueError("zones are not supported")
        return found.ipv4_mapped or found
    return found


def _check_entry(value: str) -> str:
    try:
        AllowList([value])
    except ValueError as error:
        raise ValueError(
            f"write a name, an address or a network, such as 10.0.0.0/24, or * for any ({error})"
        ) from None
    return value


ExternalHost = Annotated[str, AfterValidator(_check_entry)]


class AllowList:
    """The entries of ``external_hosts``, read.

    Args:
        entries: Names, addresses, networks in CIDR notation, or `ANY`.

    Raises:
        ValueError: One is none of these.
    """

    def __init__(self, entries: Iterable[str]) -> None:
        self._names: set[str] = set()
        self._networks: list[Network] = []
        for entry in entries:
            if entry == ANY:
                self._names.add(ANY)
            elif "/" in entry:
                self._networks.append(ipaddress.ip_network(entry))
            else:
                self._add(split_address(f"[{entry}]:1" if ":" in entry else f"{entry}:1")[0])

    def _add(self, host: str) -> None:
        try:
            self._networks.append(ipaddress.ip_network(host))
        except ValueError:
            self._names.add(host)

    def check(self, host: str) -> Address | None:
        """Look at a host as it is written.

        Args:
            host: Of `split_address`.

        Returns:
            The IP address; ``None`` for a name, what it resolves to has to be looked at as well.

        Raises:
            ValueError: It is not allowed; the sentence says how it would be.
        """
        address: Address | None = None
        try:
            address = plain(host)
        except ValueError:
            allowed = not self._names.isdisjoint({host, ANY})
        else:
            self.check_found(address)
            allowed = address.is_loopback or ANY in self._names or self._lists(address)
        if not allowed:
            raise ValueError(
                f"'{host}' is not a loopback address; [instances] external_hosts has to list it"
            )
        return address

    def check_found(self, address: Address) -> None:
        """Look at an address that a name which is allowed resolves to.

        Raises:
            ValueError: No name may stand for it; the sentence says what would allow it.
        """
        if address.is_unspecified or address.is_multicast:
            raise ValueError(f"'{address}' is no address of one server; name that of the instance")
        for guarded in _GUARDED:
            if address in guarded and not self._lists(address, guarded):
                raise ValueError(
                    f"'{address}' is link-local or gives out credentials; only an entry of its own "
                    "in [instances] external_hosts allows it"
                )

    def _lists(self, address: Address, within: Network | None = None) -> bool:
        """Return whether a network of the list has the address, one inside of another if given."""
        return any(
            address in network and (within is None or _is_inside(network, within))
            for network in self._networks
        )


def _is_inside(network: Network, other: Network) -> bool:
    """Return whether all of a network lies within another one."""
    return network.network_address in other and network.broadcast_address in other
