"""One simulated replica: iteration-level continuous batching in macro-steps.

Who gets a request, and who is killed, is the fleet's business.

While nothing changes, k cycles are advanced at once. Requests of one kind progress alike, so each kind has one
progress counter, and a request ends when the counter reaches a target fixed as it joins: a step costs the same for
one row and for hundreds. Cycles are whole: a request ends with the cycle that emits its last token.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from heapq import heapify, heappop, heappush
from math import ceil, exp, inf, sqrt

from trimode_api.modes import AR
from trimode_policy.capacity import PromptPrice, needed_seconds
from trimode_policy.curves import Observation
from trimode_policy.prompt_order import DecodeView, PromptOrder, PromptView, piece_tokens, prompt_order, yielding_share
from trimode_tools.simulator.cost_model import Truth
from trimode_tools.simulator.measures import Account, Series
from trimode_tools.simulator.point_policies import PointPolicy
from trimode_tools.simulator.rows import EngineLimits, PrefixCache, Request, Step
from trimode_tools.simulator.workload import Randomness

_EPSILON = 1e-6
SAMPLES = 2
"""Cycles of a macro-step whose noisy measurement the policy sees; production sees all of them."""
STALL_S = 2.0
"""Seconds over which `stalled` is averaged."""
TOKENS_SPREAD = 0.6
"""Standard deviation over mean of one request's tokens in one cycle."""


@dataclass(slots=True)
class Engine:
    """Mutable. `context`: cached tokens of all decoding rows. By kind: `progress`, `counts` and `ends` (a heap).

    `stalled`: share of the last seconds that went to prompts, which only a clairvoyant reads. `decoded`: tokens that
    the last cycle ran to decode; prompts may take as many. `begun`: those whose first tokens the last step brought.
    """

    truth: Truth
    limits: EngineLimits
    point_policy: PointPolicy
    rng: Randomness
    priorities: tuple[int, ...]
    tpots: tuple[float, ...] = ()
    ttfts: tuple[float, ...] = ()
    waiting: list[Request] = field(default_factory=list)
    prefilling: list[Request] = field(default_factory=list)
    joined: list[Request] = field(default_factory=list)
    begun: list[Request] = field(default_factory=list)
    progress: list[float] = field(default_factory=list)
    counts: list[int] = field(default_factory=list)
    ends: list[list[tuple[float, int, Request]]] = field(default_factory=list)
    tiers: list[int] = field(default_factory=list)
    running: int = 0
    context: float = 0.0
    reserved: int = 0
    step: Step | None = None
    version: int = 0
    preemptions: int = 0
    stalled: float = 0.0
    prompts: PromptPrice = field(default_factory=PromptPrice)
    prefix_cache: PrefixCache = field(init=False)
    decoded: int = 0
    cycle_s: float = 0.0

    def __post_init__(self) -> None:
        self.prefix_cache = PrefixCache(self.limits.kept)
        kinds = self.truth.kinds
        self.tiers = [0] * len(self.priorities)
        self.progress, self.counts, self.ends = [0.0] * kinds, [0] * kinds, [[] for _ in range(kinds)]

    @property
    def in_flight(self) -> int:
        """Requests held: waiting, prefilling and decoding."""
        return len(self.waiting) + len(self.prefilling) + self.running

    @property
    def queued_tokens(self) -> int:
        """Prompt tokens not computed yet."""
        return sum(r.cached - r.known for r in self.waiting) + sum(r.missing for r in self.prefilling)

    def accept(self, request: Request, now: float) -> bool:
        """Take a request; returns whether the fleet must (re)schedule this engine's next event."""
        request.known, request.missing = self.prefix_cache.of(request.job), 0
        self.waiting.append(request)
        if self.step is None:
            return self.begin(now)
        if self.running + len(self.prefilling) >= self.limits.rows or self.step.cycles == 1:
            return False
        # Cycles are whole: who comes meanwhile joins between two of them, so the macro-step ends with the present one.
        cut = max(1, ceil((now - self.step.began) / self.step.seconds - _EPSILON))
        if cut >= self.step.cycles:
            return False
        self.step.cycles = cut
        # The event of the old end stays in the fleet's heap, and is told by its version.
        self.version += 1
        self.step.version = self.version
        return True

    def begin(self, now: float) -> bool:
        """Plan the next macro-step; False where there is nothing to do."""
        self._make_room()
        behind = self.prefilling + self.waiting
        prefill = 0
        if behind:
            prefill = self._prefill(behind, self._admit(behind, now), now)
        if not (prefill or self.running):
            self.step = None
            return False
        seconds, cycles, point, self.decoded = 0.0, 1, None, 0
        if self.running:
            context = self.context / self.running
            tpot = min((t for t, count in zip(self.tpots, self.tiers, strict=False) if count), default=inf)
            needed_s = needed_seconds(tpot, self.running, self.prompts.per_token)
            point, most = self.point_policy.point(self.running, context, self.counts, now, needed_s)
            seconds = self.truth.hardware.seconds(point, self.running, context)
            self.decoded = point.width * self.running
            self.cycle_s = seconds
            if not prefill:
                left = float(min(most, int(self.limits.longest_s / seconds) or 1))
                rates = self.truth.tokens(point, now)
                for kind, count in enumerate(self.counts):
                    if count:  # until the first request of this kind ends
                        left = min(left, (self.ends[kind][0][0] - self.progress[kind]) / rates[kind])
                cycles = max(1, ceil(left - _EPSILON))
        prompts = self.truth.hardware.prefill_seconds(prefill, point) if prefill else 0.0
        mean = seconds + prompts
        real = mean * max(0.2, 1.0 + self.limits.noise / sqrt(cycles) * self.rng.gauss(0.0, 1.0))
        self.version += 1
        self.step = Step(now, real, cycles, point, prefill, prompts / mean, mean, self.version)
        return True

    def finish(self, now: float, account: Account, series: Series | None) -> list[Request]:
        """End the macro-step at `now`: returns the requests that are done, with what was measured learned."""
        step = self.step
        assert step is not None, "finish without a step"
        account.busy_s += now - step.began
        self.stalled += min(1.0, (now - step.began) / STALL_S) * (step.prefill_share - self.stalled)
        if step.prefill:
            self.prompts.progressed(step.prefill, now - step.began)
        if step.point is None:
            self.prompts.spent(now - step.began, step.prefill, 0.0, now - step.began)
            self.begun = []
            return []
        account.seconds_at[step.point] = account.seconds_at.get(step.point, 0.0) + now - step.began
        if series is not None:
            series.ran(step.point, step.began, now - step.began)
        rates = self.truth.tokens(step.point, step.began)
        mean = sum(count * rate for count, rate in zip(self.counts, rates, strict=True))
        busy_s = now - step.began
        self.prompts.spent(busy_s * step.prefill_share, step.prefill, step.cycles * mean, busy_s)
        if self.point_policy.learns:
            self._learn(step, mean, now)
        self.begun = [request for request in self.joined if request.first_at < 0]
        for request in self.begun:
            request.first_at = now
        self.joined.clear()
        self.context += step.cycles * mean
        done: list[Request] = []
        for kind, count in enumerate(self.counts):
            if count:
                self.progress[kind] += step.cycles * rates[kind]
                heap = self.ends[kind]
                while heap and heap[0][0] <= self.progress[kind] + _EPSILON:
                    request = heappop(heap)[2]
                    self._leave(request, kind)
                    self.prefix_cache.add(request.job, self.limits.capacity - self.context - self.reserved)
                    done.append(request)
        return done

    def evict_all(self) -> list[Request]:
        """The replica died: everything it held, with the tokens already emitted."""
        out = self.waiting + self.prefilling
        for kind, heap in enumerate(self.ends):
            for _, _, request in heap:
                self._leave(request, kind)
                out.append(request)
            heap.clear()
        self.waiting.clear()
        self.prefix_cache.clear()
        self.prefilling.clear()
        self.joined.clear()
        self.reserved, self.context, self.step = 0, 0.0, None
        self.version += 1
        return sorted(out, key=lambda r: r.order)

    def _admit(self, behind: list[Request], now: float) -> PromptOrder:
        """The order of those whose prompts are not computed, in rows or not; rows are given in it until one finds
        none."""
        views = []
        for each in behind:
            waited_s, tier = now - each.job.at, each.job.tier
            left_s = self.ttfts[tier] - waited_s if self.ttfts else inf
            tokens = each.missing or each.cached - each.known
            views.append(PromptView(tokens, left_s, waited_s, self.priorities[tier], each.emitted > 0))
        order, limits = prompt_order(views, self.prompts.progress_per_s), self.limits
        for request in (behind[i] for i in order.rows):
            if request.missing:
                continue
            rows = self.running + len(self.prefilling)
            held = self.context + self.reserved
            if rows >= limits.rows or (rows and held + request.cached + 64.0 * (rows + 1) > limits.capacity):
                break
            self.waiting.remove(request)
            request.known = self.prefix_cache.of(request.job)
            request.missing = request.cached - request.known
            self.reserved += request.cached
            self.prefilling.append(request)
        return order

    def _prefill(self, behind: list[Request], order: PromptOrder, now: float) -> int:
        """Spend this cycle's piece of prompt tokens; requests whose prompt is complete join the batch."""
        decoding = (
            DecodeView(self.tpots[r.job.tier], r.emitted + progress - r.start, now - r.first_at)
            for progress, heap in zip(self.progress, self.ends, strict=True)
            for _, _, r in heap
            if self.tpots
        )
        speed = self.prompts.tokens_per_s
        budget = piece_tokens(self.limits.prefill_budget, decoding, self.cycle_s, speed, self.decoded)
        turns = [behind[i] for i in order.turns]
        kept = yielding_share(budget) if order.yielding < len(turns) and turns[order.yielding].missing else 0
        left = budget - kept
        for place, request in enumerate(turns):
            if place == order.yielding:
                left += kept
            spent = min(left, request.missing)
            if not spent:
                continue
            request.missing -= spent
            left -= spent
            if not request.missing:
                self.prefilling.remove(request)
                # It decodes from this cycle on.
                kind = request.job.kind
                self.reserved -= request.cached
                self.context += request.cached
                request.start = self.progress[kind]
                target = request.start + max(1.0, request.job.output - request.emitted)
                heappush(self.ends[kind], (target, request.order, request))
                self.counts[kind] += 1
                self.tiers[request.job.tier] += 1
                self.running += 1
                self.joined.append(request)
        return budget - left

    def _leave(self, request: Request, kind: int) -> None:
        """Take a decoding request out; `emitted` becomes what it has by now."""
        grown = self.progress[kind] - request.start
        self.context -= request.cached + grown
        request.emitted += grown
        self.counts[kind] -= 1
        self.tiers[request.job.tier] -= 1
        self.running -= 1

    def _make_room(self) -> None:
        """Preempt the least urgent (lowest priority, then youngest) while the cache is over full."""
        while self.running > 1 and self.context + self.reserved > self.limits.capacity:
            rows = (r for heap in self.ends for _, _, r in heap)
            victim = max(rows, key=lambda r: (-self.priorities[r.job.tier], r.order))
            heap = self.ends[victim.job.kind]
            heap[:] = [entry for entry in heap if entry[2] is not victim]
            heapify(heap)
            self._leave(victim, victim.job.kind)
            self.preemptions += 1
            self.waiting.append(victim)

    def _learn(self, step: Step, mean_tokens: float, now: float) -> None:
        point, batch = step.point, self.running
        assert point is not None, "nothing was decoded"
        context = self.context / batch
        for _ in range(min(step.cycles, SAMPLES)):
            tokens = mean_tokens
            if point != AR:
                tokens += TOKENS_SPREAD * mean_tokens / sqrt(batch) * self.rng.gauss(0.0, 1.0)
                tokens = min(max(tokens, batch), batch * point.block_length)
            # As the engine does it: what prompts cost is taken off first, so that points are compared by decoding.
            decoding = step.mean_s * (1.0 - step.prefill_share)
            seconds = decoding * exp(self.limits.noise * self.rng.gauss(0.0, 1.0))
            self.point_policy.learn(Observation(point, batch, context, 0, seconds, round(tokens)), now)
