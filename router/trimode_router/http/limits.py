"""Bounds that protect the router: sizes, times and attempts. What expresses a policy comes in `PolicyConfig`."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Limits:
    """Sizes in bytes, times in seconds."""

    header_bytes: int = 16 * 1024
    """Request line and headers of one request; more is 431."""
    body_bytes: int = 8 * 1024 * 1024
    """Body of one request; more is 413."""
    header_seconds: float = 10.0
    """From a request's first byte to the end of its headers; longer is 408."""
    body_seconds: float = 60.0
    """From the end of the headers to the end of the body; longer is 408."""
    idle_seconds: float = 120.0
    """A client connection without a request, or before its first, is closed after this.

    Longer than Go's HTTP client, and so Traefik, keeps its own (90 s): whoever closes first never loses the request
    that the other is sending just then.
    """
    stall_seconds: float = 120.0
    """A client that reads nothing of its answer for this long is dropped."""
    linger_seconds: float = 2.0
    """After a final answer to an unread request, input is discarded this long so that the answer arrives."""
    pipelined_bytes: int = 64 * 1024
    """Bytes of later requests taken in while an answer is under way; beyond it the socket is not read."""
    connect_seconds: float = 2.0
    """To open a connection to a replica."""
    upstream_idle_seconds: float = 300.0
    """A replica that sends nothing for an open request for this long has broken it."""
    hung_seconds: float = 2.0
    """The same for one whose reports are missing too, counted from when they are called stale."""
    stuck_seconds: float = 15.0
    """The same in mid-stream for one that reports, but that it runs requests and emits no token of any."""
    stalled_seconds: float = 30.0
    """The same in mid-stream for any report: another replica can send the rest as well."""
    attempts: int = 3
    """Replicas that may see one request before its first byte reached the client: it may be what they fail of."""
    placements: int = 16
    """The same with those that were never reached: half a fleet may be away at once."""
    continuations: int = 4
    """Replicas tried in a row for the rest of a broken stream without a byte from any: what kills all that touch it
    must not take the fleet down. Between them it waits 0.25 s, doubled each time, as replicas may die together."""
    resumptions: int = 8
    """Times that one stream may break and be continued elsewhere."""
    lame_duck_seconds: float = 1.0
    """A draining router leaves idle connections open this long: a request may be on its way on them."""
    resume_seconds: float = 30.0
    """How long a broken stream waits for a replica that can continue it."""
    transcript_bytes: int = 512 * 1024
    """Of a stream's token ids (as text), kept to resume it; a longer one can not be resumed."""
    held_bytes: int = 256 * 1024
    """Of an answer that is not a stream, this much is held back so that it can still be retried."""
    slack: int = 1
    """Requests sent to a replica beyond its batch, so that a freed row is filled without a round trip."""
