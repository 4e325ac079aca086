"""What requests are charged: the rule by itself, and that nothing of a real engine's time is lost or charged twice."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from trimode_workers.engine.messages import Finish, Sampling, Submit
from trimode_workers.engine.meter import PROMPT, Meter, Part, shares
from trimode_workers.engine.sequence import Sequence


def part(seconds: float, *tokens: int) -> Part:
    return Part("AR", seconds, [{} for _ in tokens], tokens)


@pytest.mark.parametrize(
    ("seconds", "parts", "expected"),
    [
        (4.0, [part(4.0, 1, 1)], [[2.0, 2.0]]),
        (4.0, [part(4.0, 1, 3)], [[1.0, 3.0]]),  # one of them has prompt tokens in the forward
        (6.0, [part(1.0, 1), part(3.0, 8, 8)], [[1.5], [2.25, 2.25]]),  # the rest as the forwards
        (6.0, [part(0.0, 1), part(0.0, 2, 1)], [[3.0], [2.0, 1.0]]),  # a clock that stands
        (0.0, [part(0.0, 1)], [[0.0]]),
    ],
)
def test_a_cycle_is_shared_by_tokens_and_its_rest_by_seconds(
    seconds: float, parts: list[Part], expected: list[list[float]]
) -> None:
    assert shares(seconds, parts) == expected


PARTS = st.lists(
    st.tuples(st.floats(0, 10), st.lists(st.integers(1, 4096), min_size=1, max_size=6)), min_size=1, max_size=5
)


@given(st.floats(0, 100), PARTS)
def test_shares_add_up_and_nobody_is_paid(seconds: float, drawn: list[tuple[float, list[int]]]) -> None:
    parts = [part(own, *tokens) for own, tokens in drawn]
    found = shares(seconds, parts)
    assert sum(map(sum, found)) == pytest.approx(seconds)
    for (_, tokens), charged in zip(drawn, found, strict=True):
        assert all(one >= 0 for one in charged)
        # Who ran more is charged more, in the same forward.
        assert sorted(charged) == [charged[i] for i in sorted(range(len(tokens)), key=tokens.__getitem__)]


def test_time_is_busy_from_the_first_forward_to_the_last_answer() -> None:
    meter, account = Meter(10.0), {}
    meter.begin(12.0)
    meter.ran(Part("AR", 0.5, [account], [1]))
    meter.end(13.0, working=True)
    meter.begin(13.5)  # half a second between cycles, with a request on board
    meter.ran(Part("S8", 1.0, [account], [8]))
    meter.end(15.0, working=False)
    meter.begin(25.0)
    meter.end(26.0, working=True)  # nothing ran: it waited for a grammar
    assert account == {"AR": 1.0, "S8": 2.0}
    assert (meter.busy_s, meter.idle_s) == (3.0, 13.0)


class Tight:
    """A network without memory for positions from 100 on."""

    def __init__(self, network: Any) -> None:
        self._network = network

    def __getattr__(self, name: str) -> Any:
        return getattr(self._network, name)

    def hidden(self, tokens: Tensor, positions: Tensor, *rest: Any) -> Tensor:
        if bool((positions >= 100).any()):
            raise torch.OutOfMemoryError("CUDA out of memory (not really)")
        return self._network.hidden(tokens, positions, *rest)


def test_all_of_a_real_engines_time_is_charged_once(tools: Any, decoder: Any) -> None:
    """A mixed load by the real clock: all modes, prompts in pieces and shared, preemption, a resumed stream, requests
    that are cancelled while they wait, while their prompt runs and while they decode, and one that fails."""
    load = [Submit(f"{n}", [2 + (i * n) % 9 for i in range(3 * n)], 12 + n, ignore_eos=True) for n in range(1, 13)]
    load += [Submit(f"long {n}", [n, 3, 4], 60, ignore_eos=True) for n in range(4)]
    load += [Submit(f"pin {point}", [4, 5, 6], 20, pin=point, lossy_ok=True) for point in ("AR", "S8", "D8@0.5")]
    load += [Submit(f"shared {n}", [3] * 80, 5, Sampling(0.9, 0.8, n)) for n in range(3)]
    load += [Submit("resumed", [5] * 40, 10, ignore_eos=True, emitted=30), Submit("fails", [4] * 90, 40)]
    gone: dict[str, Callable[[Sequence], bool]] = {
        "gone waiting": lambda sequence: True,
        "gone early": lambda sequence: sequence.cached > 0,
        "gone late": lambda sequence: bool(sequence.emitted),
    }
    load += [Submit(name, [n] * 60, 60, ignore_eos=True) for n, name in enumerate(gone, 3)]
    points = ["AR", "S4", "S8", "D8@0.5"]
    settings = {"capacity_tokens": 150, "prefill_budget_tokens": 24, "max_running_requests": 6}
    read: list[float] = []
    idle_s = 0.0

    def clock() -> float:
        read.append(time.monotonic() + idle_s)
        return read[-1]

    engine = tools.build_engine(Tight(decoder.fused()), points=points, clock=clock, **settings)
    idle_s = 0.05
    for request in load:
        engine.submit(request)
    spent = 0.0

    def between(cycle: int) -> None:
        for name, is_time in gone.items():
            sequence = engine._requests.known.get(name)
            if sequence is not None and is_time(sequence):
                engine.cancel(name)
        if cycle == 20:
            nonlocal spent
            spent = engine.stats().busy_s

    outcome = tools.drain(engine, between)
    stats, last = engine.stats(), outcome.last
    assert {last[name].finish for name in gone} == {Finish.CANCELLED}
    assert last["fails"].finish is Finish.ERROR
    assert stats.preemptions_total > 0
    charged = {name: sum(event.busy.values()) for name, event in last.items()}
    assert sum(charged.values()) == pytest.approx(stats.busy_s, rel=1e-6)
    assert charged["gone waiting"] == 0 < min(charged["gone early"], charged["gone late"], charged["fails"])
    assert 0 < spent < stats.busy_s
    # All time from the first reading of the clock to the last cycle's end is one of the two.
    assert stats.idle_s >= 0.05
    end = read[0] + stats.busy_s + stats.idle_s
    assert min(abs(end - reading) for reading in read) < 1e-6
    for name in ("AR", "S8", "D8@0.5"):
        assert set(last[f"pin {name}"].busy) <= {PROMPT, name}
        assert last[f"pin {name}"].busy[name] > 0
    assert last["resumed"].busy[PROMPT] > 0
