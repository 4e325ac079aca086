"""The live line of `trimode up`: load, point and its reason, speed, switches.

One line in place on a terminal; elsewhere a log line when something that is worth one has changed.
"""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, replace

from rich.console import Console
from rich.live import Live
from rich.text import Text

from trimode_api.fleet import FleetView

PROBE = "Probe"
"""The reason of a decision that only measures."""

QUIET_S = 30.0
"""Elsewhere than on a terminal: a line at least this often while there is load, in seconds."""


@dataclass(frozen=True, slots=True)
class Summary:
    """What one line says of the fleet. `point` and `reason` are those of most replicas."""

    ready: int
    replicas: int
    running: int
    queued: int
    point: str
    reason: str
    tokens_per_second: float
    switches: int
    policy_version: int

    @property
    def notable(self) -> tuple[object, ...]:
        """What is worth a new log line where it differs from the last one."""
        return (self.ready, self.replicas, self.point, self.running > 0, self.policy_version)


def summary_of(fleet: FleetView) -> Summary:
    """What one line says of this fleet."""
    up = [replica for replica in fleet.replicas if replica.freshness != "Dead"]
    point, reason = "-", ""
    if up:
        point = Counter(replica.point for replica in up).most_common(1)[0][0]
        reason = next(replica.decision.reason for replica in up if replica.point == point)
    return Summary(
        ready=sum(pool.ready for pool in fleet.pools),
        replicas=len(up),
        running=sum(pool.running for pool in fleet.pools),
        queued=fleet.router.queued + sum(pool.waiting for pool in fleet.pools),
        point=point,
        reason=reason,
        tokens_per_second=sum(pool.tokens_per_second for pool in fleet.pools),
        switches=sum(replica.switches for replica in up),
        policy_version=fleet.policy_version,
    )


def as_text(seen: Summary) -> Text:
    """`● 64 running  0 queued  AR PredictedGain  8120 tok/s  3 switches`."""
    healthy = seen.ready == seen.replicas and seen.ready > 0
    line = Text.assemble(("●", "green" if healthy else "yellow"), " ")
    if not healthy:
        line.append(f"{seen.ready} of {seen.replicas} replicas ready  ", style="yellow")
    line.append(f"{seen.running:>3} running  {seen.queued:>3} queued  ")
    line.append(f"{seen.point:<7}", style="bold cyan")
    line.append(f" {seen.reason:<14}", style="dim")
    line.append(f"{seen.tokens_per_second:>7.0f} tok/s  ", style="bold")
    line.append(f"{seen.switches} switch{'' if seen.switches == 1 else 'es'}", style="dim")
    return line


class LiveLine:
    """Shows summaries until `close`. `now` is in seconds, of a clock that never goes back."""

    def __init__(self, console: Console) -> None:
        self._console = console
        self._live = Live(console=console, auto_refresh=False, transient=True) if console.is_terminal else None
        self._last: Summary | None = None
        self._said_at = float("-inf")
        if self._live is not None:
            self._live.start()

    def show(self, seen: Summary, now: float) -> None:
        if self._live is not None:
            self._live.update(as_text(seen), refresh=True)
            return
        if self._last is not None:
            # A probe measures another point for some cycles, and goes back.
            settled = replace(seen, point=self._last.point) if seen.reason == PROBE else seen
            due = seen.running > 0 and now - self._said_at >= QUIET_S
            if settled.notable == self._last.notable and not due:
                return
        self._console.print(as_text(seen), soft_wrap=True)
        self._last, self._said_at = seen, now

    def say(self, message: str) -> None:
        """A line above the live one."""
        self._console.print(message, soft_wrap=True)

    def close(self) -> None:
        if self._live is not None:
            self._live.stop()
