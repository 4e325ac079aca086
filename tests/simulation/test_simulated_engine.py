"""The simulated engine against cases worked out by hand."""

from __future__ import annotations

from dataclasses import dataclass
from random import Random

import pytest

from trimode_api.modes import AR, OperatingPoint, speculation
from trimode_tools.simulator.cost_model import Truth
from trimode_tools.simulator.engine import Engine
from trimode_tools.simulator.measures import Account
from trimode_tools.simulator.point_policies import Fixed
from trimode_tools.simulator.rows import EngineLimits, Request
from trimode_tools.simulator.workload import Goal, Job


@dataclass(frozen=True)
class Flat:
    """10 ms per cycle and 1 ms more per row; 1 ms per 100 prompt tokens."""

    def seconds(self, point: OperatingPoint, batch: int, context_tokens: float) -> float:
        return 0.010 + 0.001 * (batch - 1)

    def prefill_seconds(self, tokens: int, point: OperatingPoint | None = None) -> float:
        return tokens * 1e-5


GOAL = Goal("all", 1.0, 1.0, 0)


def engine(point: OperatingPoint = AR, accepted: float = 5.0, rows: int = 8, capacity: float = 1e9) -> Engine:
    limits = EngineLimits(rows, capacity, prefill_budget=1000, noise=0.0)
    truth = Truth(Flat(), (accepted,), measured={point: (accepted,)} if point != AR else {})
    return Engine(truth, limits, Fixed(point), Random(0), (0,))


def drive(engine: Engine, arrivals: dict[float, Request]) -> dict[int, float]:
    """Ends by order, with arrivals let in on the way."""
    ends: dict[int, float] = {}
    account = Account.empty([GOAL])
    pending = sorted(arrivals.items())
    while pending or engine.step is not None:
        if engine.step is None or (pending and pending[0][0] < engine.step.ends):
            at, request = pending.pop(0)
            engine.accept(request, at)
            continue
        now = engine.step.ends
        for request in engine.finish(now, account, None):
            ends[request.order] = now
        engine.begin(now)
    return ends


def request(order: int, prompt: int, output: int) -> Request:
    return Request(Job(0.0, prompt, output, 0, 0), order)


def test_one_request_takes_its_prefill_and_one_cycle_per_token() -> None:
    alone = request(1, prompt=500, output=20)
    ends = drive(engine(), {0.0: alone})
    assert alone.first_at == pytest.approx(0.005 + 0.010)
    assert ends[1] == pytest.approx(0.005 + 20 * 0.010)


def test_speculation_takes_whole_cycles() -> None:
    ends = drive(engine(speculation(8), accepted=5.0), {0.0: request(1, prompt=500, output=21)})
    assert ends[1] == pytest.approx(0.005 + 5 * 0.010)  # 21 tokens at 5 per cycle: five cycles


def test_a_long_prompt_is_spread_over_cycles_by_the_budget() -> None:
    long = request(1, prompt=2500, output=1)
    ends = drive(engine(), {0.0: long})
    assert ends[1] == pytest.approx(0.010 + 0.010 + 0.005 + 0.010)


def test_a_second_request_joins_at_the_next_cycle_and_slows_the_first() -> None:
    first, second = request(1, prompt=100, output=10), request(2, prompt=100, output=2)
    ends = drive(engine(), {0.0: first, 0.025: second})
    # first: 11 ms, then 10 ms cycles until 31 ms; there the prompt (1 ms) and two cycles of 11 ms, then alone again
    assert second.first_at == pytest.approx(0.031 + 0.001 + 0.011)
    assert ends[2] == pytest.approx(0.031 + 0.001 + 2 * 0.011)
    assert ends[1] == pytest.approx(0.031 + 0.001 + 2 * 0.011 + 5 * 0.010)


def test_rows_are_a_limit() -> None:
    engine_ = engine(rows=1)
    ends = drive(engine_, {0.0: request(1, 100, 5), 0.001: request(2, 100, 5)})
    assert ends[1] == pytest.approx(0.001 + 5 * 0.010)
    assert ends[2] == pytest.approx(2 * (0.001 + 5 * 0.010))


def test_a_full_cache_preempts_the_youngest_which_still_ends_with_all_its_tokens() -> None:
    engine_ = engine(capacity=1150.0)
    old, young = request(1, 500, 200), request(2, 400, 200)
    ends = drive(engine_, {0.0: old, 0.001: young})
    assert engine_.preemptions >= 1
    assert ends[1] < ends[2]
    assert young.emitted == pytest.approx(200)
    assert engine_.context == pytest.approx(0.0, abs=1e-6)
    assert engine_.running == 0


def test_a_short_prompt_passes_a_long_one_and_a_late_one_still_gets_its_part() -> None:
    engine_ = engine()
    engine_.ttfts = (1.0,)
    long, short = request(1, 20_000, 5), request(2, 100, 5)
    drive(engine_, {0.0: request(0, 1000, 1), 0.05: long, 0.06: short})
    assert short.first_at < long.first_at
    flood = {0.001 + 0.01 * i: Request(Job(0.001 + 0.01 * i, 900, 1, 0, 0), 2 + i) for i in range(300)}
    overdue = Request(Job(-5.0, 8000, 1, 0, 0), 1)
    drive(engine_, {0.0: overdue, **flood})
    # An eighth of each piece of 1,000 tokens: 64 cycles of about 20 ms.
    assert 0.0 < overdue.first_at < 64 * 0.022


def test_what_a_killed_engine_held_keeps_its_tokens_and_order() -> None:
    engine_ = engine()
    requests = [request(i, 100, 50) for i in (1, 2, 3)]
    for each in requests:
        engine_.accept(each, 0.0)
    for _ in range(3):
        assert engine_.step is not None
        now = engine_.step.ends
        engine_.finish(now, Account.empty([GOAL]), None)
        engine_.begin(now)
    orphans = engine_.evict_all()
    assert [r.order for r in orphans] == [1, 2, 3]
    assert all(r.emitted > 0 for r in orphans[:1])
    assert engine_.in_flight == 0
    assert engine_.step is None
