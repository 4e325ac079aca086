"""The primitive: one forward over the cache that every mode is made of.

Query i of a row has position `length + i`, sees the cached prefix `[:length]`, and inside its own tokens sees the
earlier ones (causal) or all of them (block). Keys and values of the tokens are written behind the prefix, where
attention finds them without a copy; whether they count is the caller's decision (`Sequence.cached`), and after a
block forward they never do. Pieces of prompts (`Riders`) run in any causal forward, in one line with its blocks.
"""

from __future__ import annotations

from collections.abc import Sequence as Seq

import torch
from torch import Tensor

from trimode_workers.engine.attention import Attention, Block, Plan, Riders
from trimode_workers.engine.forward import forward, forward_both, forward_groups
from trimode_workers.engine.graphs import Graphs, Recorder
from trimode_workers.engine.layouts import Cache
from trimode_workers.engine.paged_cache import PagedCache, PagedPlan
from trimode_workers.model.decoder import Network

__all__ = ["Attention", "Block", "Primitive", "Riders"]


class Primitive:
    """A network over a cache. Not thread-safe: one engine, one primitive."""

    def __init__(self, network: Network, cache: Cache, recorder: Recorder | None = None) -> None:
        """With a recorder, forwards over pages are recorded and replayed; over rows they run as they come.

        Forbids cuDNN's attention to the whole process: torch takes it first on Hopper, and it plans for 0.4 s at each
        shape that it has not met (modelscope/FunASR#3704), which serving meets in nearly every cycle.
        """
        torch.backends.cuda.enable_cudnn_sdp(False)
        self.network, self.cache = network, cache
        self.graphs: Graphs | None = None
        if recorder is not None and isinstance(cache, PagedCache):
            self.graphs = Graphs(network, cache, recorder)
        # A second network, not a switch: a recording holds the addresses of its weights, and an SGLang fork loaded its
        # adapter and never applied it under CUDA graphs.
        self.drafter = network.drafter or network
        self.rows_run = 0
        """Block forwards so far, each row of each counted."""
        self.mask_token_id = network.config.mask_token_id

    def window(self, rows: Seq[int], lengths: Seq[int], n: int) -> Block:
        """The place of `n` further tokens of each row; `lengths` are their cached tokens."""
        return self.cache.block(rows, lengths, n)

    def tensor(self, tokens: Seq[Seq[int]]) -> Tensor:
        """Token ids on the cache's device, int64."""
        return torch.tensor(tokens, device=self.cache.memory.device)

    def forward(
        self, tokens: Tensor, window: Block, attention: Attention, first: int = 0, *, drafting: bool = False
    ) -> Tensor:
        """tokens `[b, n]` -> logits `[b, n - first, vocab]` of the queries from `first` on. Writes the window.

        `drafting` switches the draft adapter on, where there is one.
        """
        return self.network.logits(self.states(tokens, window, attention, first, drafting=drafting))

    def states(
        self, tokens: Tensor, window: Block, attention: Attention, first: int = 0, *, drafting: bool = False
    ) -> Tensor:
        """`forward` without its end: hidden states `[b, n - first, hidden]`."""
        self.rows_run += tokens.shape[0]
        hidden = self._run(tokens, window, attention, drafting=drafting)
        return hidden[:, first:] if first else hidden

    def causal(self, tokens: Tensor, window: Block, riders: Riders | None = None) -> Tensor:
        """`states` of causal attention, `[b, n, hidden]`; riders run in the same forward and have their states then."""
        if riders is None:
            return self.states(tokens, window, Attention.CAUSAL)
        (b, n), line = tokens.shape, self._line(riders)
        self.rows_run += b
        hidden = self._run(torch.cat((tokens.reshape(1, -1), line), 1), window.beside(riders), Attention.CAUSAL)[0]
        riders.states = hidden[b * n :]
        return hidden[: b * n].view(b, n, -1)

    def ride(self, riders: Riders) -> None:
        """Riders alone: writes the causal state of pieces of any length, without padding."""
        plan = self.cache.pieces(riders.rows, riders.lengths, riders.counts)
        riders.states = self._run(self._line(riders), plan, Attention.CAUSAL)[0]

    def advance(self, pieces: Seq[Seq[int]], rows: Seq[int], lengths: Seq[int]) -> Tensor:
        """The same for pieces of each row's tokens -> the hidden states of the pieces' last tokens, `[b, hidden]`."""
        riders = Riders(pieces, rows, lengths)
        self.ride(riders)
        return torch.stack([states[-1] for states in riders.each()])

    def forward_groups(self, tokens: Tensor, window: Block, masks: int, riders: Riders | None = None) -> Tensor:
        """One causal forward over heads and the `masks` masks behind each (`forward.Groups`): tokens
        `[b, heads * (1 + masks)]` -> hidden states, alike. `window` is the heads'; writes it.
        """
        self.rows_run += tokens.shape[0]
        if riders is not None:
            plan = self.cache.pieces(riders.rows, riders.lengths, riders.counts)
            plan.prepare(Attention.CAUSAL)
            hidden = forward_both(self.network, tokens, window, masks, (self._line(riders), plan))[0]
            riders.states = hidden[tokens.numel() :]
            return hidden[: tokens.numel()].view(*tokens.shape, -1)
        recorded = None
        if self.graphs is not None and isinstance(window, PagedPlan):
            recorded = self.graphs.grouped_hidden(tokens, window, masks)
        return forward_groups(self.network, tokens, window, masks) if recorded is None else recorded

    def _line(self, riders: Riders) -> Tensor:
        return self.tensor([[token for piece in riders.pieces for token in piece]])

    def _run(self, tokens: Tensor, plan: Plan, attention: Attention, *, drafting: bool = False) -> Tensor:
        """tokens of the shape of the plan's positions -> hidden states, replayed where that is recorded."""
        hidden = None
        if self.graphs is not None and isinstance(plan, PagedPlan):
            hidden = self.graphs.hidden(tokens, plan, attention, drafting)
        if hidden is None:
            plan.prepare(attention)
            hidden = forward(self.drafter if drafting else self.network, tokens, plan, attention)
        return hidden
