"""The primitive: one forward over the cache that every mode is made of.

Query i of a row has position `length + i`, sees the cached prefix `[:length]`, and inside its own tokens sees the
earlier ones (causal) or all of them (block). Keys and values of the tokens are written behind the prefix, where
attention finds them without a copy; whether they count is the caller's decision (`Sequence.cached`), and after a
block forward they never do. `advance` is the same for pieces of different lengths: prompts, and one more token of
each answer, in one pass.
"""

from __future__ import annotations

from collections.abc import Sequence as Seq

import torch
from torch import Tensor

from trimode_workers.engine.attention import Attention, Plan
from trimode_workers.engine.graphs import Recorder
from trimode_workers.engine.groups import Groups
from trimode_workers.engine.layouts import Cache, recordings
from trimode_workers.model.decoder import Network

__all__ = ["Attention", "Plan", "Primitive"]


class Primitive:
    """A network over a cache. Not thread-safe: one engine, one primitive."""

    def __init__(self, network: Network, cache: Cache, recorder: Recorder | None = None) -> None:
        """With a recorder, forwards of fixed shape are recorded and replayed.

        Forbids cuDNN's attention to the whole process: torch takes it first on Hopper, and it plans for 0.4 s at each
        shape that it has not met (modelscope/FunASR#3704), which serving meets in nearly every cycle.
        """
        torch.backends.cuda.enable_cudnn_sdp(False)
        self.network, self.cache = network, cache
        self.graphs = recordings(network, cache, recorder) if recorder is not None else None
        self.drafter = network.drafter or network
        self.rows_run = 0
        """Block forwards so far, each row of each counted."""
        self.mask_token_id = network.config.mask_token_id

    def window(self, rows: Seq[int], lengths: Seq[int], n: int) -> Plan:
        """The place of `n` further tokens of each row; `lengths` are their cached tokens."""
        return self.cache.block(rows, lengths, n)

    def tensor(self, tokens: Seq[Seq[int]]) -> Tensor:
        """Token ids on the cache's device, int64."""
        return torch.tensor(tokens, device=self.cache.memory.device)

    def forward(
        self, tokens: Tensor, window: Plan, attention: Attention, first: int = 0, *, drafting: bool = False
    ) -> Tensor:
        """tokens `[b, n]` -> logits `[b, n - first, vocab]` of the queries from `first` on. Writes the window.

        `drafting` switches the draft adapter on, where there is one.
        """
        return self.network.logits(self.states(tokens, window, attention, first, drafting=drafting))

    def states(
        self, tokens: Tensor, window: Plan, attention: Attention, first: int = 0, *, drafting: bool = False
    ) -> Tensor:
        """`forward` without its end: hidden states `[b, n - first, hidden]`."""
        network = self.drafter if drafting else self.network
        self.rows_run += tokens.shape[0]
        hidden = self.graphs.hidden(tokens, window, attention, drafting) if self.graphs is not None else None
        if hidden is None:
            hidden = self._run(network, tokens, window, attention)
        return hidden[:, first:] if first else hidden

    def _run(self, network: Network, tokens: Tensor, plan: Plan, attention: Attention) -> Tensor:
        """tokens of the shape of the plan's positions -> hidden states, unrecorded."""
        plan.lay_out()
        plan.prepare(attention)

        def attend(layer: int, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
            plan.write(layer, k, v)
            return plan.attend(layer, q, attention)

        return network.hidden(tokens, plan.positions, attend, plan.reach)

    def forward_groups(self, tokens: Tensor, window: Plan, masks: int) -> Tensor:
        """One forward over heads and the `masks` masks behind each (see `groups`): tokens `[b, heads * (1 + masks)]`
        -> hidden states, alike. `window` is the heads'; writes it.
        """
        self.rows_run += tokens.shape[0]
        if self.graphs is not None and (hidden := self.graphs.grouped_hidden(tokens, window, masks)) is not None:
            return hidden
        groups, n = Groups(window.positions, masks), window.positions.shape[1]
        window.lay_out()

        def attend(layer: int, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
            window.write(layer, k[:, :, :n], v[:, :, :n])
            return window.attend_groups(layer, (q, k[:, :, n:], v[:, :, n:]), groups)

        return self.network.hidden(tokens, groups.positions, attend, window.reach + masks)

    def advance(self, pieces: Seq[Seq[int]], rows: Seq[int], lengths: Seq[int]) -> Tensor:
        """Write the causal state of a piece of each row's tokens, pieces of any length, without padding: the network
        runs them as one row, only attention tells them apart. Pieces of one token attend together.

        Returns the hidden states of the pieces' last tokens, `[b, hidden]`, for `logits`.
        """
        hidden, last = self._causal(pieces, rows, lengths)
        return hidden if last is None else hidden[self.tensor([last])[0]]

    def advance_whole(self, pieces: Seq[Seq[int]], rows: Seq[int], lengths: Seq[int]) -> list[Tensor]:
        """`advance`, with the states of all tokens of each piece, `[n, hidden]`."""
        hidden, last = self._causal(pieces, rows, lengths)
        if last is None:
            return list(hidden[:, None])
        return [hidden[end + 1 - len(piece) : end + 1] for piece, end in zip(pieces, last, strict=True)]

    def _causal(self, pieces: Seq[Seq[int]], rows: Seq[int], lengths: Seq[int]) -> tuple[Tensor, list[int] | None]:
        """Hidden states of all tokens `[any, hidden]`, and where each piece ends among them, None where each has one
        token."""
        if all(len(piece) == 1 for piece in pieces):
            tokens, plan = self.tensor(pieces), self.cache.block(rows, lengths, 1)
            hidden = None
            if self.graphs is not None:
                hidden = self.graphs.hidden(tokens, plan, Attention.CAUSAL, drafting=False)
            if hidden is None:
                hidden = self._run(self.network, tokens, plan, Attention.CAUSAL)
            return hidden[:, 0], None
        # Pieces of one token come first: over rows they attend together.
        order = sorted(range(len(pieces)), key=lambda i: len(pieces[i]) > 1)
        counts = [len(pieces[i]) for i in order]
        line = self.cache.pieces([rows[i] for i in order], [lengths[i] for i in order], counts)
        tokens = self.tensor([[token for i in order for token in pieces[i]]])
        hidden = self._run(self.network, tokens, line, Attention.CAUSAL)[0]
        last, end = [0] * len(pieces), -1
        for i, count in zip(order, counts, strict=True):
            end += count
            last[i] = end
        return hidden, last
