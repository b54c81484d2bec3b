"""Where an external instance may be: this machine's loopback, and what the operator lists."""

from __future__ import annotations

import ipaddress
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tei_manager.errors import InvalidSettings
from tei_manager.settings import AllowList, InstanceSpec, load, split_address

METADATA = "169.254.169.254"


@pytest.mark.parametrize(
    ("address", "parts"),
    [
        ("127.0.0.1:80", ("127.0.0.1", 80)),
        ("localhost:80", ("127.0.0.1", 80)),
        ("LocalHost.:80", ("127.0.0.1", 80)),
        ("[::1]:80", ("::1", 80)),
        ("[::ffff:10.0.0.1]:80", ("10.0.0.1", 80)),
        ("GPU-1.example:65535", ("gpu-1.example", 65535)),
    ],
)
def test_external_address_is_split(address: str, parts: tuple[str, int]) -> None:
    assert split_address(address) == parts


@pytest.mark.parametrize(
    "address",
    ["", "127.0.0.1", ":80", "127.0.0.1:0", "127.0.0.1:65536", "127.0.0.1:-1", "127.0.0.1:+1",
     "127.0.0.1:\N{DEVANAGARI DIGIT ONE}", "127.0.0.1:" + "1" * 5000, "::1:80", "[127.0.0.1]:80",
     "[a.example]:80", "2130706433:80", "0x7f.1:80", "127.1:80", "[fe80::1%lo]:80", "a..b:80",
     "a b:80", "user@a.example:80", "http://a.example:80", "*:80", f"{'a.' * 127}example:80",
     "\N{FULLWIDTH LATIN SMALL LETTER A}.example:80", "10.0.0.0/8:80", "-a.example:80"],
)  # fmt: skip
def test_what_is_no_address_of_a_server_is_refused(address: str) -> None:
    with pytest.raises(ValueError, match="address"):
        split_address(address)


@pytest.mark.parametrize("host", ["127.0.0.1", "127.9.9.9", "::1"])
def test_loopback_needs_no_entry(host: str) -> None:
    AllowList([]).check(host)


@pytest.mark.parametrize("host", ["10.0.0.1", "gpu.example", "2001:db8::1", METADATA, "0.0.0.0"])
def test_nothing_else_is_allowed_by_default(host: str) -> None:
    with pytest.raises(ValueError, match=r"external_hosts|no address of one server"):
        AllowList([]).check(host)


@pytest.mark.parametrize(
    ("entry", "allowed", "refused"),
    [
        ("10.0.0.1", ["10.0.0.1"], ["10.0.0.2", "gpu.example"]),
        ("10.0.0.0/24", ["10.0.0.1", "10.0.0.255"], ["10.0.1.0", "11.0.0.1"]),
        ("2001:db8::/32", ["2001:db8::1"], ["2001:db9::1", "10.0.0.1"]),
        ("2001:db8::1", ["2001:db8::1"], ["2001:db8::2"]),
        ("GPU.example.", ["gpu.example"], ["gpu.example.org", "a.gpu.example", "10.0.0.1"]),
        ("*", ["10.0.0.1", "gpu.example", "2001:db8::1"], [METADATA, "fe80::1", "fd00:ec2::254"]),
        ("0.0.0.0/0", ["10.0.0.1"], [METADATA, "0.0.0.0", "224.0.0.1", "gpu.example"]),
        (METADATA, [METADATA], ["169.254.169.253", "10.0.0.1"]),
        ("169.254.0.0/16", [METADATA, "169.254.1.1"], ["fe80::1"]),
    ],
)
def test_an_entry_allows_what_it_says_and_no_more(
    entry: str, allowed: list[str], refused: list[str]
) -> None:
    rules = AllowList([entry])
    for host in allowed:
        rules.check(host)
    for host in refused:
        with pytest.raises(ValueError, match=host):
            rules.check(host)


ADDRESSES = st.ip_addresses()
ENTRIES = st.lists(
    st.one_of(
        st.just("*"),
        st.just("gpu.example"),
        ADDRESSES.map(str),
        st.builds(
            lambda address, bits: str(
                ipaddress.ip_network((address, min(bits, address.max_prefixlen)), strict=False)
            ),
            ADDRESSES,
            st.integers(0, 128),
        ),
    ),
    max_size=3,
)


@given(ENTRIES, st.one_of(ADDRESSES, st.ip_addresses(network="169.254.0.0/16")))
def test_whatever_is_allowed_is_listed_or_loopback(
    entries: list[str], address: ipaddress.IPv4Address | ipaddress.IPv6Address
) -> None:
    networks = [ipaddress.ip_network(entry) for entry in entries if entry[0] in "0123456789abcdef:"
                and entry != "gpu.example"]  # fmt: skip
    holders = [network for network in networks if address in network]
    try:
        AllowList(entries).check(str(address))
    except ValueError:
        return
    if address.is_link_local:
        assert any(network.is_link_local for network in holders)
    else:
        assert (
            address.is_loopback
            or "*" in entries
            or holders
            or getattr(address, "ipv4_mapped", None)
        )


FILE = """
[instances]
external_hosts = [{hosts}]
[[instance]]
name = "a"
model_id = "m"
backend = "external"
address = "10.0.0.1:80"
"""


def test_instance_of_the_file_needs_an_entry_too(tmp_path: Path) -> None:
    file = tmp_path / "x.toml"
    file.write_text(FILE.format(hosts=""))
    with pytest.raises(InvalidSettings, match=r"x.toml:8: address: '10.0.0.1' .*external_hosts"):
        load(file, environ={})
    file.write_text(FILE.format(hosts='"10.0.0.0/8"'))
    assert load(file, environ={})[0].instance[0].address == "10.0.0.1:80"


@pytest.mark.parametrize("entry", ["10.0.0.1/8", "a b", "10.0.0.1:80", "", "1.2.3", "*.example"])
def test_entry_that_is_none_is_named_with_its_line(tmp_path: Path, entry: str) -> None:
    file = tmp_path / "x.toml"
    file.write_text(f'[instances]\nexternal_hosts = ["{entry}"]\n')
    with pytest.raises(InvalidSettings, match=r"x.toml:2.*write a name, an address or a network"):
        load(file, environ={})


def test_spec_says_only_what_can_be_an_address() -> None:
    spec = {"name": "a", "model_id": "m", "backend": "external"}
    assert InstanceSpec.model_validate({**spec, "address": "gpu.example:80"})
    with pytest.raises(ValueError, match="host:port"):
        InstanceSpec.model_validate({**spec, "address": "gpu.example"})
