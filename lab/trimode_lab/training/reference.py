"""Plain decoding in the three modes, for marking a model: fixed batches, no scheduling, greedy only.

Deliberately independent of the serving engine, so that neither hides the other's mistakes. State of a row as in
the engine: its cache holds all its tokens but the last one, the seed.
"""

from collections.abc import Callable
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from trimode_lab.training.batches import Row
from trimode_workers.model import ModelConfig, Network


@dataclass(frozen=True)
class Decoded:
    """One row's answer tokens (with `<end>` if it came), cycles behind the first token, and their forwards."""

    tokens: list[int]
    cycles: int
    forwards: int


class Cache:
    """Keys and values `[b, kv_heads, capacity, head_dim]` per layer; row lengths decide what counts."""

    def __init__(self, model: Network, rows: int, capacity: int) -> None:
        c = model.config
        self.model, self.capacity = model, capacity
        shape = (c.layers, rows, c.kv_heads, capacity, c.head_dim)
        self.keys, self.values = torch.zeros(shape), torch.zeros(shape)
        self.rows = torch.arange(rows)[:, None]

    def forward(self, tokens: Tensor, lengths: Tensor, *, causal: bool) -> Tensor:
        """tokens `[b, n]` behind the first `lengths[b]` cached ones -> logits `[b, n, vocab]`."""
        n = tokens.shape[1]
        positions = lengths[:, None] + torch.arange(n)
        places = torch.arange(self.capacity)
        last_seen = positions if causal else positions[:, -1:].expand(-1, n)
        seen = (places <= last_seen[:, :, None])[:, None]

        def attend(layer: int, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
            self.keys[layer, self.rows, :, positions] = k.transpose(1, 2)
            self.values[layer, self.rows, :, positions] = v.transpose(1, 2)
            return F.scaled_dot_product_attention(q, self.keys[layer], self.values[layer], seen, enable_gqa=True)

        return self.model.logits(self.model.hidden(tokens, positions, attend))


class Decoding:
    """A batch being decoded: `outputs` per row, `lengths` cached per row, and who is done."""

    def __init__(self, model: Network, rows: list[Row], limit: int, spare: int) -> None:
        self.config: ModelConfig = model.config
        self.limit = limit
        columns = max(len(row.prompt) for row in rows)
        prompts = torch.zeros(len(rows), columns, dtype=torch.long)
        for index, row in enumerate(rows):
            prompts[index, : len(row.prompt)] = torch.tensor(row.prompt)
        self.cache = Cache(model, len(rows), columns + limit + spare)
        self.lengths = torch.tensor([len(row.prompt) for row in rows])
        logits = self.cache.forward(prompts, torch.zeros_like(self.lengths), causal=True)
        first = logits[torch.arange(len(rows)), self.lengths - 1].argmax(-1)
        self.outputs: list[list[int]] = [[int(token)] for token in first]
        self.cycles, self.forwards = [0] * len(rows), [0] * len(rows)

    def running(self) -> list[int]:
        """Indices of the rows that are not done."""
        return [index for index in range(len(self.outputs)) if not self.done(index)]

    def done(self, index: int) -> bool:
        output = self.outputs[index]
        return output[-1] in self.config.eos_token_ids or len(output) >= self.limit

    def seeds(self) -> Tensor:
        """Last token of each row `[b, 1]`."""
        return torch.tensor([[output[-1]] for output in self.outputs])

    def commit(self, index: int, tokens: list[int], forwards: int) -> None:
        """Append a cycle's tokens to a row, up to and with the first `<end>`, and to the limit."""
        ends = [place for place, token in enumerate(tokens) if token in self.config.eos_token_ids]
        kept = tokens[: ends[0] + 1] if ends else tokens
        self.outputs[index].extend(kept[: self.limit - len(self.outputs[index])])
        self.cycles[index] += 1
        self.forwards[index] += forwards
        self.lengths[index] += len(tokens)

    def result(self) -> list[Decoded]:
        return [Decoded(*row) for row in zip(self.outputs, self.cycles, self.forwards, strict=True)]


Cycle = Callable[[Decoding], None]


@torch.inference_mode()
def decode(model: Network, rows: list[Row], cycle: Cycle, limit: int = 160, spare: int = 128) -> list[Decoded]:
    """Decode all rows, at most `limit` tokens each; `spare`: cache columns for two blocks behind that."""
    state = Decoding(model, rows, limit, spare)
    while state.running():
        cycle(state)
    return state.result()


def autoregressive(state: Decoding) -> None:
    """One token."""
    following = state.cache.forward(state.seeds(), state.lengths, causal=True)[:, 0].argmax(-1)
    for index in state.running():
        state.commit(index, [int(following[index])], 1)


def self_speculation(block: int) -> Cycle:
    """Draft a block, verify it, keep the leading matches and one more."""

    def cycle(state: Decoding) -> None:
        blank = _blank(state, block)
        drafts = torch.cat((blank[:, :1], state.cache.forward(blank, state.lengths, causal=False)[:, 1:].argmax(-1)), 1)
        right = state.cache.forward(drafts, state.lengths, causal=True).argmax(-1)
        matches = (right[:, :-1] == drafts[:, 1:]).int().cumprod(1).sum(1)
        for index in state.running():
            state.commit(index, right[index, : int(matches[index]) + 1].tolist(), 2)

    return cycle


def diffusion(block: int, threshold: float) -> Cycle:
    """Denoise a block by confidence, store it causally, and take the next seed from it."""

    def cycle(state: Decoding) -> None:
        tokens, steps = _blank(state, block), torch.zeros(len(state.outputs), dtype=torch.long)
        hidden = torch.arange(block).expand_as(tokens) > 0  # by place, as the seed itself might be a mask token
        while bool((busy := _unfinished(tokens, hidden, state)).any()):
            logits = state.cache.forward(tokens, state.lengths, causal=False)
            logits[:, :, state.config.mask_token_id] = float("-inf")  # a mask is never an answer to a mask
            confidence, guesses = logits.softmax(-1).max(-1)
            confidence = confidence.masked_fill(~hidden, -1.0)
            best = confidence == confidence.max(1, keepdim=True).values
            chosen = (best | (confidence >= threshold)) & hidden & busy[:, None]
            tokens, hidden = torch.where(chosen, guesses, tokens), hidden & ~chosen
            steps += busy
        seed = state.cache.forward(tokens, state.lengths, causal=True)[:, -1].argmax(-1)
        for index in state.running():
            state.commit(index, [*tokens[index, 1:].tolist(), int(seed[index])], int(steps[index]) + 1)

    return cycle


def _blank(state: Decoding, block: int) -> Tensor:
    """`[seed, mask, mask, ...]` per row."""
    masks = torch.full((len(state.outputs), block - 1), state.config.mask_token_id)
    return torch.cat((state.seeds(), masks), 1)


def _unfinished(tokens: Tensor, hidden: Tensor, state: Decoding) -> Tensor:
    """Rows `[b]` with a hidden place that no `<end>` precedes, among those still running."""
    ends = torch.isin(tokens, torch.tensor(state.config.eos_token_ids)) & ~hidden
    running = torch.zeros(len(tokens), dtype=torch.bool)
    running[state.running()] = True
    return (hidden & (ends.int().cumsum(1) == 0)).any(1) & running
