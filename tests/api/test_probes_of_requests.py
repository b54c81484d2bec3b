"""Requests that try to leave a folder, to smuggle in a flag, or to reach another machine.

Each is refused and changes nothing; beside each kind stands a request that is accepted, so that
a probe which could never have succeeded is noticed.
"""

from __future__ import annotations

from collections.abc import AsyncIterator
from typing import Any

import pytest
import pytest_asyncio
from probed import Probed, probed

from tei_manager.settings import MANAGED_FLAGS

pytestmark = pytest.mark.asyncio(loop_scope="module")


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def target(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Probed]:
    async with probed(tmp_path_factory.mktemp("probed")) as manager:
        yield manager


NAMES = ("", ".", "..", "../x", "/etc/x", "a/../b", "a/b", "..\\x", "a\\b", "%2e%2e", "a%2fb",
         "a\0b", "a\nb", "a b", "~x", "\uff0e\uff0e", "a\u2215b", "-x", "A", "a" * 64)  # fmt: skip

MODELS = ("../x", "..", ".", "/", "/etc/passwd", "~/x", "./x", "a/..", "a/../../etc", "a/b/c",
          "a//b", "/proc/self/root", "a/.b", "a\0")  # fmt: skip

KEYS = ("/etc/passwd", "../token", "token", "/dev/stdin", "/proc/self/environ", "", "~/.netrc")

PATHS = ("/instances/..%2F..%2Fetc%2Fpasswd/logs", "/instances/%2Fetc%2Fpasswd/logs",
         "/instances/..%5C..%5Cx/logs", "/instances/%2E%2E/logs", "/instances/victim%00/logs",
         "/instances/victim%2F..%2Fother/logs", "/instances/victim.log/logs",
         "/instances/victim%0A/logs", "/instances/%252e%252e%252fx/logs",
         "/static-offline-docs/%2e%2e/core.py", "/static-offline-docs/..%2Fcore.py",
         "/static-offline-docs/%2Fetc%2Fpasswd", "/static-offline-docs/")  # fmt: skip

FLAGS = (*(f"{flag}=x" for flag in MANAGED_FLAGS), "--port", "--hostn=0.0.0.0", "--por=1",
         "--ap=x", "--uds=/x", "--o=x", "-p", "-p=1", "-port=1", "--", "", "value", "--port 1",
         "--x\n--port=1", "--x=\n", "--x=\0", "--Port=1", "--p\u043ert=1", "---port=1", "--=x",
         "--port\u00a0=1", "--x=\u2028", "$(id)", "`id`", ";id", "--x=\x1b[0m", " --port=1",
         "=--port", "--\u2010port=1")  # fmt: skip

FIELDS = (("model_id", "--port=1"), ("model_id", "-x"), ("revision", "--port=1"),
          ("revision", "-x"), ("revision", "main\n--port=1"), ("pooling", "mean --port=1"),
          ("dtype", "--x"), ("backend", "engine --x"))  # fmt: skip

ADDRESSES = ("", ":80", "127.0.0.1", "169.254.169.254:80", "[fe80::1]:80", "10.0.0.1:80",
             "192.168.1.1:80", "172.16.0.1:80", "0.0.0.0:80", "[::]:80", "224.0.0.1:80",
             "255.255.255.255:80", "100.64.0.1:80", "[::ffff:10.0.0.1]:80",
             "[::ffff:169.254.169.254]:80", "2130706433:80", "0x7f000001:80", "0177.0.0.1:80",
             "127.1:80", "example.org:80", "localhost.example.org:80", "127.0.0.1.nip.io:80",
             "metadata.google.internal:80", "127.0.0.1@10.0.0.1:80", "10.0.0.1#127.0.0.1:80",
             "127.0.0.1:80@10.0.0.1", "127.0.0.1:0", "127.0.0.1:65536", "127.0.0.1:-1",
             "127.0.0.1:8a", "127.0.0.1:80/x", "127.0.0.1:80\n", "http://127.0.0.1:80",
             "unix:/var/run/docker.sock", "dns:///x:80", "127.0.0.1:\u0661", "LOCALHOST\0:80",
             "127.0.0.1:9000", "localhost:9001", "[::1]:9001")  # fmt: skip

URLS = ("http://169.254.169.254/x", "https://example.org/x", "//example.org/x", "s3://bucket/x",
        "file:///etc/passwd", "git@example.org:x", "a@b", "a:b", "a?b", "a#b")  # fmt: skip


@pytest.mark.parametrize("name", NAMES)
async def test_name_that_is_no_name_makes_no_instance(target: Probed, name: str) -> None:
    await target.refused("POST", "/instances", json=target.body(name=name))


@pytest.mark.parametrize("model", MODELS + URLS)
async def test_model_elsewhere_makes_no_instance(target: Probed, model: str) -> None:
    await target.refused("POST", "/instances", json=target.body(model_id=model))


@pytest.mark.parametrize("key", KEYS)
async def test_key_elsewhere_makes_no_instance(target: Probed, key: str) -> None:
    await target.refused("POST", "/instances", json=target.body(api_key_file=key))


@pytest.mark.parametrize("path", PATHS)
async def test_path_leads_to_no_file(target: Probed, path: str) -> None:
    assert (await target.refused("GET", path)).status_code == 404


@pytest.mark.parametrize("flag", FLAGS)
async def test_flag_that_is_not_free_makes_no_instance(target: Probed, flag: str) -> None:
    await target.refused("POST", "/instances", json=target.body(extra_args=["--fork", flag]))


@pytest.mark.parametrize(("field", "value"), FIELDS)
async def test_value_that_could_be_read_as_a_flag_makes_no_instance(
    target: Probed, field: str, value: str
) -> None:
    await target.refused("POST", "/instances", json=target.body(**{field: value}))


@pytest.mark.parametrize("address", ADDRESSES)
async def test_address_beyond_this_machine_or_of_the_manager_makes_no_instance(
    target: Probed, address: str
) -> None:
    body = target.body(backend="external", address=address)
    await target.refused("POST", "/instances", json=body)


async def test_address_of_the_managers_own_port_makes_no_instance(target: Probed) -> None:
    address = f"127.0.0.1:{target.rig.manager.address[1]}"
    body = target.body(backend="external", address=address)
    assert (await target.refused("POST", "/instances", json=body)).json()["code"] == "PORT_CONFLICT"


@pytest.mark.parametrize(
    "fields",
    [
        {},
        {"name": "a..b"},
        {"extra_args": ["--fork", "--x=--port"]},
        {"backend": "external", "address": "127.0.0.1:8080"},
        {"revision": "refs/pr/1"},
    ],
)
async def test_request_that_is_as_it_should_be_is_accepted(
    target: Probed, fields: dict[str, Any]
) -> None:
    body = target.body(**fields)
    answer = await target.api.post("/instances", json=body)
    assert answer.status_code == 201, answer.text
    assert (await target.api.delete(f"/instances/{body['name']}")).status_code == 204
