"""The engine: requests in, one `Cycle` out per step.

Every decision in it is made by a pure function elsewhere; every tensor is behind the primitive. Not thread-safe, and it
never waits, but for a grammar with nothing else to do.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from collections.abc import Sequence as Seq
from dataclasses import replace
from functools import partial
from math import inf

import torch

from trimode_api.modes import AR, Mode, OperatingPoint
from trimode_workers.engine import invariants
from trimode_workers.engine.budget import Budget
from trimode_workers.engine.class_controller import prior
from trimode_workers.engine.footprint import MOST_TOKENS
from trimode_workers.engine.grammar_queue import Grammars
from trimode_workers.engine.graphs import CudaRecorder, Recorder
from trimode_workers.engine.intake import Intake
from trimode_workers.engine.layouts import WIDEST_BLOCK, make_cache
from trimode_workers.engine.messages import Configure, Cycle, Finish, Stats, Submit, TokenEvent
from trimode_workers.engine.meter import PROMPT, Counters, Meter, Part
from trimode_workers.engine.mode_controller import Chooser, GroupCycle, ModeController
from trimode_workers.engine.paged_cache import PagedCache
from trimode_workers.engine.plan import groups, schedule
from trimode_workers.engine.primitive import Primitive
from trimode_workers.engine.requests import Requests
from trimode_workers.engine.rows import close_gaps, line_up
from trimode_workers.engine.sequence import Sequence
from trimode_workers.engine.settings import EngineSettings, keep_freed_memory
from trimode_workers.engine.shortage import CODE, MESSAGE, Shortage
from trimode_workers.engine.turn import First, Turn
from trimode_workers.model.decoder import Decoder, Network

__all__ = ["WIDEST_BLOCK", "Engine", "EngineSettings"]


class Engine:
    """Continuous batching over one network; each cycle may run in another operating point."""

    def __init__(
        self,
        decoder: Decoder | Network,
        settings: EngineSettings,
        configure: Configure,
        clock: Callable[[], float] = time.monotonic,
        chooser: Chooser | None = None,
        recorder: Recorder | None = None,
        grammars: Grammars | None = None,
    ) -> None:
        """`chooser` takes the policy's place (tests). `recorder` makes forwards cheap to repeat; on a GPU there always
        is one. Without `grammars` requests that need one are refused.

        Sets torch's threads and the allocator for the whole process. Raises ValueError where `configure` contradicts
        itself.
        """
        keep_freed_memory()
        if settings.threads is not None:
            torch.set_num_threads(settings.threads)
        network: Network = decoder.fused() if isinstance(decoder, Decoder) else decoder
        config = network.config
        like = network.like
        self.settings = replace(settings, prefill_budget_tokens=settings.prompt_tokens(like.device.type))
        self._clock = clock
        self._cache, store = make_cache(config, settings, like)
        self._counters, self._meter = Counters(), Meter(clock())
        self._requests = Requests(self._cache, store, self._counters)
        if recorder is None and like.device.type == "cuda":
            recorder = CudaRecorder(like.device)
        self._primitive = Primitive(network, self._cache, recorder)
        # Over pages, memory is planned for forwards of so many tokens and no more (`footprint`).
        self._shortage = Shortage(self._primitive, MOST_TOKENS if isinstance(self._cache, PagedCache) else inf)
        # On a GPU the prior is its data sheet: learning starts near the truth instead of at a small CPU's figures.
        gpu = torch.cuda.get_device_name(like.device) if like.device.type == "cuda" else ""
        self._modes = ModeController(prior(config, gpu, like.dtype.itemsize), configure, clock(), chooser)
        pool = self._cache.pool.total if isinstance(self._cache, PagedCache) else None
        self._budget = Budget(self.settings, pool, self._modes.points.growth)
        self._intake = Intake(self._requests, self._modes, config, settings.max_context_tokens, grammars)
        self._stats_at, self._stats_point = float("-inf"), ""

    def beside(self, configure: Configure, clock: Callable[[], float] = time.monotonic) -> Engine:
        """Another engine over the same weights, with a cache, a policy and a clock of its own."""
        return Engine(self._primitive.network, self.settings, configure, clock)

    @property
    def idle(self) -> bool:
        """Whether `step` has nothing to do."""
        return self._intake.idle

    def submit(self, request: Submit) -> None:
        """Queue a request. Raises RequestRefused where it can never run here."""
        self._intake.submit(request, self._clock())

    def cancel(self, request_id: str) -> None:
        """End a request before the next cycle, which reports it. Unknown (or already ended) ids are ignored."""
        self._intake.cancel(request_id)

    def configure(self, configure: Configure) -> None:
        """Use other points from the next cycle on. Requests keep a pin that they were accepted with."""
        self._modes.configure(configure)
        self._budget.configure(self._modes.points.growth)

    @torch.inference_mode()
    def record(self) -> None:
        """Record all forwards that the configured points run, where forwards are recorded; takes up to minutes."""
        if self._primitive.graphs is not None:
            self._primitive.graphs.record(self._modes.points.every, self._budget.longest_line)

    @torch.inference_mode()
    def step(self) -> Cycle:
        """Run one cycle: every request that can decode gets at least one token, prompts advance by the budget."""
        began, shortages = self._clock(), self._shortage.count
        self._meter.begin(began)
        events, requests = self._intake.advance(), self._requests
        before = self._counters.prompt["computed"]
        limits, moment = self._budget.limits, partial(self._budget.moment, began, requests.running, self._modes.prompts)
        # Planned in plain Python: without the model's layers a cycle of AR took 0.12 ms for one row, 0.35 for 64 and
        # 1.03 for 256, sampling included (`trimode_lab.engine.planning`).
        todo = schedule(requests.running, requests.waiting, limits, moment, requests.store.found)
        requests.admit(todo.admit)
        # Before preemption: the pages of those who leave may take the place of pages that were found for this cycle.
        requests.share(todo.prefill)
        requests.preempt(todo.preempt)
        close_gaps(self._cache, requests.running)
        batch = self._modes.decide(todo.decode, began)
        pieces, point_of = [piece for piece in todo.prefill if piece.tokens], self._modes.point_of
        parts = groups([s for s in todo.decode if not s.missing], point_of)
        carrier = self._shortage.carrier(parts, pieces) if pieces else None
        if pieces and carrier is None:
            # Nobody's cycle to ride in: those who can decode now do so at once.
            firsts = self._prefill(Turn(pieces, lambda s: point_of(s).mode is Mode.AR))
            spoken, events = {event.request_id for event in firsts}, events + firsts
            parts = groups([s for s in todo.decode if not s.missing and s.request_id not in spoken], point_of)
        # Each group is a forward of its own, which reads rows that follow one another as a view; others are copied in
        # every layer.
        line_up(self._cache, requests.running, [members for _, members in parts])
        self._budget.decoding(sum(point.width * len(members) for point, members in parts))
        for part in parts:
            events += self._decode(*part, Turn(pieces, self._speaks) if part is carrier else None)
        if (longest := self._shortage.given_up()) is not None:
            events.append(requests.end(longest, [], Finish.ERROR, MESSAGE, CODE))
        # Prompts are kept piece by piece: of many that arrive together and begin alike the first one computes, and the
        # others follow a cycle behind.
        for sequence, _, _ in todo.prefill:
            if sequence.row >= 0:
                requests.keep(sequence)
        if self.settings.check_invariants:
            invariants.check(requests.running, requests.waiting, self._cache, limits)
            invariants.check_decoded(todo.decode if self._shortage.count == shortages else [])
            invariants.check_pages(requests.store.problems())
        now = self._clock()
        # Events of requests that end now hold their accounts, and are sent with what is charged here.
        self._meter.end(now, working=not self.idle)
        if computed := self._counters.prompt["computed"] - before:
            self._modes.prompts.progressed(computed, now - began)
        point_name = str(batch)
        due = now - self._stats_at >= self.settings.stats_every_s or point_name != self._stats_point
        if due:
            self._stats_at, self._stats_point = now, point_name
        return Cycle(events, point_name, now - began, self.stats() if due else None)

    def stats(self) -> Stats:
        """The engine's state now."""
        modes, counters, now, requests = self._modes, self._counters, self._clock(), self._requests
        most = self.settings.max_running_requests
        return Stats(
            running=len(requests.running),
            waiting=len(requests.waiting),
            free_rows=self._cache.free_rows,
            cached_tokens=sum(s.cached for s in requests.running),
            capacity_tokens=self._budget.limits.capacity,
            # Routers judge by it how long a prompt would wait: what will be copied is not owed.
            queued_prompt_tokens=sum(requests.owed(s) for s in (*requests.waiting, *requests.running)),
            point=str(modes.point),
            decision_point=str(modes.decision.point),
            reason=modes.decision.reason.value,
            detail=modes.decision.detail,
            age_s=modes.age(now),
            switches_total=modes.switches,
            cycles_total=dict(counters.cycles),
            emitted_total=dict(counters.emitted),
            seconds_total=dict(counters.seconds),
            preemptions_total=counters.preemptions,
            policy_version=modes.version,
            curves=modes.estimates(),
            switched=modes.switched,
            paces=modes.paces(most, now),
            prompt_seconds_per_token=modes.prompts.per_token,
            prompt_tokens_per_second=modes.prompts.tokens_per_s,
            forwards_total=dict(counters.forwards),
            prompt_total=dict(counters.prompt),
            stored_pages=requests.store.index.used,
            store_pages=requests.store.index.count,
            shortages_total=self._shortage.count,
            busy_s=self._meter.busy_s,
            idle_s=self._meter.idle_s,
            utilization=modes.utilization([*requests.running, *requests.waiting], most, now),
        )

    def _speaks(self, sequence: Sequence) -> bool:
        """Whether the forward in which its prompt ends may say what follows. Drawn tokens are keyed to how they are
        drawn: only AR draws as that forward would. Greedy ones are equal in all lossless points."""
        mode = self._modes.point_of(sequence).mode
        return mode is Mode.AR or (mode.lossless and sequence.greedy)

    def _prefill(self, turn: Turn) -> list[TokenEvent]:
        """A causal forward over a piece of every prompt that has its turn."""
        began, before = self._clock(), sum(s.cached for s in turn.sequences)
        # Out of memory is caught below: an exception here would end the process and every stream of the replica, and
        # the router would bring the same load to the next one.
        firsts = self._shortage.prefill(turn)
        computed, seconds = sum(s.cached for s in turn.sequences) - before, self._clock() - began
        accounts, tokens = [s.busy for s in turn.sequences], [pages + tokens for _, pages, tokens in turn.pieces]
        self._meter.ran(Part(PROMPT, seconds, accounts, tokens))
        self._counters.prompt["computed"] += computed
        if computed:
            self._modes.prefilled(computed, seconds)
        return self._settle_firsts(firsts)

    def _settle_firsts(self, firsts: Seq[First]) -> list[TokenEvent]:
        """Tokens that came out of prompts' own forwards, which is how autoregression has them."""
        if not firsts:
            return []
        events = [self._requests.settle(sequence, proposed, str(AR)) for sequence, proposed in firsts]
        self._counters.emitted[str(AR)] += sum(len(event.tokens) for event in events)
        self._counters.forwards[str(AR)] += len(events)
        _note_first([sequence for sequence, _ in firsts], self._clock())
        return events

    def _decode(self, point: OperatingPoint, members: list[Sequence], turn: Turn | None) -> list[TokenEvent]:
        """One cycle of one group, from the model to events; the curves learn from it."""
        began = self._clock()
        context = sum(s.cached for s in members) / len(members)
        riding = turn.sequences if turn else []
        cached, before = sum(s.cached for s in riding), self._primitive.rows_run
        proposals, firsts = self._shortage.decode(point, members, turn)
        computed = sum(s.cached for s in riding) - cached
        self._counters.prompt["computed"] += computed
        name, events, emitted = str(point), [], 0
        workloads: dict[str, tuple[int, int]] = {}
        for sequence, proposed in zip(members, proposals, strict=True):
            event = self._requests.settle(sequence, proposed, name)
            emitted += len(event.tokens)
            if sequence.workload:
                requests, gained = workloads.get(sequence.workload, (0, 0))
                workloads[sequence.workload] = requests + 1, gained + len(event.tokens)
            events.append(event)
        seconds = self._clock() - began
        tokens = [*[point.width] * len(members), *([p.pages + p.tokens for p in turn.pieces] if turn else [])]
        self._meter.ran(Part(name, seconds, [s.busy for s in (*members, *riding)], tokens, len(riding)))
        self._counters.add(name, seconds, emitted, self._primitive.rows_run - before)
        named = tuple((workload, *counts) for workload, counts in workloads.items())
        cycle = GroupCycle(point, len(members), context, seconds, emitted, computed, named)
        now = self._clock()
        self._budget.decode_s += self._modes.observe(cycle, now)
        _note_first(members, now)
        return events + self._settle_firsts(firsts)


def _note_first(sequences: Seq[Sequence], now: float) -> None:
    """Their first tokens are there, where they had none."""
    for sequence in sequences:
        if sequence.first_at < 0:
            sequence.first_at = now
