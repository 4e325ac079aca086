"""An engine without a model: real messages, real process, made-up tokens.

It keeps an engine's promises (rows, queue, cancellation, points, usage), so that a shell that works with it works with
the real one. What it says is a function of the prompt alone: token i of the answer is `prompt[i % len(prompt)]`, an
echo, so a test can tell every token. Special prompts, by first token id: `CRASH` ends the process in mid-answer, `HANG`
never answers, `STOP` ends after one round of the prompt.
"""

from __future__ import annotations

import json
import os
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

from trimode_workers.engine.messages import (
    Configure,
    Cycle,
    Finish,
    PointStats,
    Score,
    Started,
    Stats,
    Submit,
    TokenEvent,
)
from trimode_workers.errors import RequestRefused
from trimode_workers.process.spawn import main
from trimode_workers.replica.settings import EngineOptions

CRASH, HANG, STOP = 1, 2, 3
TOKENS_PER_CYCLE = 3


class FakeRefused(RequestRefused):
    """The request asks for what this engine cannot do."""


class FakeMissing(Exception):
    """The model is not there."""


@dataclass(slots=True)
class _Row:
    request: Submit
    emitted: int = 0
    cycles: dict[str, int] = field(default_factory=dict)
    tokens: dict[str, int] = field(default_factory=dict)


class FakeEngine:
    """Runs up to `rows` echoes at once, `cycle_s` seconds a cycle."""

    def __init__(self, rows: int, configure: Configure, cycle_s: float, clock: Callable[[], float]) -> None:
        self._rows = rows
        self._cycle_s = cycle_s
        self._clock = clock
        self._requests: dict[str, _Row] = {}
        self._cancelled: list[str] = []
        self._totals: dict[str, int] = {}
        self._emitted: dict[str, int] = {}
        self._switches = 0
        self._since = clock()
        self._configure = configure

    @property
    def idle(self) -> bool:
        return not self._requests and not self._cancelled

    def submit(self, request: Submit) -> None:
        if request.pin is not None and request.pin not in self._configure.points:
            problem = f"pin: {request.pin!r} is not among {self._configure.points}"
            raise FakeRefused("mode_not_allowed", problem, "trimode.mode")
        self._requests[request.request_id] = _Row(request)

    def cancel(self, request_id: str) -> None:
        if request_id in self._requests:
            self._cancelled.append(request_id)

    def configure(self, configure: Configure) -> None:
        before = self._point
        self._configure = configure
        if self._point != before:
            self._switches += 1
            self._since = self._clock()

    @property
    def _point(self) -> str:
        return self._configure.fixed or self._configure.fallback

    def step(self) -> Cycle:
        events = [self._event(self._requests.pop(name), [], Finish.CANCELLED) for name in self._cancelled]
        self._cancelled.clear()
        time.sleep(self._cycle_s)
        for row in list(self._requests.values())[: self._rows]:
            event = self._advance(row)
            if event is not None:
                events.append(event)
        point = self._point
        self._totals[point] = self._totals.get(point, 0) + 1
        return Cycle(events=events, point=point, seconds=self._cycle_s)

    def _advance(self, row: _Row) -> TokenEvent | None:
        request = row.request
        prompt = request.tokens[: len(request.tokens) - request.emitted]
        if prompt[0] == HANG:
            return None
        if prompt[0] == CRASH and row.emitted:
            os._exit(7)
        point = request.pin or self._point
        before = request.emitted  # said by another replica
        limit = len(prompt) - before if prompt[0] == STOP else request.max_new_tokens
        limit = min(limit, request.max_new_tokens)
        count = min(1 if point == "AR" else TOKENS_PER_CYCLE, limit - row.emitted)
        tokens = [prompt[(before + row.emitted + i) % len(prompt)] for i in range(count)]
        row.emitted += count
        row.cycles[point] = row.cycles.get(point, 0) + 1
        row.tokens[point] = row.tokens.get(point, 0) + count
        self._emitted[point] = self._emitted.get(point, 0) + count
        if row.emitted < limit:
            prompt_scores = _prompt_scores(request) if row.emitted == count else []
            return TokenEvent(request.request_id, tokens, scores=_scores(request, tokens), prompt_scores=prompt_scores)
        del self._requests[request.request_id]
        return self._event(row, tokens, Finish.STOP if limit < request.max_new_tokens else Finish.LENGTH)

    def _event(self, row: _Row, tokens: list[int], finish: Finish) -> TokenEvent:
        return TokenEvent(
            row.request.request_id,
            tokens,
            finish,
            cycles=row.cycles,
            emitted=row.tokens,
            scores=_scores(row.request, tokens),
            prompt_scores=_prompt_scores(row.request) if row.emitted == len(tokens) else [],
        )

    def stats(self) -> Stats:
        running = min(len(self._requests), self._rows)
        return Stats(
            running=running,
            waiting=len(self._requests) - running,
            free_rows=self._rows - running,
            cached_tokens=0,
            capacity_tokens=self._rows * 1024,
            queued_prompt_tokens=0,
            point=self._point,
            decision_point=self._point,
            reason="Manual" if self._configure.fixed else "NoData",
            detail="",
            age_s=self._clock() - self._since,
            switches_total=self._switches,
            cycles_total=dict(self._totals),
            emitted_total=dict(self._emitted),
            seconds_total={},
            preemptions_total=0,
            policy_version=self._configure.version,
            curves=[PointStats(point, self._cycle_s, 1.0, 0.0, 0) for point in self._configure.points],
        )


def _scores(request: Submit, tokens: list[int]) -> list[Score]:
    """Where they are wanted: a token's logprob says its id, and behind it come the next ids."""
    return _scored(tokens, request.logprobs)


def _prompt_scores(request: Submit) -> list[Score]:
    return _scored(request.tokens[1:], request.prompt_logprobs)


def _scored(tokens: list[int], count: int | None) -> list[Score]:
    if count is None:
        return []
    top = range(count)
    return [Score(-t / 1000, [t + i for i in top], [-(t + i) / 1000 for i in top]) for t in tokens]


def build(options: EngineOptions, configure: Configure) -> tuple[FakeEngine, Started]:
    """The model is a folder with `fake.json`: `{"cycle_ms": 2}`. FakeMissing where it is not."""
    try:
        cycle_s = float(json.loads(Path(options.model, "fake.json").read_text())["cycle_ms"]) / 1000
    except FileNotFoundError as exc:
        raise FakeMissing(f"model: {options.model!r} is not a folder with fake.json") from exc
    engine = FakeEngine(options.max_running_requests, configure, cycle_s, clock=time.monotonic)
    started = Started(
        max_context_tokens=options.max_context_tokens,
        max_running_requests=options.max_running_requests,
        eos_token_ids=[0],
        mask_token_id=0,
        device="none",
        dtype=options.dtype,
        parameters=0,
        load_seconds=0.0,
        no_grammar="the engine without a model follows no grammar",
    )
    return engine, started


if __name__ == "__main__":
    sys.exit(main(build, (FakeMissing,), FakeRefused, sys.argv[1:]))
