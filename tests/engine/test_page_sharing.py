"""Shared beginnings: found, copied, the same answers; and what each request is told of it."""

from __future__ import annotations

import random
from collections import Counter
from dataclasses import replace
from typing import Any

import pytest
import torch
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st

from trimode_api.modes import OperatingPoint
from trimode_api.prefix import PAGE_TOKENS, prefix_keys
from trimode_workers.engine.engine import Engine
from trimode_workers.engine.messages import Configure, Finish, Submit
from trimode_workers.engine.requests import WORTH_KEEPING


@pytest.fixture(scope="module", params=["rows", "pages"])
def layout(request: pytest.FixtureRequest) -> str:
    return str(request.param)


POINTS = ["AR", "S4", "S8", "S16", "D4@0.5", "D8@0.9"]


def some(seed: int, count: int) -> list[int]:
    rng = random.Random(seed)
    return [rng.randrange(2, 12) for _ in range(count)]


SYSTEM = some(0, 70)


def run(tools: Any, engine: Engine, *requests: Submit) -> Any:
    for request in requests:
        engine.submit(request)
    return tools.drain(engine)


def prompt_tokens(engine: Engine) -> tuple[int, int]:
    """Computed, and copied from the page store."""
    total = engine.stats().prompt_total
    return total["computed"], total["shared"]


def check_contents(tools: Any, engine: Engine, decoder: Any, texts: list[list[int]]) -> int:
    """Every kept page equals a causal recomputation of the tokens it stands for; `texts` must explain all of them."""
    kept = engine._requests.store.index.kept()
    checked: set[bytes] = set()
    for tokens in texts:
        keys = prefix_keys(tokens)
        mine = [at for at, key in enumerate(keys) if key in kept and key not in checked]
        if not mine:
            continue
        state = tools.causal_state(decoder, tokens[: len(keys) * PAGE_TOKENS])
        for at in mine:
            page = engine._requests.store.memory[kept[keys[at]].page].transpose(2, 3)
            torch.testing.assert_close(
                page, state[:, :, at * PAGE_TOKENS : (at + 1) * PAGE_TOKENS], atol=2e-4, rtol=1e-4
            )
            checked.add(keys[at])
    assert checked == set(kept)
    return len(checked)


@pytest.mark.parametrize("first", POINTS)
@pytest.mark.parametrize("second", ["AR", "S8", "D8@0.9"])
def test_what_one_mode_computed_serves_every_other(
    first: str, second: str, tools: Any, decoder: Any, reference: Any
) -> None:
    """A conversation: the second prompt is the first, its answer, and a new question."""
    engine = tools.build_engine(decoder, points=POINTS)
    lossy = (first.startswith("D"), second.startswith("D"))
    opening = Submit("one", SYSTEM[:50], 30, pin=first, lossy_ok=lossy[0])
    answer = run(tools, engine, opening).tokens["one"]
    prompt = opening.tokens + answer + [3, 4, 5]
    following = Submit("two", prompt, 20, pin=second, lossy_ok=lossy[1])
    outcome = run(tools, engine, following)
    expected = (
        reference.diffusion(following, OperatingPoint.parse(second)) if lossy[1] else reference.answer(following, 128)
    )
    assert outcome.tokens["two"] == expected
    # All that the first one had cached, in whole pages: everything but its last token.
    reusable = (len(opening.tokens) + len(answer) - 1) // PAGE_TOKENS * PAGE_TOKENS
    assert outcome.last["two"].shared == reusable >= 4 * PAGE_TOKENS
    assert check_contents(tools, engine, decoder, [prompt + outcome.tokens["two"]]) >= reusable // PAGE_TOKENS


def test_of_many_that_begin_alike_the_first_one_computes(tools: Any, decoder: Any, reference: Any) -> None:
    engine = tools.build_engine(decoder, points=["AR", "S8"], max_running_requests=9, prefill_budget_tokens=32)
    requests = [Submit(str(i), SYSTEM + some(i + 1, 3), 9, ignore_eos=True) for i in range(9)]
    outcome = run(tools, engine, *requests)
    assert outcome.tokens == {r.request_id: reference.answer(r) for r in requests}
    computed, shared = prompt_tokens(engine)
    whole = len(SYSTEM) // PAGE_TOKENS * PAGE_TOKENS
    assert shared == 8 * whole
    assert computed == 9 * (len(SYSTEM) + 2) - shared
    assert [outcome.last[str(i)].shared for i in range(9)] == [0] + [whole] * 8


def test_only_requests_of_one_salt_share(tools: Any, decoder: Any, reference: Any) -> None:
    engine = tools.build_engine(decoder, points=["AR"], shared_tokens=1024)
    found = []
    for i, salt in enumerate(["", "a", "b", "a", "", "b"]):
        request = Submit(str(i), SYSTEM, 5, salt=salt, ignore_eos=True)
        outcome = run(tools, engine, request)
        assert outcome.tokens[str(i)] == reference.answer(request)
        found.append(outcome.last[str(i)].shared > 0)
    assert found == [False, False, False, True, True, True]


def test_equal_prompts_keep_their_seed(tools: Any, decoder: Any, reference: Any) -> None:
    """The last token is never copied: its logits are the answer's first."""
    for length in (PAGE_TOKENS, PAGE_TOKENS + 1, 4 * PAGE_TOKENS, 4 * PAGE_TOKENS + 1):
        engine = tools.build_engine(decoder, points=["AR", "S8"])
        run(tools, engine, Submit("whole", SYSTEM, 1))
        request = Submit("a", SYSTEM[:length], 5, ignore_eos=True)
        again = Submit("b", SYSTEM[:length], 5, ignore_eos=True)
        first, second = run(tools, engine, request), run(tools, engine, again)
        assert first.tokens["a"] == second.tokens["b"] == reference.answer(request)
        assert first.last["a"].shared == second.last["b"].shared == (length - 1) // PAGE_TOKENS * PAGE_TOKENS


def test_a_preempted_request_copies_what_it_had(tools: Any, decoder: Any, reference: Any, layout: str) -> None:
    requests = [Submit(str(i), some(i, 40), 50, ignore_eos=True) for i in range(4)]
    tight = {"max_running_requests": 4, "max_context_tokens": 100, "capacity_tokens": 200, "prefill_budget_tokens": 16}
    computed = {}
    for tokens in (0, 800):
        engine = tools.build_engine(decoder, points=["AR"], shared_tokens=tokens, **tight)
        outcome = run(tools, engine, *requests)
        assert outcome.tokens == {r.request_id: reference.answer(r, 100) for r in requests}
        assert engine.stats().preemptions_total > 0
        # Nobody's prompt was known before: one's own pages are no news to the client.
        assert {event.shared for event in outcome.last.values()} == {0}
        computed[tokens] = prompt_tokens(engine)
    assert computed[0][1] == 0
    again = computed[0][0] - sum(len(r.tokens) - 1 for r in requests)
    assert computed[800][0] + computed[800][1] == sum(len(r.tokens) - 1 for r in requests) + again
    # A store beside rows has room for what was preempted; of a cache in pages the others take some of it.
    assert computed[800][1] > (again // 2 if layout == "rows" else 0)


def test_what_the_preempted_keep_takes_nothing_from_the_same_cycle(tools: Any, decoder: Any, reference: Any) -> None:
    """A request is half copied when others are preempted, whose pages then fill the whole store."""
    tight = {"max_context_tokens": 160, "capacity_tokens": 320, "shared_tokens": 5 * PAGE_TOKENS}
    engine = tools.build_engine(decoder, points=["AR"], prefill_budget_tokens=200, **tight)
    run(tools, engine, Submit("first", SYSTEM, 1, ignore_eos=True))
    running = [Submit(str(i), some(i + 1, 40), 100, ignore_eos=True) for i in range(2)]
    for request in running:
        engine.submit(request)
    told = [event for _ in range(45) for event in engine.step().events]
    late = Submit("late", SYSTEM, 5, priority=1, ignore_eos=True)
    engine.submit(late)
    engine._budget.limits = replace(engine._budget.limits, prefill_budget=1)
    engine._budget.decoding(0)
    told += engine.step().events
    assert prompt_tokens(engine)[1] == PAGE_TOKENS
    # Wider blocks need more room from one cycle to the next.
    engine.configure(Configure(points=["AR", "S64"], fallback="AR", fixed="AR"))
    told += engine.step().events
    assert engine.stats().preemptions_total > 0
    while not engine.idle:
        told += engine.step().events
    for request in (late, *running):
        tokens = [token for event in told if event.request_id == request.request_id for token in event.tokens]
        assert tokens == reference.answer(request)


def test_one_that_left_in_mid_prompt_leaves_its_pages(tools: Any, decoder: Any, reference: Any) -> None:
    engine = tools.build_engine(decoder, points=["AR"], prefill_budget_tokens=33)
    engine.submit(Submit("gone", SYSTEM, 9))
    engine.step()
    engine.step()
    engine.cancel("gone")
    outcome = run(tools, engine, Submit("next", SYSTEM, 9))
    assert outcome.last["gone"].finish is Finish.CANCELLED
    assert outcome.last["next"].shared == 4 * PAGE_TOKENS
    assert outcome.tokens["next"] == reference.answer(Submit("", SYSTEM, 9))


def test_copies_count_against_the_budget(tools: Any, decoder: Any) -> None:
    """A page is a token's worth; with a budget of one, a page or a token a cycle."""
    engine = tools.build_engine(decoder, points=["AR"], prefill_budget_tokens=1)
    prompt = SYSTEM[:67]
    assert run(tools, engine, Submit("a", prompt, 1, ignore_eos=True)).cycles == 66
    assert run(tools, engine, Submit("b", prompt, 1, ignore_eos=True)).cycles == 4 + 2


def test_what_is_shared_is_not_owed(tools: Any, decoder: Any) -> None:
    """Routers judge by it how long a prompt would wait."""
    engine = tools.build_engine(decoder, points=["AR"])
    engine.submit(Submit("a", SYSTEM, 9))
    assert engine.stats().queued_prompt_tokens == len(SYSTEM) - 1
    tools.drain(engine)
    engine.submit(Submit("b", SYSTEM, 9))
    assert engine.stats().queued_prompt_tokens == len(SYSTEM) - 1 - 4 * PAGE_TOKENS


def test_what_is_short_is_not_kept(tools: Any, decoder: Any) -> None:
    engine = tools.build_engine(decoder, points=["AR"])
    run(tools, engine, Submit("a", SYSTEM[:40], WORTH_KEEPING - 40, ignore_eos=True))
    assert engine.stats().stored_pages == 0
    run(tools, engine, Submit("b", SYSTEM[:40], WORTH_KEEPING - 39, ignore_eos=True))
    assert engine.stats().stored_pages == WORTH_KEEPING // PAGE_TOKENS


def test_a_store_without_room_shares_nothing(tools: Any, decoder: Any, reference: Any) -> None:
    for tokens in (0, PAGE_TOKENS - 1):
        engine = tools.build_engine(decoder, points=["AR"], shared_tokens=tokens)
        for name in "ab":
            request = Submit(name, SYSTEM, 9)
            assert run(tools, engine, request).tokens[name] == reference.answer(request)
        assert prompt_tokens(engine) == (2 * (len(SYSTEM) - 1), 0)
        assert (engine.stats().stored_pages, engine.stats().store_pages) == (0, 0)


def test_a_long_prompt_delays_nobody_by_more_than_the_budget(tools: Any, decoder: Any) -> None:
    """While 4,000 tokens are prefilled, each running request gets a token in every cycle, and no cycle runs more
    prompt tokens than the budget."""
    budget, running = 64, 3
    engine = tools.build_engine(
        decoder, points=["AR"], max_context_tokens=4096, prefill_budget_tokens=budget, check_invariants=False
    )
    for i in range(running):
        engine.submit(Submit(str(i), some(i, 5), 100, ignore_eos=True))
    engine.step()
    ran: list[int] = []
    causal = engine._primitive.causal

    def counted(tokens: Any, window: Any, riders: Any) -> Any:
        ran.append(sum(riders.counts))
        return causal(tokens, window, riders)

    engine._primitive.causal = counted
    engine.submit(Submit("long", some(9, 4000), 1, ignore_eos=True))
    cycles, emitted = 0, Counter[str]()
    while "long" not in emitted:
        ran.clear()
        for event in engine.step().events:
            emitted[event.request_id] += len(event.tokens)
        cycles += 1
        assert 0 < sum(ran) <= budget + 1  # the last token is run in the same forward as its prompt's end
        assert [emitted[str(i)] for i in range(running)] == [cycles] * running
    assert cycles == -(-3999 // budget)


conversation = st.fixed_dictionaries(
    {
        "beginning": st.sampled_from([(0, 60), (1, 47), (0, 33), (1, 33), (0, 16), (0, 0)]),  # (which, tokens of it)
        "rest": st.lists(st.integers(2, 11), min_size=1, max_size=12),
        "max_new_tokens": st.sampled_from([1, 20, 50]),
        "pin": st.sampled_from([None, None, None, "AR", "S4", "S16", "D4@0.5", "D8@0.9"]),
        "priority": st.integers(0, 2),
        "arrives": st.sampled_from([0, 0, 0, 2, 9]),
        "leaves": st.sampled_from([None, None, None, 1, 4, 16]),
        "turns": st.sampled_from([1, 1, 2]),
        "ignore_eos": st.booleans(),
    }
)


@settings(
    max_examples=30,
    deadline=None,
    derandomize=True,
    phases=[Phase.explicit, Phase.generate],
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow],
)
@given(
    model=st.integers(0, 2),
    mix=st.lists(conversation, min_size=4, max_size=9),
    rows=st.sampled_from([5, 4, 3, 1]),
    spare=st.sampled_from([16, 48, 0]),
    shared=st.sampled_from([4000, 160, 64, 16]),
    budget=st.integers(1, 80),
    seed=st.integers(0, 1000),
)
def test_any_mixture_with_shared_beginnings_answers_like_the_reference(
    tools: Any,
    model: int,
    mix: list[dict[str, Any]],
    rows: int,
    spare: int,
    shared: int,
    budget: int,
    seed: int,
) -> None:
    """Random decoders, few beginnings among many requests, second turns, switches between any two cycles, preemption,
    departures, stores of all sizes: answers are the reference's, and every page holds what its key says."""
    rng, context = random.Random(seed), 128
    reference = tools.Reference(tools.build_decoder(model))
    engine = tools.build_engine(
        reference.decoder,
        points=["AR", "S4", "S8", "S16", "D4@0.5", "D8@0.9"],
        chooser=lambda batch, points: rng.choice([p for p in points if p.mode.lossless]),
        max_running_requests=rows,
        max_context_tokens=context,
        capacity_tokens=context + spare,
        shared_tokens=shared,
        prefill_budget_tokens=budget,
    )
    # The second differs in its first page alone: equal pages behind different ones must not be confused.
    beginnings = [some(100, 60), some(101, PAGE_TOKENS) + some(100, 60)[PAGE_TOKENS:]]
    requests: dict[str, Submit] = {}

    def submit(name: str, prompt: list[int], m: dict[str, Any]) -> None:
        lossy = (m["pin"] or "").startswith("D")
        requests[name] = Submit(
            *(name, prompt, m["max_new_tokens"]),
            pin=m["pin"],
            lossy_ok=lossy,
            priority=m["priority"],
            ignore_eos=m["ignore_eos"] and not lossy,
        )
        engine.submit(requests[name])

    pending = {
        str(i): ([*beginnings[m["beginning"][0]][: m["beginning"][1]], *m["rest"]], m) for i, m in enumerate(mix)
    }
    tokens: dict[str, list[int]] = {}
    last: dict[str, Any] = {}

    def between(cycle: int) -> None:
        for name in [name for name, (_, m) in pending.items() if m["arrives"] <= cycle]:
            submit(name, *pending.pop(name))
        for number, m in enumerate(mix):
            if m["leaves"] == cycle:
                engine.cancel(str(number))

    while pending:
        start = min(pending, key=lambda i: int(pending[i][1]["arrives"]))
        submit(start, *pending.pop(start))
        outcome = tools.drain(engine, between)
        tokens, last = tokens | outcome.tokens, last | outcome.last
    for name, request in list(requests.items()):
        if mix[int(name)]["turns"] == 2 and len(request.tokens) + len(tokens.get(name, [])) < context - 3:
            submit(f"{name} again", [*request.tokens, *tokens.get(name, []), 4, 7], mix[int(name)])
    outcome = tools.drain(engine)
    tokens, last = tokens | outcome.tokens, last | outcome.last
    assert set(last) == set(requests)
    for name, request in requests.items():
        expected = answer_of(reference, request, context)
        got = tokens.get(name, [])
        assert got == (expected[: len(got)] if last[name].finish is Finish.CANCELLED else expected), name
        assert last[name].shared <= len(request.tokens) - 1
    assert engine.stats().free_rows == rows
    _, copied = prompt_tokens(engine)
    seen["shared"] += copied
    seen["preempted"] += engine.stats().preemptions_total
    seen["dropped"] += engine.stats().stored_pages == engine.stats().store_pages
    check_contents(
        tools, engine, reference.decoder, [[*r.tokens, *tokens.get(name, [])] for name, r in requests.items()]
    )


seen = Counter[str]()


def test_those_mixtures_did_share_preempt_and_drop() -> None:
    assert not seen or min(seen[what] for what in ("shared", "preempted", "dropped")) > 0, seen


def answer_of(reference: Any, request: Submit, context: int) -> list[int]:
    point = OperatingPoint.parse(request.pin) if request.pin else None
    if point is not None and not point.mode.lossless:
        found: list[int] = reference.diffusion(request, point)[: context - len(request.tokens)]
    else:
        found = reference.answer(request, context)
    return found


def test_a_soak_of_random_requests_loses_and_repeats_nothing(tools: Any) -> None:
    """Hundreds of requests of all kinds through one small engine: every token arrives once, in order, and each
    request ends once."""
    rng = random.Random(3)
    reference = tools.Reference(tools.build_decoder(4))
    engine = tools.build_engine(
        reference.decoder,
        points=["AR", "S4", "S8", "S16"],
        chooser=lambda batch, points: rng.choice(points),
        max_running_requests=6,
        max_context_tokens=128,
        capacity_tokens=220,
        shared_tokens=256,
        prefill_budget_tokens=24,
    )
    texts = [some(i, 64) for i in range(4)]
    answers: dict[tuple[int, ...], list[int]] = {}
    requests: dict[str, Submit] = {}
    tokens: dict[str, list[int]] = {}
    ends: Counter[str] = Counter()
    cancelled: set[str] = set()
    while len(requests) < 300 or not engine.idle:
        while len(requests) < 300 and len(requests) - len(+ends) < 30 and rng.random() < 0.7:
            prompt = rng.choice(texts)[: rng.randint(1, 64)] + [rng.randrange(2, 12)] * rng.randrange(2)
            request = Submit(
                f"r{len(requests)}",
                prompt,
                rng.randint(1, 50),
                priority=rng.randrange(3),
                ignore_eos=rng.random() < 0.5,
            )
            requests[request.request_id] = request
            engine.submit(request)
        if requests and rng.random() < 0.03:
            name = rng.choice(list(requests))
            cancelled.add(name)
            engine.cancel(name)
        for event in engine.step().events:
            assert not ends[event.request_id], "an event after the last one"
            tokens.setdefault(event.request_id, []).extend(event.tokens)
            ends[event.request_id] += event.finish is not None
    assert ends == Counter(dict.fromkeys(requests, 1))
    for name, request in requests.items():
        key = (request.max_new_tokens, request.ignore_eos, *request.tokens)
        expected = answers.setdefault(key, reference.answer(request, 128))
        got = tokens.get(name, [])
        assert got == (expected[: len(got)] if name in cancelled else expected), name
    stats = engine.stats()
    assert (stats.free_rows, stats.running, stats.waiting) == (6, 0, 0)
    assert stats.preemptions_total > 5
    assert stats.prompt_total["shared"] > 1000
