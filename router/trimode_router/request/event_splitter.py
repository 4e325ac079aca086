"""How much of what came of a stream may go on to the client. [pure]

Belongs here: where events end. A client is given whole events, so that a stream may be continued from elsewhere, or
end with an error event, at any time.
"""

from __future__ import annotations

from typing import NamedTuple

EVENT_END = b"\n\n"
CHUNKED_EVENT_END = b"\n\n\r\n"
"""Of an event that is the last of its HTTP chunk."""


class Cut(NamedTuple):
    """`ready` goes now, `held` later. `aligned`: what is ready ends with a whole event."""

    ready: bytes
    held: bytes
    aligned: bool


def cut(data: bytes, end: bytes, most: int) -> Cut:
    """Divide `data` behind the last event that ends as `end`; beyond `most` bytes nothing is held back."""
    at = data.rfind(end)
    if at >= 0:
        at += len(end)
        return Cut(data, b"", True) if at == len(data) else Cut(data[:at], data[at:], True)
    # A replica whose chunks do not end with events is not held up: its pieces pass as they are. One line end alone is
    # the size of a chunk that is still to come.
    strays = data.endswith(b"\r\n") and data.count(b"\r\n") > 1
    return Cut(data, b"", False) if strays or len(data) > most else Cut(b"", data, False)
