"""Out of memory: the batch is run in parts, at most one request ends, and the engine never does."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor

from trimode_workers.engine.messages import Finish, Sampling, Submit
from trimode_workers.engine.sequence import Sequence
from trimode_workers.engine.shortage import CODE, last_resort


def by_torch() -> RuntimeError:
    """What torch says on a processor."""
    with pytest.raises(RuntimeError) as caught:
        torch.empty(2**60, dtype=torch.uint8)
    return caught.value


class Tight:
    """A network that runs out of memory where `short` says so, of tokens and positions, or of logits for `most`."""

    def __init__(self, network: Any, short: Callable[[Tensor, Tensor], bool], most: int = 10**9) -> None:
        self._network, self._short, self._most = network, short, most

    def __getattr__(self, name: str) -> Any:
        return getattr(self._network, name)

    def hidden(self, tokens: Tensor, positions: Tensor, *rest: Any) -> Tensor:
        if self._short(tokens, positions):
            raise torch.OutOfMemoryError("CUDA out of memory (not really)")
        return self._network.hidden(tokens, positions, *rest)

    def logits(self, hidden: Tensor) -> Tensor:
        if hidden.shape[:-1].numel() > self._most:
            raise torch.OutOfMemoryError("CUDA out of memory (not really)")
        return self._network.logits(hidden)


def requests(*lengths: int, tokens: int = 20) -> list[Submit]:
    greedy = [Submit(f"{n}", [2 + i % 9 for i in range(n)], tokens, ignore_eos=True) for n in lengths]
    return [*greedy, Submit("drawn", [3, 4, 5], tokens, Sampling(0.9, 0.8, 7), ignore_eos=True)]


@pytest.mark.parametrize("point", ["AR", "S4", "S16", "Q4"])
@pytest.mark.parametrize(("tokens", "logits"), [(24, 10**9), (10**9, 7)])
def test_what_does_not_fit_at_once_is_run_in_parts(
    point: str, tokens: int, logits: int, tools: Any, decoder: Any, reference: Any
) -> None:
    network = Tight(decoder.fused(), lambda given, _: given.numel() > tokens, logits)
    engine = tools.build_engine(network, points=[point], max_running_requests=16)
    asked = requests(3, 40, 9, 50, *range(10, 21))
    for request in asked:
        engine.submit(request)
    outcome = tools.drain(engine)
    assert engine.stats().shortages_total > 0
    assert {event.finish for event in outcome.last.values()} == {Finish.LENGTH}
    greedy = [r for r in asked if r.sampling.greedy or point == "AR"]
    for request in greedy:
        assert outcome.tokens[request.request_id] == reference.answer(request), request.request_id


@pytest.mark.parametrize("fails", ["cublas", "processor", "other"])
def test_whoever_runs_out_of_memory_ends_no_engine(fails: str, tools: Any, decoder: Any, reference: Any) -> None:
    """Not all who allocate raise torch's OutOfMemoryError; what is no lack of memory is not taken for one."""
    words = {"cublas": "CUDA error: CUBLAS_STATUS_ALLOC_FAILED when calling `cublasCreate(handle)`", "other": "oops"}
    error = by_torch() if fails == "processor" else RuntimeError(words[fails])

    def short(given: Tensor, _: Tensor) -> bool:
        if given.numel() > 8:
            raise error
        return False

    engine = tools.build_engine(Tight(decoder.fused(), short), points=["S4"], max_running_requests=4)
    asked = requests(9, 14)[:-1]
    for request in asked:
        engine.submit(request)
    if fails == "other":
        with pytest.raises(RuntimeError, match="oops"):
            tools.drain(engine)
        return
    assert tools.drain(engine).tokens == {r.request_id: reference.answer(r) for r in asked}
    assert engine.stats().shortages_total > 0


@pytest.mark.parametrize("point", ["S4", "D4@0.5", "Q4"])
def test_a_prompt_that_does_not_fit_beside_others_runs_apart(point: str, tools: Any, decoder: Any) -> None:
    """Those who decode go on, whether their prompts have scores or not; nothing is lost or said twice."""
    answers = []
    for most in (10**9, 30):
        engine = tools.build_engine(Tight(decoder.fused(), lambda given, _: given.numel() > most), points=[point])  # noqa: B023
        engine.submit(Submit("decoding", [5], 60, lossy_ok=True, ignore_eos=True))
        engine.step()
        for scored in (None, 1):
            tokens = [2 + i % 9 for i in range(40)]
            engine.submit(Submit(f"{scored}", tokens, 20, lossy_ok=True, prompt_logprobs=scored, ignore_eos=True))
        answers.append(tools.drain(engine))
        assert (engine.stats().shortages_total > 0) is (most == 30)
    assert answers[0].tokens == answers[1].tokens


def test_a_block_that_does_not_fit_alone_goes_by_ar(tools: Any, decoder: Any, reference: Any) -> None:
    engine = tools.build_engine(Tight(decoder.fused(), lambda given, _: given.numel() > 8), points=["S16"])
    request = Submit("a", [5, 6, 7], 30, ignore_eos=True)
    engine.submit(request)
    assert tools.drain(engine).tokens["a"] == reference.answer(request)


@pytest.mark.parametrize("point", ["AR", "S4"])
def test_only_the_request_that_cannot_run_at_all_ends(point: str, tools: Any, decoder: Any, reference: Any) -> None:
    network = Tight(decoder.fused(), lambda _, positions: bool((positions >= 60).any()))
    engine = tools.build_engine(network, points=[point], prefill_budget_tokens=16)
    short = requests(4, 9)
    for request in (*short, Submit("long", [4] * 70, 9), Submit("later", [5] * 50, 40, ignore_eos=True)):
        engine.submit(request)
    outcome = tools.drain(engine)
    for name in ("long", "later"):
        last = outcome.last[name]
        assert (last.finish, last.code) == (Finish.ERROR, CODE)
        assert "ran out of the device's memory" in last.error
    for request in short[:-1]:
        assert outcome.tokens[request.request_id] == reference.answer(request)
    assert engine.idle
    engine.submit(short[0])
    assert tools.drain(engine).last["4"].finish is Finish.LENGTH


def test_where_nothing_runs_one_ends_in_a_cycle_and_it_is_the_longest(tools: Any, decoder: Any) -> None:
    network = Tight(decoder.fused(), lambda given, positions: True)
    engine = tools.build_engine(network, points=["S4"])
    for request in requests(1, 1, 1)[:1] + [Submit(str(n), [4] * n, 9) for n in (5, 9, 7)]:
        engine.submit(request)
    ended = []
    while not engine.idle:
        events = [event for event in engine.step().events if event.finish]
        assert len(events) == 1
        ended.append(events[0].request_id)
    assert ended == ["9", "7", "5", "1"]


def test_of_two_alike_the_younger_is_given_up() -> None:
    a, b = (Sequence.of(Submit(str(i), [1, 2], 4), None, i, 99, frozenset()) for i in range(2))
    assert last_resort([a, b]) is b
