"""Every code that a peer can send means a status of gRPC, and the named ones what gRPC says."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from tei_manager.grpc.status import Code, from_http, from_reset

# gRPC over HTTP/2, "Errors", and doc/http-grpc-status-mapping.md, written down a second time.
RESETS = {
    **dict.fromkeys((0, 1, 2, 3, 4, 5, 6, 9, 10, 13), Code.INTERNAL),
    7: Code.UNAVAILABLE,
    8: Code.CANCELLED,
    11: Code.RESOURCE_EXHAUSTED,
    12: Code.PERMISSION_DENIED,
}
HTTP = {
    **dict.fromkeys((400, 431), Code.INTERNAL),
    **dict.fromkeys((429, 502, 503, 504), Code.UNAVAILABLE),
    401: Code.UNAUTHENTICATED,
    403: Code.PERMISSION_DENIED,
    404: Code.UNIMPLEMENTED,
}


@given(st.integers(0, (1 << 32) - 1) | st.integers(0, 20))
def test_every_reset_is_a_status_and_never_a_success(code: int) -> None:
    assert from_reset(code) is RESETS.get(code, Code.INTERNAL)


def test_every_http_status_is_a_status_and_never_a_success() -> None:
    for status in range(100, 600):
        assert from_http(status) is HTTP.get(status, Code.UNKNOWN)
