"""Distributions that are kept as logits are the ones that a whole softmax and a whole sort would give."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch import Tensor

from trimode_api.modes import OperatingPoint
from trimode_workers.engine import law as law_module
from trimode_workers.engine.footprint import LOGIT_COPIES
from trimode_workers.engine.law import WORKING_BYTES, Cuts, Law, invert, log_mass
from trimode_workers.engine.messages import Sampling, Submit
from trimode_workers.engine.modes import MODES
from trimode_workers.engine.modes.diffusion import _guess
from trimode_workers.engine.sampling import Drawn, Purpose, Sampled, accept, pick
from trimode_workers.engine.sequence import Sequence


def cuts(top_p: list[float], top_k: list[int] | None = None, min_p: list[float] | None = None) -> Cuts:
    nothing = [0] * len(top_p)
    return Cuts(torch.tensor(top_p), torch.tensor(top_k or nothing), torch.tensor(min_p or [0.0] * len(top_p)))


def whole(logits: Tensor, temperatures: Tensor, cut: Cuts | None) -> Tensor:
    """The same by whole tensors: logits `[r, n, vocab]`, settings `[r]`."""
    p = torch.softmax(logits.float() / temperatures[:, None, None], -1)
    if cut is None:
        return p
    top_p, top_k, min_p = (x[:, None, None] for x in (cut.top_p, cut.top_k, cut.min_p))
    ordered, order = p.sort(stable=True, dim=-1, descending=True)
    ordered = torch.where(ordered >= min_p * ordered[..., :1], ordered, 0.0)
    ordered = torch.where((top_k == 0) | (torch.arange(p.shape[-1]) < top_k), ordered, 0.0)
    ordered /= torch.where((top_k > 0) | (min_p > 0), ordered.sum(-1, keepdim=True), 1.0)
    kept = torch.where(ordered.cumsum(-1) - ordered < top_p, ordered, 0.0)
    kept = torch.where(top_p >= 1.0, ordered, kept)
    return torch.zeros_like(p).scatter_(-1, order, kept / kept.sum(-1, keepdim=True))


def some(vocab: int, dtype: torch.dtype, spread: float = 2.0) -> Tensor:
    return (torch.randn(5, 3, vocab, generator=torch.Generator().manual_seed(1)) * spread).to(dtype)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])  # in bfloat16 many tokens are equally likely
@pytest.mark.parametrize(
    "cut",
    [
        None,
        cuts([0.3, 0.9, 1.0, 0.999, 0.05]),
        cuts([1.0, 0.9, 1.0, 0.5, 1.0], [3, 20, 0, 500, 1]),
        cuts([1.0, 0.9, 1.0, 1.0, 0.6], [0, 7, 0, 40, 0], [0.1, 0.02, 0.0, 1e-4, 1.0]),
    ],
)
@pytest.mark.parametrize("likeliest", [8, 4096])
@pytest.mark.parametrize("parts", [1, 2**20])
def test_a_law_is_its_distribution(
    dtype: torch.dtype, cut: Cuts | None, likeliest: int, parts: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(law_module, "LIKELIEST", likeliest)
    monkeypatch.setattr(law_module, "_FEWEST", parts)
    logits, at = some(300, dtype), torch.tensor([0, 1, 2, 4, 3])
    temperatures = torch.tensor([0.3, 0.7, 1.0, 1.3, 2.0])
    law, expected = Law.of(logits, at, temperatures, cut), whole(logits[at], temperatures, cut)
    for place in range(3):
        found = law.whole(torch.full((5,), place))
        assert torch.equal(found > 0, expected[:, place] > 0)
        torch.testing.assert_close(found, expected[:, place], rtol=1e-5, atol=1e-9)
        assert torch.allclose(law.row(3).whole(torch.tensor([place])), found[3:4])
    tokens = torch.arange(15).view(5, 3) * 17
    torch.testing.assert_close(
        law.chances(tokens), expected.gather(-1, tokens[..., None])[..., 0], rtol=1e-5, atol=1e-9
    )
    u = torch.rand(5, 3, generator=torch.Generator().manual_seed(2))
    assert torch.equal(law.draw(u), invert(expected, u))


def test_top_p_keeps_the_smallest_sufficient_set() -> None:
    p = torch.tensor([[[0.1, 0.5, 0.15, 0.25]]])
    for top_p, kept in [(0.4, [1]), (0.51, [1, 3]), (0.74, [1, 3]), (0.76, [1, 2, 3]), (1.0, [0, 1, 2, 3])]:
        law = Law.of(p.log(), torch.tensor([0]), torch.ones(1), cuts([top_p]))
        assert law.whole(torch.tensor([0]))[0].nonzero().flatten().tolist() == kept
    even = Law.of(torch.zeros(1, 1, 4), torch.tensor([0]), torch.ones(1), cuts([0.45]))
    assert even.whole(torch.tensor([0])).tolist() == [[0.5, 0.5, 0.0, 0.0]]


def test_laws_are_joined_and_replaced_place_by_place() -> None:
    logits, two = some(40, torch.float32), cuts([0.5, 0.8])
    a = Law.of(logits, torch.tensor([1, 2]), torch.tensor([0.7, 1.2]), two)
    b = Law.of(logits.flip(-1).clone(), torch.tensor([1, 2]), torch.tensor([0.7, 1.2]), two)
    joined = Law.joined([a.row(1).first(2), None, b.row(0)], 3, logits)
    places = [torch.full((2,), i) for i in range(3)]
    assert torch.equal(joined.whole(torch.tensor([1, 1, 1]))[0], a.whole(places[1])[1])
    assert torch.equal(joined.whole(torch.tensor([2, 2, 2]))[2], b.whole(places[2])[0])
    torch.testing.assert_close(joined.whole(torch.tensor([2, 2, 2]))[1], torch.full((40,), 1 / 40))
    expected = [a.whole(places[0]), b.whole(places[1])]
    a.take(torch.tensor([[False, True, False]] * 2), b)
    assert torch.equal(a.whole(places[0]), expected[0])
    assert torch.equal(a.whole(places[1]), expected[1])


def test_the_mass_of_logits() -> None:
    logits = some(50, torch.bfloat16)
    torch.testing.assert_close(log_mass(logits), logits.float().logsumexp(-1))


class Fixed:
    """A network whose logits are its hidden states."""

    sampler = None

    class config:
        mask_token_id = 0

    @staticmethod
    def logits(hidden: Tensor) -> Tensor:
        return hidden.clone()


def test_the_masks_share_counts_against_a_place_of_diffusion() -> None:
    """As published: a mask is never the answer, but a place that would rather stay masked is no sure one."""
    hidden = torch.tensor([[[0.78, 0.06, 0.16]]]).log()
    tokens, confidence = _guess(Fixed(), hidden, None)  # type: ignore[arg-type]
    assert tokens.tolist() == [[2]]
    assert confidence.item() == pytest.approx(0.16)
    drawn, confidence = _guess(Fixed(), hidden, among(1, 1.0)[0])  # type: ignore[arg-type]
    assert confidence.item() == pytest.approx([0.78, 0.06, 0.16][drawn.item()])


def among(rows: int, top_p: float, top_k: int = 0) -> tuple[Sampled, list[Sequence]]:
    requests = [Submit(str(i), [1], 9, Sampling(0.8, top_p, i, top_k)) for i in range(rows)]
    sequences = [Sequence.of(request, None, 0, 99, frozenset()) for request in requests]
    sampled = Sampled.among(sequences, torch.device("cpu"))
    assert sampled is not None
    return sampled, sequences


def peak(run: Callable[[], object]) -> int:
    """The most bytes that torch's allocator held during `run`, beyond what it held before."""
    run()
    with torch.profiler.profile(profile_memory=True) as profile:
        run()
    found = [e for e in profile.profiler.kineto_results.events() if e.name() == "[memory]"]  # type: ignore[union-attr]
    live = most = 0
    for event in sorted(found, key=lambda e: e.start_ns()):
        live += event.nbytes()
        most = max(most, live)
    return most


@pytest.mark.parametrize(("top_p", "top_k"), [(1.0, 0), (0.8, 0), (0.8, 30_000)])
@pytest.mark.parametrize(("likeliest", "most"), [(4096, 12), (8, 14)])  # in the second, all tokens have to be sorted
def test_sampling_takes_at_most_12_bytes_per_logit(
    likeliest: int, most: int, top_p: float, top_k: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """With the logits themselves, 2 bytes each in bfloat16; whole distributions took 10 to 38. And no more than what
    is planned for."""
    rows, block, vocab = 8, 32, 32768
    monkeypatch.setattr(law_module, "_FEWEST", 2**16)
    monkeypatch.setattr(law_module, "LIKELIEST", likeliest)
    sampled, _ = among(rows, top_p, top_k)

    def logits() -> Tensor:
        return torch.randn(rows, block, vocab, dtype=torch.bfloat16)

    def speculate() -> None:
        drafted = logits()
        q = sampled.law(drafted)
        drafts = sampled.draw(q, Purpose.DRAFT)[:, :-1]
        u = [sampled.uniform(block, purpose) for purpose in (Purpose.ACCEPT, Purpose.DRAW)]
        accept(sampled.law(logits()), Drawn(drafts, q), u[0][:, :-1], u[1])

    baseline = peak(logits)
    assert baseline >= 2 * rows * block * vocab
    total = rows * block * vocab
    planned = LOGIT_COPIES * 2 * total + WORKING_BYTES * law_module.at_once(total)
    for each in (lambda: pick(logits(), sampled), speculate):
        found = peak(each)
        assert found <= most * total
        assert found <= planned


class Loose:
    """What modes see of a primitive, without a model: logits of bfloat16, drawn anew each time."""

    graphs, mask_token_id, vocabulary = None, 0, 8192

    class network:
        sampler = None
        config = Fixed.config

        @staticmethod
        def logits(hidden: Tensor) -> Tensor:
            return torch.randn(*hidden.shape[:-1], Loose.vocabulary, dtype=torch.bfloat16)

    window = staticmethod(lambda *_: None)
    tensor = staticmethod(torch.tensor)
    causal = staticmethod(lambda tokens, *_: tokens[..., None])
    states = staticmethod(lambda tokens, *_, first: tokens[:, first:, None])

    @classmethod
    def forward(cls, tokens: Tensor, *_: object, first: int, drafting: bool) -> Tensor:
        return cls.network.logits(tokens[:, first:, None])


@pytest.mark.parametrize("point", ["AR", "S8", "S8@0.9", "D8@0.9"])
def test_a_sampled_cycle_takes_at_most_12_bytes_per_logit_in_each_mode(
    point: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As the modes run it."""
    monkeypatch.setattr(law_module, "_FEWEST", 2**14)
    monkeypatch.setattr(law_module, "LIKELIEST", 1024)
    parsed, rows = OperatingPoint.parse(point), 8
    _, sequences = among(rows, 0.8)
    total = rows * parsed.block_length * Loose.vocabulary
    found = peak(lambda: MODES[parsed.mode](Loose, sequences, parsed))  # type: ignore[arg-type]
    assert found >= 2 * total * (parsed.block_length - 1) // parsed.block_length, "the logits themselves"
    assert found <= 12 * total
