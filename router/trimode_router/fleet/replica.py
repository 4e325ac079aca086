"""One replica as this router knows it: its last report, and what the router counts itself.

Decisions read the frozen view made here, never the record.
"""

from __future__ import annotations

from dataclasses import dataclass, field

from trimode_api.fleet import Freshness
from trimode_api.modes import OperatingPoint
from trimode_api.wire import Command, ReplicaReport
from trimode_policy.capacity import max_concurrency_within
from trimode_policy.route import ReplicaView
from trimode_router.fleet.policy import Rules

VIEW_SECONDS = 0.1
"""Error allowed in a view's age; limits on it are whole seconds."""
_FIRST_COOLING_SECONDS, _LONGEST_COOLING_SECONDS = 0.25, 5.0


@dataclass(slots=True)
class Replica:
    """One replica: its last report and what this router counts itself."""

    report: ReplicaReport
    points: tuple[OperatingPoint, ...]
    heard_at: float
    in_flight: int = 0
    peak: int = 0
    """Highest `in_flight` since the last report."""
    others: int = 0
    """Requests of other routers, as far as the last report shows them."""
    queued_prompt_tokens: int = 0
    """Of this router's requests there that have no first token."""
    sent_since: int = 0
    """Prompt tokens sent there after its last report, those that have a first token by now left out."""
    drain: bool | None = None
    failures: int = 0
    cool_until: float = 0.0
    trials: int = 0
    """Requests sent since it last failed: until one of them succeeds, there is one at a time."""
    dead: bool = False
    rows: dict[str, int] = field(default_factory=dict)
    """By tier: requests it can run at once so that each keeps the tier's pace."""
    reserved_for: str | None = None
    """The tier whose pace it is kept at."""
    cached: ReplicaView | None = None
    """The view last made; None after a change. A little older than told it may be, see `VIEW_SECONDS`."""

    @property
    def replica_id(self) -> str:
        return self.report.replica_id

    @property
    def draining(self) -> bool:
        return self.report.draining or self.drain is True

    def freshness(self, rules: Rules, now: float) -> Freshness:
        age = now - self.heard_at
        if age > rules.staleness.dead_after_s:
            return Freshness.DEAD
        return Freshness.STALE if age > rules.staleness.stale_after_s else Freshness.FRESH

    def view(self, rules: Rules, slack: int, now: float) -> ReplicaView:
        """The frozen view; made again only after a change, as making it costs more than all that reads it."""
        view, age_s = self.cached, now - self.heard_at
        if view is not None and age_s - view.age_s <= VIEW_SECONDS:
            return view
        report = self.report
        # Servers that do not report how fast they compute prompts do not count them either: of those this router knows
        # its own.
        if report.prompt_tokens_per_second > 0:
            queued = report.queued_prompt_tokens + self.sent_since
        else:
            queued = max(report.queued_prompt_tokens, self.queued_prompt_tokens)
        view = self.cached = ReplicaView(
            replica_id=report.replica_id,
            pool=report.pool,
            ready=report.ready,
            draining=self.draining,
            age_s=age_s,
            in_flight=self.in_flight,
            # A report lags: what this router counts itself is taken from its counter, the rest from the report.
            running=self.in_flight + self.others,
            waiting=0,
            queued_prompt_tokens=queued,
            # After failures it is asked by one request at a time: a burst would only fail again.
            capacity=self.in_flight if self.trials else report.max_running + slack,
            points=self.points or rules.pools.get(report.pool, ()),
            tokens_per_second=report.tokens_per_second,
            rows=self.rows,
            reserved_for=self.reserved_for,
            prompt_tokens_per_second=report.prompt_tokens_per_second,
        )
        return view

    # What comes in.

    def take(self, report: ReplicaReport, now: float) -> None:
        """A newer report."""
        if report.allowed_points != self.report.allowed_points:
            self.points = points_of(report)
        self.report, self.heard_at, self.dead = report, now, False
        # `peak`, not `in_flight`: a request that ended since the report was made is still counted in it.
        self.others = max(0, report.running + report.waiting - self.peak)
        self.peak = self.in_flight
        self.sent_since = 0

    def judge(self, rules: Rules) -> None:
        """Its last report, or the rules, are new."""
        self.rows, self.cached = rows_of(self.report, rules), None

    def command(self) -> Command:
        """What it was asked for, as long as it does not report that it has done so."""
        if self.drain is False and not self.report.draining:
            self.drain = None  # fulfilled: a later drain is the replica's own will
        if self.drain is None or self.drain == self.report.draining:
            return Command.NONE
        return Command.DRAIN if self.drain else Command.UNDRAIN

    # This router's own counters.

    def occupy(self, prompt_tokens: int) -> None:
        """A request is on its way to it; its prompt counts as queued until the first token."""
        self.in_flight += 1
        self.peak = max(self.peak, self.in_flight)
        self.queued_prompt_tokens += prompt_tokens
        self.sent_since += prompt_tokens
        self.trials += self.failures > 0
        self.cached = None

    def prefilled(self, prompt_tokens: int) -> None:
        self.queued_prompt_tokens -= prompt_tokens
        # One that the report counted may be taken off here: too little for 0.2 s. Too much would hold others back.
        self.sent_since = max(0, self.sent_since - prompt_tokens)
        self.cached = None

    def vacate(self) -> None:
        self.in_flight -= 1
        self.trials = 0
        self.cached = None

    def failed(self, now: float) -> None:
        """It failed a request: passed over for 0.25 s, doubled with each failure in a row, at most 5 s.

        What else fails meanwhile is of the same cause: a death breaks all its streams at once.
        """
        if now < self.cool_until:
            return
        self.failures += 1
        self.cool_until = now + min(_FIRST_COOLING_SECONDS * 2 ** (self.failures - 1), _LONGEST_COOLING_SECONDS)

    def succeeded(self) -> None:
        if self.failures:
            self.failures = self.trials = 0
            self.cool_until = 0.0
            self.cached = None


def rows_of(report: ReplicaReport, rules: Rules) -> dict[str, int]:
    """By tier; empty where the replica predicts nothing, so that nothing is held back for it."""
    if not report.paces:
        return {}
    price, most = report.prompt_seconds_per_token, report.max_running
    return {tier.name: max_concurrency_within(report.paces, price, tier.tpot_s, most) for tier in rules.tiers.values()}


def points_of(report: ReplicaReport) -> tuple[OperatingPoint, ...]:
    return tuple(OperatingPoint.parse(name) for name in report.allowed_points)
