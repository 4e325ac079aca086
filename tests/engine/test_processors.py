"""Penalties, biases and barred tokens hold exactly at every place of a verification, drafts included."""

from __future__ import annotations

import random
from collections import Counter
from itertools import product
from typing import Any

import numpy as np
import pytest
import torch
from scipy.stats import chisquare
from torch import Tensor

from trimode_workers.engine.messages import Adjustments, Finish, Sampling, Submit
from trimode_workers.errors import RequestRefused

SUSPICIOUS = 1e-4
WANTED = [
    Adjustments(repetition=1.4),
    Adjustments(presence=0.9, frequency=0.4),
    Adjustments(repetition=0.7, presence=-0.5, frequency=0.3),
    Adjustments(bias={3: 2.5, 7: -100.0, 1: -4.0}),
    Adjustments(allowed=(1, 2, 4, 5, 9)),
    Adjustments(min_tokens=17),
    Adjustments(banned=((4,), (2, 6), (5, 5, 3), (8, 8))),
    Adjustments(
        bias={2: 1.0}, allowed=(1, 2, 3, 4, 5, 6), banned=((6, 2),), min_tokens=5, repetition=1.2, frequency=0.5
    ),
]


def plainly(logits: Tensor, request: Submit, tokens: list[int], eos: tuple[int, ...]) -> Tensor:
    """One place's logits `[vocab]` as wanted, id by id."""
    wanted, begin = request.adjustments, len(request.tokens) - request.emitted
    if wanted is None:
        return logits
    found = logits.clone()
    for token in range(len(found)):
        value = float(found[token]) + wanted.bias.get(token, 0.0)
        barred = wanted.allowed is not None and token not in wanted.allowed
        barred |= token in eos and len(tokens) - begin < wanted.min_tokens
        barred |= any(word[-1] == token and ends_with(tokens, word[:-1]) for word in wanted.banned)
        if token in tokens:
            value = value / wanted.repetition if value > 0 else value * wanted.repetition
        times = tokens[begin:].count(token)
        value -= (wanted.presence if times else 0.0) + wanted.frequency * times
        found[token] = -torch.inf if barred else value
    return found


def ends_with(tokens: list[int], words: tuple[int, ...]) -> bool:
    return not words or tuple(tokens[-len(words) :]) == words


def answer(reference: Any, request: Submit) -> list[int]:
    """The judge's greedy answer."""
    tokens, eos = list(request.tokens), reference.decoder.config.eos_token_ids
    while len(tokens) < len(request.tokens) + request.max_new_tokens:
        ends = () if request.ignore_eos else eos
        token = int(plainly(reference.logits(tokens)[-1], request, tokens, ends).argmax())
        if token in ends:
            break
        tokens.append(token)
    return tokens[len(request.tokens) :]


def prompts(seed: int, count: int) -> list[list[int]]:
    rng = random.Random(seed)
    return [[rng.randrange(2, 12) for _ in range(rng.randint(1, 30))] for _ in range(count)]


def requests(seed: int, count: int, length: int = 24) -> list[Submit]:
    """Every ninth wants nothing, and runs beside those that do."""
    wanted = [*WANTED, None]
    return [
        Submit(str(i), p, length, adjustments=wanted[i % 9], ignore_eos=i % 2 == 0 and i % 9 != 5)
        for i, p in enumerate(prompts(seed, count))
    ]


def run(tools: Any, decoder: Any, submits: list[Submit], points: list[str], **settings: Any) -> Any:
    engine = tools.build_engine(decoder, points=points, **settings)
    for submit in submits:
        engine.submit(submit)
    return tools.drain(engine), engine


@pytest.mark.parametrize("point", ["AR", "S4", "S8", "S16", "S32", "S8@0.4", "Q4", "Q8"])
def test_greedy_answers_are_the_judges(point: str, tools: Any, decoder: Any, reference: Any) -> None:
    submits = requests(1, 27, length=20)
    outcome, _ = run(tools, decoder, submits, [point], max_running_requests=9)
    assert outcome.tokens == {s.request_id: answer(reference, s) for s in submits}
    assert set().union(*(e.cycles for e in outcome.last.values())) - {"AR"} == {point} - {"AR"}


def test_200_greedy_answers_are_equal_in_all_lossless_points(tools: Any, decoder: Any) -> None:
    submits = requests(2, 200)
    expected, _ = run(tools, decoder, submits, ["AR"], max_running_requests=50)
    plain, _ = run(tools, decoder, [s for s in submits if s.adjustments is None], ["AR"], max_running_requests=50)
    without = [Submit(s.request_id, s.tokens, 24, ignore_eos=s.ignore_eos) for s in submits]
    other, _ = run(tools, decoder, without, ["AR"], max_running_requests=50)
    changed = sum(expected.tokens[i] != other.tokens[i] for i in expected.tokens)
    assert changed > 120, "these adjustments hardly change an answer"
    assert all(expected.tokens[i] == tokens for i, tokens in plain.tokens.items())
    for point in ("S8", "S16", "S32"):
        found, _ = run(tools, decoder, submits, [point], max_running_requests=50)
        assert found.tokens == expected.tokens
        accepted = sum(e.emitted.get(point, 0) for e in found.last.values()) / sum(
            e.cycles.get(point, 0) for e in found.last.values()
        )
        assert accepted > 1.1, "no draft is ever kept"


def test_switches_preemption_and_recorded_forwards_keep_them(tools: Any, decoder: Any) -> None:
    submits = requests(3, 18, length=40)
    expected, _ = run(tools, decoder, submits, ["AR"])
    for recorder in (None, tools.Rerun()):
        rng = random.Random(5)
        found, engine = run(
            tools,
            decoder,
            submits,
            ["AR", "S4", "S8", "S16", "Q4", "Q8", "S8@0.5"],
            chooser=lambda batch, points, rng=rng: rng.choice(points),
            max_context_tokens=72,
            capacity_tokens=130,
            recorder=recorder,
        )
        assert found.tokens == expected.tokens
        assert engine.stats().preemptions_total > 0


@pytest.mark.parametrize("point", ["AR", "S8", "Q4"])
def test_a_resumed_stream_counts_what_was_said_before(point: str, tools: Any, decoder: Any) -> None:
    for submit in requests(4, 18):
        whole, _ = run(tools, decoder, [submit], ["AR"])
        said = whole.tokens[submit.request_id]
        for cut in (1, len(said) // 2, len(said) - 1):
            if not 0 < cut < len(said):
                continue
            rest = Submit(
                "rest",
                submit.tokens + said[:cut],
                24 - cut,
                adjustments=submit.adjustments,
                ignore_eos=submit.ignore_eos,
                emitted=cut,
            )
            found, _ = run(tools, decoder, [rest], [point])
            assert found.tokens["rest"] == said[cut:]


@pytest.mark.parametrize("point", ["AR", "S8", "Q4", "D8@0.9"])
@pytest.mark.parametrize("shown", [False, True])
def test_stop_ids_end_an_answer_like_the_models_own(point: str, shown: bool, tools: Any, decoder: Any) -> None:
    for i, prompt in enumerate(prompts(6, 8)):
        submit = Submit(str(i), prompt, 24, lossy_ok=True, ignore_eos=i % 2 == 0)
        plain, _ = run(tools, decoder, [submit], [point])
        said = plain.tokens[submit.request_id]
        stops = (said[0], said[-1]) if i % 3 else (said[len(said) // 2],)
        first = min(said.index(stop) for stop in stops)
        limited = Submit(str(i), prompt, 24, lossy_ok=True, ignore_eos=i % 2 == 0, stop_ids=stops, keep_stop=shown)
        found, _ = run(tools, decoder, [limited], [point])
        assert found.tokens[str(i)] == said[: first + shown]
        assert found.last[str(i)].finish is Finish.STOP


def test_ends_of_both_kinds_wait_for_min_tokens(tools: Any, decoder: Any) -> None:
    """Also those of a stream that was resumed, whose first tokens count."""
    submit = Submit("a", [3, 4], 30, adjustments=Adjustments(min_tokens=12), stop_ids=(5, 6, 7))
    for point in ("AR", "S8", "Q4"):
        whole, _ = run(tools, decoder, [submit], [point])
        said = whole.tokens["a"]
        assert len(said) >= 12
        assert {1, 5, 6, 7}.isdisjoint(said[:12])
        rest = Submit("b", [3, 4, *said[:7]], 23, adjustments=submit.adjustments, stop_ids=(5, 6, 7), emitted=7)
        found, _ = run(tools, decoder, [rest], [point])
        assert found.tokens["b"] == said[7:]


LAWS = [
    (Sampling(1.3, top_k=3), None),
    (Sampling(1.3, min_p=0.3), None),
    (Sampling(1.1, 0.8, top_k=4, min_p=0.05), Adjustments(repetition=1.3, presence=0.4, frequency=0.6)),
    (Sampling(1.3), Adjustments(repetition=1.5, presence=-0.3, frequency=0.8, bias={2: 1.0, 5: -0.7})),
]


@pytest.mark.parametrize("point", ["AR", "S8", "S4@0.35", "Q4"])
@pytest.mark.parametrize("kind", range(len(LAWS)))
def test_sampled_answers_have_autoregressions_law(point: str, kind: int, tools: Any) -> None:
    """Triples of tokens from thousands of requests against their exact joint probabilities."""
    decoder = tools.build_decoder(3, vocabulary=6, spread=0.7)
    sampling, wanted = LAWS[kind]
    prompt, count = [3, 5, 2, 4], 3000
    submits = [
        Submit(
            str(seed),
            prompt,
            3,
            Sampling(sampling.temperature, sampling.top_p, seed, sampling.top_k, sampling.min_p),
            adjustments=wanted,
            ignore_eos=True,
        )
        for seed in range(count)
    ]
    outcome, _ = run(tools, decoder, submits, [point], max_running_requests=250, max_context_tokens=16)
    if point != "AR":
        assert sum(e.cycles[point] for e in outcome.last.values()) < 2.85 * count, "no draft is ever kept"
    expected = joint(tools.Reference(decoder), Submit("", prompt, 3, sampling, adjustments=wanted), 6)
    counts = Counter(tuple(tokens) for tokens in outcome.tokens.values())
    assert p_value(counts, expected) > SUSPICIOUS
    # The same law without what was wanted is told apart by as many draws.
    plain = joint(tools.Reference(decoder), Submit("", prompt, 3, Sampling(sampling.temperature)), 6)
    assert p_value(counts, plain) < SUSPICIOUS


def joint(reference: Any, request: Submit, vocabulary: int) -> dict[tuple[int, ...], float]:
    steps = {
        start: law([*request.tokens, *start], reference, request)
        for length in range(3)
        for start in product(range(vocabulary), repeat=length)
    }
    return {
        triple: float(np.prod([float(steps[triple[:i]][triple[i]]) for i in range(3)]))
        for triple in product(range(vocabulary), repeat=3)
    }


def law(tokens: list[int], reference: Any, request: Submit) -> Tensor:
    """`[vocab]` after adjustments, temperature, min-p, top-k, top-p, in this order."""
    sampling = request.sampling
    p = torch.softmax(plainly(reference.logits(tokens)[-1], request, tokens, ()).double() / sampling.temperature, -1)
    p[p < sampling.min_p * p.max()] = 0.0
    order = p.argsort(descending=True).tolist()
    p[order[sampling.top_k or len(order) :]] = 0.0
    p /= p.sum()
    mass = 0.0
    for token in order:
        if mass >= sampling.top_p:
            p[token] = 0.0
        mass += float(p[token])
    return p / p.sum()


def p_value(counts: Counter[tuple[int, ...]], expected: dict[tuple[int, ...], float]) -> float:
    """Chi-square; 0 where something impossible came. Cells expected fewer than five times are counted together."""
    if any(expected[cell] == 0 for cell in counts):
        return 0.0
    total = sum(counts.values())
    large = [cell for cell, p in expected.items() if p * total >= 5]
    observed, wanted = [counts[cell] for cell in large], [expected[cell] * total for cell in large]
    if (rest := total - sum(wanted)) > 1:
        observed.append(total - sum(observed))
        wanted.append(rest)
    scale = sum(observed) / sum(wanted)
    return float(chisquare(observed, [w * scale for w in wanted]).pvalue)


def test_diffusion_answers_no_such_request(tools: Any, decoder: Any) -> None:
    """Where any point will do, a lossless one runs; a pin to diffusion is refused."""
    outcome, engine = run(
        tools, decoder, [Submit("a", [3, 4], 9, lossy_ok=True, adjustments=WANTED[0])], ["AR", "D8@0.9"]
    )
    assert set(outcome.last["a"].cycles) == {"AR"}
    with pytest.raises(RequestRefused, match="need a lossless point"):
        engine.submit(Submit("b", [3, 4], 9, pin="D8@0.9", lossy_ok=True, adjustments=WANTED[0]))


@pytest.mark.parametrize(
    ("wanted", "field"),
    [
        (Adjustments(bias={12: 1.0}), "logit_bias"),
        (Adjustments(allowed=(1, 12)), "allowed_token_ids"),
        (Adjustments(banned=((1, -1),)), "bad_words"),
        (Adjustments(repetition=0.0), "repetition_penalty"),
    ],
)
def test_what_cannot_be_done_is_refused_by_name(wanted: Adjustments, field: str, tools: Any, decoder: Any) -> None:
    engine = tools.build_engine(decoder)
    with pytest.raises(RequestRefused) as caught:
        engine.submit(Submit("a", [3], 4, adjustments=wanted))
    assert caught.value.field == field


@pytest.mark.parametrize(
    ("sampling", "field"), [(Sampling(1.0, top_k=-2), "top_k"), (Sampling(1.0, min_p=1.5), "min_p")]
)
def test_cuts_out_of_range_are_refused(sampling: Sampling, field: str, tools: Any, decoder: Any) -> None:
    with pytest.raises(RequestRefused) as caught:
        tools.build_engine(decoder).submit(Submit("a", [3], 4, sampling))
    assert caught.value.field == field
