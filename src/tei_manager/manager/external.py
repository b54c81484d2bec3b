"""The address of an external instance: allowed, looked up once, and not our own.

A name is looked up at each start of its instance, and what was looked at then is the address that
probes and workers connect to, so that no later answer of a name server counts.
"""

from __future__ import annotations

import asyncio
import socket
from collections.abc import Collection

from tei_manager.errors import PortConflict, ValidationFailed
from tei_manager.resolver import Resolver
from tei_manager.settings import AllowList, split_address
from tei_manager.settings.external import Address, plain

# Of a lookup, whose own time-outs add up to half a minute: nothing else is done with the instance
# meanwhile.
_LIMIT = 5.0


def check(
    address: str,
    allowed: AllowList,
    own_ports: Collection[int],
    prometheus_port: int | None = None,
) -> Address | None:
    """Look at an address as it is written.

    Args:
        address: ``host:port`` of a spec.
        allowed: Where external instances may be.
        own_ports: What the manager and its workers listen on.
        prometheus_port: Of a spec, of the same host.

    Returns:
        The IP address; ``None`` for a name, which has to be looked up.

    Raises:
        ValidationFailed: It is not allowed.
        PortConflict: It is the manager's own: a call to it, or a scrape, would come back for ever.
    """
    host, port = split_address(address)
    try:
        found = allowed.check(host)
    except ValueError as error:
        raise ValidationFailed(f"address: {error}") from None
    for key, given in (("address", port), ("prometheus_port", prometheus_port)):
        if found is not None and given in own_ports and _is_here(found):
            raise PortConflict(f"{key}: port {given} is the manager's own; name another server's")
    return found


async def look_up(
    address: str, allowed: AllowList, own_ports: Collection[int], resolver: Resolver
) -> str:
    """Return the IP address to connect to.

    Args:
        address: ``host:port`` of a spec.
        allowed: Where external instances may be.
        own_ports: What the manager and its workers listen on.
        resolver: Looks a name up.

    Raises:
        ValidationFailed: It is not allowed, or a name stands for what is not.
        PortConflict: It is the manager's own.
        socket.gaierror: The name is not known, or not now.
    """
    if (literal := check(address, allowed, own_ports)) is not None:
        return str(literal)
    host, port = split_address(address)
    answers = await _within_limit(resolver, host)
    found = [plain(each) for each in answers if "%" not in each]
    try:
        for each in found:
            allowed.check_found(each)
    except ValueError as error:
        raise ValidationFailed(f"address: '{host}' stands for {error}") from None
    if not found:
        raise socket.gaierror(socket.EAI_NONAME, "it has addresses of one network card only")
    if port in own_ports and any(map(_is_here, found)):
        raise PortConflict(f"address: port {port} is the manager's own; name another server's")
    return str(found[0])


async def _within_limit(resolver: Resolver, host: str) -> list[str]:
    try:
        async with asyncio.timeout(_LIMIT):
            return await resolver.look_up(host)
    except TimeoutError:
        raise socket.gaierror(socket.EAI_AGAIN, f"no answer within {_LIMIT:g} s") from None


def _is_here(address: Address) -> bool:
    """Return whether an address is this machine's: only then can it be bound."""
    family = socket.AF_INET if address.version == 4 else socket.AF_INET6
    try:
        with socket.socket(family, socket.SOCK_STREAM) as probe:
            probe.bind((str(address), 0))
    except OSError:
        return False
    return True
