"""The judge: the three modes without cache, batching or packed weights, one request at a time.

Slow and obvious on purpose. It shares nothing with the engine but the decoder and the keyed random numbers.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from itertools import count

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from trimode_api.modes import OperatingPoint
from trimode_workers.engine.engine import Engine, EngineSettings
from trimode_workers.engine.messages import Configure, Submit, TokenEvent
from trimode_workers.engine.sampling import Purpose, uniforms
from trimode_workers.model.config import ModelConfig, RopeConfig
from trimode_workers.model.decoder import Decoder
from trimode_workers.model.sampler import SamplerHead

torch.set_num_threads(1)  # tiny tensors: a second thread only waits for the first
ALL_POINTS = ["AR", "S4", "S8", "S16", "S32", "S64", "S8@0.5", "S16@0.9", "Q4", "Q8", "Q16", "Q32"]


@dataclass
class Reference:
    """Answers from whole sequences, recomputed for every token."""

    decoder: Decoder

    @torch.inference_mode()
    def logits(self, tokens: list[int], block: int = 0) -> Tensor:
        """`[n, vocab]`; the last `block` tokens see one another both ways, all else is causal."""
        return self.decoder.logits(self.states(tokens, block))

    @torch.inference_mode()
    def states(self, tokens: list[int], block: int = 0) -> Tensor:
        """The same before the head."""
        n = len(tokens)
        sees = torch.ones(n, n, dtype=torch.bool).tril()
        sees[n - block :, n - block :] = True

        def attend(layer: int, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
            return F.scaled_dot_product_attention(q, k, v, sees, enable_gqa=True)

        return self.decoder.hidden(torch.tensor([tokens]), torch.arange(n)[None], attend)[0]

    def answer(self, request: Submit, context: int = 10_000) -> list[int]:
        """The autoregressive answer, greedy or drawn, without an end-of-sequence token."""
        tokens = list(request.tokens)
        eos = () if request.ignore_eos else self.decoder.config.eos_token_ids
        end = min(len(tokens) + request.max_new_tokens, context)
        while len(tokens) < end:
            token = self.draw(self.logits(tokens)[-1], request, len(tokens))
            if token in eos:
                break
            tokens.append(token)
        return tokens[len(request.tokens) :]

    def draw(self, logits: Tensor, request: Submit, position: int) -> int:
        if request.sampling.greedy:
            return int(logits.argmax())
        u = uniforms(np.array([request.sampling.seed], np.uint64), np.array([position], np.uint64), Purpose.DRAW)
        reached = self.probabilities(logits, request).cumsum(0) >= float(u[0])
        return int(reached.nonzero()[0]) if reached.any() else int(self.probabilities(logits, request).nonzero()[-1])

    def probabilities(self, logits: Tensor, request: Submit) -> Tensor:
        """`[vocab]` after temperature and top-p."""
        p = torch.softmax(logits / request.sampling.temperature, -1)
        order = p.argsort(descending=True, stable=True)
        kept, mass = torch.zeros_like(p), 0.0
        for token in order.tolist():
            if mass >= request.sampling.top_p:
                break
            kept[token] = p[token]
            mass += float(p[token])
        return kept / kept.sum()

    @torch.inference_mode()
    def grouped(self, tokens: list[int], drafts: list[int], masks: int) -> Tensor:
        """Logits `[1 + drafts, 1 + masks, vocab]` of the last token and the drafts behind it, and of the masks behind
        each: a mask sees what the token before it sees, and its own group."""
        past, heads = tokens[:-1], [tokens[-1], *drafts]
        places = [(i, i, -1) for i in range(len(past))]  # position, the last causal position in sight, group
        line = list(past)
        for g, head in enumerate(heads):
            at = len(past) + g
            places += [(at, at, -1)] + [(at + 1 + j, at, g) for j in range(masks)]
            line += [head] + [self.decoder.config.mask_token_id] * masks
        sees = torch.tensor(
            [[(og == -1 and op <= last) or (og == g >= 0) for op, _, og in places] for _, last, g in places]
        )

        def attend(layer: int, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
            return F.scaled_dot_product_attention(q, k, v, sees, enable_gqa=True)

        positions = torch.tensor([[position for position, _, _ in places]])
        hidden = self.decoder.hidden(torch.tensor([line]), positions, attend)
        return self.decoder.logits(hidden)[0, len(past) :].unflatten(0, (len(heads), 1 + masks))

    def quadratic(self, request: Submit, size: int) -> tuple[list[int], int]:
        """The greedy answer by quadratic self-speculation, and its cycles."""
        tokens, drafts, cycles = list(request.tokens), [], 0
        while len(tokens) < len(request.tokens) + request.max_new_tokens:
            logits = self.grouped(tokens, drafts, size)
            right = logits[:, 0].argmax(-1).tolist()
            kept = next((i for i, draft in enumerate(drafts) if draft != right[i]), len(drafts))
            tokens += right[: kept + 1]
            drafts = logits[kept, 2:].argmax(-1).tolist()
            cycles += 1
        return tokens[len(request.tokens) :][: request.max_new_tokens], cycles

    @torch.inference_mode()
    def stepped(self, request: Submit, point: OperatingPoint) -> tuple[list[int], int, int]:
        """The greedy answer by self-speculation that drafts in up to three steps, its cycles and forwards."""
        tokens, cycles, forwards, size = list(request.tokens), 0, 0, point.block_length
        while len(tokens) < len(request.tokens) + request.max_new_tokens:
            block = [tokens[-1]] + [self.decoder.config.mask_token_id] * (size - 1)
            masked = set(range(1, size))
            for step in range(3):
                confidence, best = torch.softmax(self.logits(tokens[:-1] + block, size)[-size:], -1).max(-1)
                forwards += 1
                surest = max(sorted(masked), key=lambda i: float(confidence[i]))
                for i in sorted(masked):
                    if i == surest or step == 2 or confidence[i] >= (point.threshold or 1):
                        block[i] = int(best[i])
                        masked.discard(i)
                if not masked:
                    break
            right = self.logits(tokens[:-1] + block)[-size:].argmax(-1).tolist()
            kept = next((i for i in range(size - 1) if block[i + 1] != right[i]), size - 1)
            tokens += right[: kept + 1]
            cycles, forwards = cycles + 1, forwards + 1
        return tokens[len(request.tokens) :][: request.max_new_tokens], cycles, forwards

    @torch.inference_mode()
    def diffusion(self, request: Submit, point: OperatingPoint, head: SamplerHead | None = None) -> list[int]:
        """The greedy block-diffusion answer, by top-1 probability or by the sampler head."""
        mask_id, eos = self.decoder.config.mask_token_id, self.decoder.config.eos_token_ids
        tokens, start = list(request.tokens), len(request.tokens)
        while len(tokens) < start + request.max_new_tokens:
            block = [tokens[-1]] + [mask_id] * (point.block_length - 1)
            masked = set(range(1, point.block_length))
            while masked:
                states = self.states(tokens[:-1] + block, point.block_length)[-point.block_length :]
                logits = self.decoder.logits(states)
                everything = torch.softmax(logits, -1)
                logits[:, mask_id] = -torch.inf
                p = torch.softmax(logits, -1)
                best = p.argmax(-1)
                confidence = everything.gather(-1, best[:, None])[:, 0]
                confidence = confidence if head is None else torch.sigmoid(head(states, p))
                surest = max(sorted(masked), key=lambda i: float(confidence[i]))
                for i in [i for i in masked if i == surest or confidence[i] >= (point.threshold or 1)]:
                    block[i] = int(best[i])
                    masked.discard(i)
                ends = [i for i in range(1, point.block_length) if block[i] in eos and i not in masked]
                if ends and not any(i < ends[0] for i in masked):
                    break
            done = block[1 : min(masked)] if masked else block[1:]
            tokens += done if masked else [*done, int(self.logits(tokens[:-1] + block)[-1].argmax())]
            end = next((i for i in range(start, len(tokens)) if tokens[i] in eos), None)
            if end is not None:
                return tokens[start : min(end, start + request.max_new_tokens)]
        return tokens[start : start + request.max_new_tokens]


def build_decoder(seed: int = 0, vocabulary: int = 12, eos: tuple[int, ...] = (1,), spread: float = 1.0) -> Decoder:
    """A random decoder: few tokens, so that drafts are sometimes right. `spread` scales its logits."""
    config = ModelConfig(
        vocab_size=vocabulary,
        hidden_size=32,
        intermediate_size=48,
        layers=2,
        heads=4,
        kv_heads=2,
        head_dim=16,
        max_positions=4096,
        mask_token_id=0,
        eos_token_ids=eos,
        rope=RopeConfig(),
    )
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        decoder = Decoder(config).eval()
    with torch.no_grad():
        for parameter in decoder.parameters():
            if parameter.ndim > 1:
                parameter.mul_(3.0)
        # What a token is matters less than what went before it: drafts, which see masks, are then sometimes right.
        decoder.encoder.embed_tokens.weight.mul_(0.1)
        for layer in decoder.encoder.layers:
            layer.mlp.down_proj.weight.mul_(0.2)
        decoder.diffusion_head.weight.mul_(spread)
    return decoder


class Rerun:
    """Records as a GPU does: inputs and results stay where they are, and a replay ruins every other result."""

    def __init__(self) -> None:
        self.results: list[Tensor] = []
        self.replays = 0

    def record(self, run: Callable[[], Tensor]) -> Callable[[], Tensor]:
        result = run()
        self.results.append(result)

        def replay() -> Tensor:
            self.replays += 1
            for other in self.results:
                other.fill_(torch.nan)
            return result.copy_(run())

        return replay


def build_engine(
    decoder: Decoder, *, points: list[str] | None = None, chooser=None, clock=None, recorder=None, **settings
) -> Engine:  # type: ignore[no-untyped-def]
    """An engine that checks its invariants; its clock counts milliseconds of its own unless one is given."""
    points = points or ALL_POINTS
    ticks = count()
    settings = {"max_running_requests": 4, "max_context_tokens": 128, "check_invariants": True, **settings}
    return Engine(
        decoder,
        EngineSettings(**settings),
        Configure(points=points, fallback=points[0]),
        clock or (lambda: next(ticks) * 1e-3),
        chooser,
        recorder,
    )


@dataclass
class Outcome:
    """What an engine answered: tokens and last event by request, and how often it stepped."""

    tokens: dict[str, list[int]]
    last: dict[str, TokenEvent]
    cycles: int


def drain(engine: Engine, between: Callable[[int], None] = lambda cycle: None, most: int = 5000) -> Outcome:
    """Step until idle, calling `between` with the number of cycles run before each."""
    outcome = Outcome({}, {}, 0)
    while not engine.idle:
        between(outcome.cycles)
        for event in engine.step().events:
            outcome.tokens.setdefault(event.request_id, []).extend(event.tokens)
            if event.finish is not None:
                outcome.last[event.request_id] = event
        outcome.cycles += 1
        assert outcome.cycles < most, "the engine does not come to an end"
    return outcome


@torch.inference_mode()
def causal_state(decoder: Decoder, tokens: list[int]) -> Tensor:
    """Keys and values `[layers, 2, n, kv_heads, head_dim]` of `tokens`, computed in one causal pass."""
    found: list[Tensor] = []

    def attend(layer: int, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        paired = k.unflatten(-1, (2, -1)).transpose(-1, -2).flatten(-2)  # the order in which engines keep k
        found.append(torch.stack((paired[0], v[0])).transpose(1, 2))
        return F.scaled_dot_product_attention(q, k, v, is_causal=True, enable_gqa=True)

    n = len(tokens)
    if n == 0:
        c = decoder.config
        return torch.zeros(c.layers, 2, 0, c.kv_heads, c.head_dim)
    decoder.hidden(torch.tensor([tokens]), torch.arange(n)[None], attend)
    return torch.stack(found)


@pytest.fixture(scope="session")
def decoder() -> Decoder:
    return build_decoder()


@pytest.fixture(scope="session")
def reference(decoder: Decoder) -> Reference:
    return Reference(decoder)


@pytest.fixture(scope="module", params=["rows"])
def layout(request: pytest.FixtureRequest) -> str:
    """Of the cache. Modules whose promises hold in every layout have a fixture of this name with pages as well, which
    are read by the plain reference."""
    return str(request.param)


@pytest.fixture(scope="module")
def tools(layout: str):  # type: ignore[no-untyped-def]
    """The helpers of this file, for test modules, which cannot import one another."""

    class Tools:
        build_decoder = staticmethod(build_decoder)
        build_engine = staticmethod(partial(build_engine, layout=layout))
        drain = staticmethod(drain)
        Rerun = Rerun
        causal_state = staticmethod(causal_state)
        Reference = Reference
        all_points = ALL_POINTS

    return Tools
