"""Speculative sampling is exact, and the statistics used here are sharp enough to tell when it is not."""

from __future__ import annotations

from collections import Counter
from itertools import product
from typing import Any

import numpy as np
import pytest
import torch
from scipy.stats import chisquare, kstest
from torch import Tensor

from trimode_workers.engine.law import Law, invert
from trimode_workers.engine.messages import Sampling, Submit
from trimode_workers.engine.sampling import Drawn, Purpose, accept, uniforms

DRAWS = 40_000
SUSPICIOUS = 1e-4
"""Below this p-value a sample does not come from the distribution in question."""


def p_value(counts: Counter[Any], expected: dict[Any, float]) -> float:
    """Chi-square; cells expected fewer than five times are counted together."""
    total = sum(counts.values())
    assert set(counts) <= {cell for cell, p in expected.items() if p > 0}, "something impossible was drawn"
    large = [cell for cell, p in expected.items() if p * total >= 5]
    observed = [counts[cell] for cell in large]
    wanted = [expected[cell] * total for cell in large]
    if (rest := total - sum(wanted)) > 1:
        observed.append(total - sum(observed))
        wanted.append(rest)
    scale = sum(observed) / sum(wanted)
    return float(chisquare(observed, [w * scale for w in wanted]).pvalue)


def some(seed: int, *shape: int) -> Tensor:
    return torch.softmax(torch.randn(*shape, generator=torch.Generator().manual_seed(seed)) * 1.5, -1)


def law(p: Tensor) -> Law:
    """p `[r, n, vocab]`, as what is drawn from."""
    return Law.of(p.log(), torch.arange(len(p)), torch.ones(len(p)))


def draws(purpose: Purpose, n: int) -> Tensor:
    seeds, positions = np.arange(DRAWS, dtype=np.uint64)[:, None], np.arange(n, dtype=np.uint64)
    return torch.from_numpy(uniforms(seeds, positions, purpose))


Rule = Any


def by_the_rule(p: Tensor, q: Tensor, drafts: Tensor) -> Tensor:
    """First token by the engine's rule; one draft."""
    kept, follower = accept(law(p), Drawn(drafts, law(q)), draws(Purpose.ACCEPT, 1), draws(Purpose.DRAW, 2))
    return torch.where(kept > 0, drafts[:, 0], follower)


def by_equality(p: Tensor, q: Tensor, drafts: Tensor) -> Tensor:
    """The naive rule: keep a draft that equals a second sample, else draw anew."""
    second = invert(p[:, 0], draws(Purpose.ACCEPT, 1)[:, 0])
    return torch.where(second == drafts[:, 0], drafts[:, 0], invert(p[:, 0], draws(Purpose.DRAW, 1)[:, 0]))


def without_residual(p: Tensor, q: Tensor, drafts: Tensor) -> Tensor:
    """Another common mistake: after a refusal draw from p instead of from what is left of it."""
    kept, _ = accept(law(p), Drawn(drafts, law(q)), draws(Purpose.ACCEPT, 1), draws(Purpose.DRAW, 2))
    return torch.where(kept > 0, drafts[:, 0], invert(p[:, 0], draws(Purpose.DRAW, 1)[:, 0]))


def first_tokens(rule: Rule, seed: int) -> float:
    """The p-value of 40,000 first tokens by `rule` against the distribution they should have."""
    p, q = some(seed, 1, 2, 6), some(seed + 100, 1, 1, 6)
    drafts = invert(q.expand(DRAWS, -1, -1), draws(Purpose.DRAFT, 1))
    tokens = rule(p.expand(DRAWS, -1, -1), q.expand(DRAWS, -1, -1), drafts)
    return p_value(Counter(tokens.tolist()), dict(enumerate(p[0, 0].tolist())))


@pytest.mark.parametrize("seed", range(5))
def test_the_accept_rule_draws_from_p(seed: int) -> None:
    assert first_tokens(by_the_rule, seed) > SUSPICIOUS


@pytest.mark.parametrize("wrong", [by_equality, without_residual])
def test_the_statistics_catch_wrong_rules(wrong: Rule) -> None:
    assert max(first_tokens(wrong, seed) for seed in range(5)) < SUSPICIOUS


def test_the_token_behind_the_drafts_is_drawn_from_p_given_them() -> None:
    p, q = some(1, 1, 3, 5), some(2, 1, 2, 5)
    drafts = invert(q.expand(DRAWS, -1, -1), draws(Purpose.DRAFT, 2))
    kept, follower = accept(
        law(p.expand(DRAWS, -1, -1)),
        Drawn(drafts, law(q.expand(DRAWS, -1, -1))),
        draws(Purpose.ACCEPT, 2),
        draws(Purpose.DRAW, 3),
    )
    bonus = Counter(follower[kept == 2].tolist())
    assert p_value(bonus, dict(enumerate(p[0, 2].tolist()))) > SUSPICIOUS
    overlap = torch.minimum(p[0, 0], q[0, 0]).sum()
    assert float((kept > 0).float().mean()) == pytest.approx(float(overlap), abs=0.01)


def test_impossible_drafts_are_refused_and_equal_ones_kept() -> None:
    p, q = torch.tensor([[[0.0, 1.0], [0.5, 0.5]]]), torch.tensor([[[1.0, 0.0]]])
    kept, follower = accept(law(p), Drawn(torch.tensor([[0]]), law(q)), torch.full((1, 1), 1e-7), torch.ones(1, 2))
    assert (kept.tolist(), follower.tolist()) == ([0], [1])
    kept, _ = accept(law(p.flip(-1)), Drawn(torch.tensor([[0]]), law(q)), torch.ones(1, 1), torch.ones(1, 2))
    assert kept.tolist() == [1]


POINTS = [
    ("AR", 1.0),
    ("S4", 1.0),
    ("S4", 0.8),
    ("S8", 0.95),
    ("S4@0.35", 1.0),
    ("S8@0.3", 0.9),
    ("Q4", 1.0),
    ("Q8", 0.9),
]


@pytest.mark.parametrize(("point", "top_p"), POINTS)
def test_answers_of_the_engine_are_distributed_as_the_model_says(point: str, top_p: float, tools: Any) -> None:
    """Triples of tokens from thousands of requests against their exact joint probabilities."""
    decoder = tools.build_decoder(3, vocabulary=6, spread=0.7)
    prompt, temperature, count = [3, 5, 2, 4], 1.3, 6000
    engine = tools.build_engine(decoder, points=[point], max_running_requests=250, max_context_tokens=16)
    for seed in range(count):
        engine.submit(Submit(str(seed), prompt, 3, Sampling(temperature, top_p, seed), ignore_eos=True))
    outcome = tools.drain(engine)
    if point != "AR":
        assert sum(e.cycles[point] for e in outcome.last.values()) < 2.8 * count, "no draft is ever kept"
    expected = joint(tools.Reference(decoder), Submit("", prompt, 3, Sampling(temperature, top_p)), 6)
    assert p_value(Counter(tuple(t) for t in outcome.tokens.values()), expected) > SUSPICIOUS


def joint(reference: Any, request: Submit, vocabulary: int) -> dict[tuple[int, ...], float]:
    """The probability of every answer of three tokens."""
    found: dict[tuple[int, ...], float] = {}
    steps: dict[tuple[int, ...], Tensor] = {}
    for length in range(3):
        for start in product(range(vocabulary), repeat=length):
            steps[start] = reference.probabilities(reference.logits([*request.tokens, *start])[-1], request).double()
    for answer in product(range(vocabulary), repeat=3):
        found[answer] = float(np.prod([float(steps[answer[:i]][answer[i]]) for i in range(3)]))
    return found


def test_uniforms_are_uniform_and_keyed() -> None:
    seeds, positions = np.arange(200, dtype=np.uint64)[:, None], np.arange(100, dtype=np.uint64)
    by_purpose = [uniforms(seeds, positions, purpose) for purpose in Purpose]
    for u in by_purpose:
        assert u.dtype == np.float32
        assert 0 < u.min() < u.max() <= 1
        assert kstest(u.ravel(), "uniform").pvalue > SUSPICIOUS
        assert kstest((u[:, 1:] - u[:, :-1]).ravel() % 1, "uniform").pvalue > SUSPICIOUS
        assert kstest((u[1:] - u[:-1]).ravel() % 1, "uniform").pvalue > SUSPICIOUS
    assert abs(np.corrcoef([u.ravel() for u in by_purpose])[0, 1:]).max() < 0.03
    one = uniforms(np.array([7], np.uint64), np.array([41], np.uint64), Purpose.DRAFT)
    assert one[0] == by_purpose[Purpose.DRAFT][7, 41]


def test_invert_never_draws_what_has_no_probability() -> None:
    p = torch.tensor([[0.0, 0.25, 0.0, 0.75, 0.0]])
    for u, token in [(2.0**-24, 1), (0.25, 1), (0.2500001, 3), (1.0, 3)]:
        assert invert(p, torch.tensor([u])).tolist() == [token]
