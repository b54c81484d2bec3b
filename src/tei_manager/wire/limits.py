"""What one peer may make us do: a budget for each kind of frame that costs us and brings nothing.

Theory
    A proxy in C can afford to parse 200,000 junk frames; Python cannot. So every kind of frame
    that carries no call has a token bucket, and the connection ends with ENHANCE_YOUR_CALM when
    one of them is empty. Buckets, not counts: an honest connection may live for months.
    The numbers are sized so that each flood ends within 2,000 frames, and that no honest
    client measured (C-core, h2, nghttp2, grpc-js) comes near any of them.

Rules of this file
    1. Time is an argument. A clock that stands still refills nothing.
    2. The hot frames, HEADERS and DATA that belong to a call, take no token; what makes a DATA
       frame suspect is read off its size and flags alone (`SMALL_DATA`).
"""

from __future__ import annotations

from tei_manager.wire.frames import ErrorCode, ProtocolError

MAX_EMPTY_FRAMES = 10
"""Frames in a row that carry nothing and end nothing: between Envoy's 1 and h2's 100."""

SMALL_DATA = 5
"""Octets below which DATA is less than gRPC's prefix, so no message: it pays as overhead."""

DATA_COST = 48
"""What such a frame counts as, beside its padding: as much as ends a peer that sends nothing but
single octets within 2,000 frames. On the wire it is 9."""

OVERHEAD_RATIO = 8
MAX_OVERHEAD = 64 << 10
"""Overhead may be eight times the payload (nginx's ratio for floods), and this much more."""


class TokenBucket:
    """``burst`` tokens at first; ``rate`` come back each second, never above ``burst``."""

    __slots__ = ("burst", "rate", "tokens", "updated")

    def __init__(self, burst: float, rate: float) -> None:
        self.burst = burst
        self.rate = rate
        self.tokens = burst
        self.updated: float | None = None

    def take(self, now: float) -> bool:
        """Take one token at time ``now`` in seconds; False when there is none."""
        if self.updated is not None and now > self.updated:
            self.tokens = min(self.burst, self.tokens + (now - self.updated) * self.rate)
        self.updated = now if self.updated is None else max(now, self.updated)
        if self.tokens < 1:
            return False
        self.tokens -= 1
        return True

    def refill(self) -> None:
        """Make the bucket full again."""
        self.tokens = self.burst


class AbuseBudget:
    """The budgets of one connection. Each method takes from one, or raises `ProtocolError`.

    ``empty_frames`` counts those in a row: whoever sees a useful one sets it to 0.
    """

    __slots__ = (
        "_glitches",
        "_local_resets",
        "_overhead",
        "_pings",
        "_priorities",
        "_refusals",
        "_resets",
        "_seen_frames",
        "_settings",
        "_window_updates",
        "empty_frames",
    )

    def __init__(self) -> None:
        # Sources: nghttp2's buckets (1000 + 33/s resets, 10000 + 330/s glitches) and Envoy's
        # caps, cut to what Python can afford within 2,000 frames.
        self._resets = TokenBucket(200, 50)
        self._local_resets = TokenBucket(100, 10)
        self._pings = TokenBucket(100, 10)
        self._settings = TokenBucket(50, 1)
        self._priorities = TokenBucket(200, 50)
        self._glitches = TokenBucket(900, 100)
        self._refusals = TokenBucket(100, 10)
        self.empty_frames = 0
        self._overhead = 0
        self._seen_frames = 0
        self._window_updates = 0

    def reset(self, now: float) -> None:
        """Pay for an RST_STREAM from the peer on a young stream (CVE-2023-44487)."""
        self._take(self._resets, now, "too many resets")

    def local_reset(self, now: float) -> None:
        """Pay for a stream that the peer made *us* end, unread (CVE-2025-8671, CVE-2026-49975)."""
        self._take(self._local_resets, now, "too many broken streams")

    def ping(self, now: float, data_frames: int) -> None:
        """Pay for a PING; no strikes, so that a client's keep-alive may run for ever.

        Args:
            now: Seconds.
            data_frames: How many DATA frames were sent so far. A new one makes the bucket full:
                clients that estimate their bandwidth send a PING for every few of them.

        The words of the refusal are gRPC's (A8): for just these a client pings half as often.
        """
        if data_frames != self._seen_frames:
            self._seen_frames = data_frames
            self._pings.refill()
        self._take(self._pings, now, "too_many_pings")

    def settings(self, now: float) -> None:
        """Pay for a SETTINGS frame (CVE-2019-9515)."""
        self._take(self._settings, now, "too many settings")

    def priority(self, now: float) -> None:
        """Pay for a PRIORITY frame (CVE-2019-9513)."""
        self._take(self._priorities, now, "too many priorities")

    def glitch(self, now: float) -> None:
        """Pay for a frame that is legal and means nothing to us: unknown types, closed streams."""
        self._take(self._glitches, now, "too many frames without meaning")

    def refusal(self, now: float) -> None:
        """Pay for a stream above the limit; an honest peer stops at the first."""
        self._take(self._refusals, now, "too many streams above the limit")

    def empty_frame(self) -> None:
        """Pay for a DATA or CONTINUATION frame that is empty and ends nothing (CVE-2019-9518)."""
        self.empty_frames += 1
        if self.empty_frames > MAX_EMPTY_FRAMES:
            raise ProtocolError(ErrorCode.ENHANCE_YOUR_CALM, "too many empty frames")

    def overhead(self, padding: int, received: int) -> None:
        """Pay for a DATA frame that is padded, or smaller than any message.

        Args:
            padding: Octets of padding in it, the length of the padding among them.
            received: Octets that were flow-controlled on the connection so far, padding included.
        """
        self._overhead += DATA_COST + padding * (1 + OVERHEAD_RATIO)  # it is in ``received`` too
        if self._overhead > OVERHEAD_RATIO * received + MAX_OVERHEAD:
            raise ProtocolError(ErrorCode.ENHANCE_YOUR_CALM, "too much data without content")

    def window_update(self, streams: int, data_frames: int) -> None:
        """Pay for a WINDOW_UPDATE. Envoy's formula: 5 + 2 x (streams + 10 x DATA frames sent)."""
        self._window_updates += 1
        if self._window_updates > 5 + 2 * (streams + 10 * data_frames):
            raise ProtocolError(ErrorCode.ENHANCE_YOUR_CALM, "too many window updates")

    @staticmethod
    def _take(bucket: TokenBucket, now: float, what: str) -> None:
        if not bucket.take(now):
            raise ProtocolError(ErrorCode.ENHANCE_YOUR_CALM, what)
