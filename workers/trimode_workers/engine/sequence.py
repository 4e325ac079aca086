"""A request while it lives in the engine.

The invariant of the engine is stated in terms of this class: for every decoding sequence the cache row holds the causal
keys and values of `tokens[:cached]`, and `cached == len(tokens) - 1`. The one token not yet cached is the seed.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from math import inf
from typing import NamedTuple

from torch import Tensor

from trimode_api.modes import OperatingPoint
from trimode_api.prefix import ROOT, Key, root_of
from trimode_workers.engine.law import Law
from trimode_workers.engine.messages import Adjustments, Sampling, Score, Submit
from trimode_workers.grammar.matcher import Matcher


class Draft(NamedTuple):
    """Tokens guessed to follow the seed, made in passing by the cycle before. It counts while the sequence has `at`
    tokens; without it only time is lost. `law` `[1, n]` in place of `tokens` where tokens are drawn."""

    at: int
    tokens: list[int]
    law: Law | None


@dataclass(slots=True)
class History:
    """Which tokens have come, on the logits' device: `seen` bool `[vocab]` in prompt or answer, `answered` float32
    `[vocab]` how often in the answer. Of the first `upto` tokens of the sequence."""

    seen: Tensor
    answered: Tensor
    upto: int = 0


# Equal to itself alone: sequences are members of sets and are looked for in lists in every cycle, where equality by
# fields would compare whole prompts, and tensors.
@dataclass(slots=True, eq=False)
class Sequence:
    """`tokens` is prompt and output, `row` its place in the cache (-1: none). `arrival` orders requests.
    `tpot_s`: its objective for seconds per token, 0 for none. `grammar` stands behind the last token. `arrived`, `due`,
    `first_at`: when it came, when its first token is due (infinite: no objective) and when that came (-1: not yet), by
    the engine's clock."""

    request_id: str
    tokens: list[int]
    prompt_length: int
    end: int
    """Length of `tokens` at which the request ends, by `max_new_tokens` or by the context."""
    sampling: Sampling
    pin: OperatingPoint | None
    lossy_ok: bool
    priority: int
    arrival: int
    eos: frozenset[int]
    greedy: bool
    tpot_s: float = 0.0
    cached: int = 0
    row: int = -1
    draft: Draft | None = None
    keys: list[Key] = field(default_factory=list)
    """Of its first pages, made as they are needed."""
    shared: int = 0
    """Prompt tokens that it found computed when it came."""
    preempted: bool = False
    cycles: dict[str, int] = field(default_factory=dict)
    emitted: dict[str, int] = field(default_factory=dict)
    busy: dict[str, float] = field(default_factory=dict)
    """Its share of the engine's time, see `meter`."""
    grammar: Matcher | None = None
    workload: str = ""
    begin: int = 0
    """Length of `tokens` where the answer begins: of a stream that was resumed, before `prompt_length`."""
    adjustments: Adjustments | None = None
    history: History | None = None
    kept_ends: frozenset[int] = frozenset()
    """Those of `eos` that are emitted."""
    arrived: float = 0.0
    due: float = inf
    first_at: float = -1.0
    order: int = 0
    root: Key = ROOT
    """What its first page follows."""
    logprobs: int | None = None
    scores: list[Score] = field(default_factory=list)
    """Of the tokens that the present cycle proposes."""
    prompt_logprobs: int | None = None
    prompt_scores: list[Score] = field(default_factory=list)
    """Of the prompt's tokens from the second on, as far as it was computed for them."""

    @classmethod
    def of(
        cls, request: Submit, pin: OperatingPoint | None, arrival: int, context: int, eos: frozenset[int]
    ) -> Sequence:
        """The sequence of a request that was found to fit. `context` is the longest sequence in tokens."""
        prompt = len(request.tokens)
        return cls(
            request_id=request.request_id,
            tokens=list(request.tokens),
            prompt_length=prompt,
            end=min(prompt + request.max_new_tokens, context),
            sampling=request.sampling,
            pin=pin,
            lossy_ok=request.lossy_ok and not request.ordered,
            priority=request.priority,
            arrival=arrival,
            eos=(frozenset() if request.ignore_eos else eos) | frozenset(request.stop_ids),
            greedy=request.sampling.greedy,
            tpot_s=request.tier_tpot_s,
            workload=request.workload,
            begin=prompt - request.emitted,
            adjustments=request.adjustments,
            order=request.order,
            root=root_of(request.salt),
            logprobs=request.logprobs,
            prompt_logprobs=request.prompt_logprobs,
            kept_ends=frozenset(request.stop_ids) if request.keep_stop else frozenset(),
        )

    @property
    def missing(self) -> int:
        """Tokens still to be prefilled before it can decode; 0 means that the invariant holds."""
        return len(self.tokens) - 1 - self.cached

    @property
    def begun(self) -> bool:
        """Whether its client has a part of the answer already."""
        return len(self.tokens) > self.begin

    @property
    def unscored(self) -> bool:
        """Whether its prompt has to be computed even where it is known: its logits are wanted."""
        return self.prompt_logprobs is not None and len(self.prompt_scores) < self.begin - 1

    @property
    def urgency(self) -> tuple[int, int, int]:
        """Sorts the most urgent first: by priority, then by the client's own order, then by arrival."""
        return (-self.priority, self.order, self.arrival)
