"""Divides the bytes of an answer into those that may go to the client now and those that wait. [pure]

A client is given whole events, so that a stream may be continued from another replica, or end with an error event, at
any time.
"""

from __future__ import annotations

EVENT_END = b"\n\n"
CHUNKED_EVENT_END = b"\n\n\r\n"
"""Of an event that is the last of its HTTP chunk."""


class EventSplitter:
    """The bytes of one answer. `boundary` is what the end of an event looks like; where it is empty the answer is no
    stream, and all of it is held until there are more than `most_held` bytes.

    `held` are the bytes that wait. `aligned`: what was given out ends with a whole event. `passing`: nothing is held
    and nothing torn was given out, so that a piece that ends with `boundary` may go on without `feed`.
    """

    __slots__ = ("_most_held", "aligned", "boundary", "held", "passing")

    def __init__(self, boundary: bytes, most_held: int) -> None:
        self.boundary = boundary
        self.held = b""
        self.aligned = self.passing = False
        self._most_held = most_held

    def feed(self, data: bytes) -> bytes:
        """Take the next piece; what may go to the client now, which may be nothing."""
        if self.held:
            data = self.held + data
        boundary = self.boundary
        if not boundary:
            self.passing = len(data) > self._most_held
            self.held = b"" if self.passing else data
            return data if self.passing else b""
        end = data.rfind(boundary) + len(boundary)
        if end >= len(boundary):
            self.held = data[end:]
            self.aligned, self.passing = True, not self.held
            return data[:end]
        self.passing = False
        # A replica whose chunks do not end with events is not held up: its pieces pass as they are. One line end alone
        # is the size of a chunk that is still to come.
        torn = data.endswith(b"\r\n") and data.count(b"\r\n") > 1
        if torn or len(data) > self._most_held:
            self.held, self.aligned = b"", False
            return data
        self.held = data
        return b""

    def restart(self) -> None:
        """The next piece is another replica's: it begins with a new event, and what is held never gets its end."""
        self.held, self.passing = b"", False
