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
import torch.nn.functional as F
from torch import Tensor

from trimode_workers.engine.cache import KVCache
from trimode_workers.engine.graphs import Graphs, Recorder, grouped
from trimode_workers.engine.groups import Groups
from trimode_workers.engine.window import Attention, Span, Window
from trimode_workers.model.decoder import Network

__all__ = ["Attention", "Primitive", "Window"]


class Primitive:
    """A network over a cache. Not thread-safe: one engine, one primitive."""

    def __init__(self, network: Network, cache: KVCache, recorder: Recorder | None = None) -> None:
        """With a recorder, forwards of fixed shape are recorded and replayed.

        Forbids cuDNN's attention to the whole process: torch takes it first on Hopper, and it plans for 0.4 s at each
        shape that it has not met (modelscope/FunASR#3704), which serving meets in nearly every cycle.
        """
        torch.backends.cuda.enable_cudnn_sdp(False)
        self.network, self.cache = network, cache
        self.graphs = Graphs(network, cache, recorder) if recorder is not None else None
        self.drafter = network.drafter or network
        self.rows_run = 0
        """Block forwards so far, each row of each counted."""
        self.mask_token_id = network.config.mask_token_id

    def window(self, rows: Seq[int], lengths: Seq[int], n: int) -> Window:
        """The place of `n` further tokens of each row; `lengths` are their cached tokens."""
        return Window(self.cache, rows, lengths, n)

    def tensor(self, tokens: Seq[Seq[int]]) -> Tensor:
        """Token ids on the cache's device, int64."""
        return torch.tensor(tokens, device=self.cache.memory.device)

    def forward(
        self, tokens: Tensor, window: Window, attention: Attention, first: int = 0, *, drafting: bool = False
    ) -> Tensor:
        """tokens `[b, n]` -> logits `[b, n - first, vocab]` of the queries from `first` on. Writes the window.

        `drafting` switches the draft adapter on, where there is one.
        """
        return self.network.logits(self.states(tokens, window, attention, first, drafting=drafting))

    def states(
        self, tokens: Tensor, window: Window, attention: Attention, first: int = 0, *, drafting: bool = False
    ) -> Tensor:
        """`forward` without its end: hidden states `[b, n - first, hidden]`."""
        network = self.drafter if drafting else self.network
        self.rows_run += tokens.shape[0]

        def attend(layer: int, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
            self.cache.write(layer, window.slots, k, v)
            return self._attend(layer, q, window, attention)

        hidden = self.graphs.hidden(tokens, window, attention, drafting) if self.graphs is not None else None
        if hidden is None:
            window.lay_out()
            hidden = network.hidden(tokens, window.positions, attend, window.reach)
        return hidden[:, first:] if first else hidden

    def forward_groups(self, tokens: Tensor, window: Window, masks: int) -> Tensor:
        """One forward over heads and the `masks` masks behind each (see `groups`): tokens `[b, heads * (1 + masks)]`
        -> hidden states, alike. `window` is the heads'; writes it.
        """
        self.rows_run += tokens.shape[0]
        if self.graphs is not None and (hidden := self.graphs.grouped_hidden(tokens, window, masks)) is not None:
            return hidden
        groups = Groups(window.positions, masks)
        sight = groups.masks(window.lay_out(), self.cache.memory.dtype)

        def attend(layer: int, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
            n = groups.heads
            self.cache.write(layer, window.slots, k[:, :, :n], v[:, :, :n])
            own = (q, k[:, :, n:], v[:, :, n:])
            if window.order is None or window.back is None:
                return self._attend_groups(layer, own, window.spans[0], sight[0])
            split = [part.index_select(0, window.order).split_with_sizes(window.sizes) for part in own]
            parts = zip(zip(*split, strict=True), window.spans, sight, strict=True)
            found = [self._attend_groups(layer, part, span, mask) for part, span, mask in parts]
            return torch.cat(found).index_select(0, window.back)

        return self.network.hidden(tokens, groups.positions, attend, window.reach + masks)

    def _attend_groups(self, layer: int, own: tuple[Tensor, ...], span: Span, mask: Tensor) -> Tensor:
        """Queries of heads and masks, keys and values of the masks: over the cache and over those."""
        q, k, v = own
        keys, values = span.read(self.cache.keys[layer]), span.read(self.cache.values[layer])
        keys, values = torch.cat((keys, k), 2), torch.cat((values, v), 2)
        if keys.device.type == "cpu":
            return F.scaled_dot_product_attention(q, keys, values, mask, enable_gqa=True)
        return grouped(q, keys, values, mask)

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
        single = [i for i, piece in enumerate(pieces) if len(piece) == 1]
        members = [single, *([i] for i, piece in enumerate(pieces) if len(piece) > 1)]
        members = [part for part in members if part]
        windows = [self.window([rows[i] for i in m], [lengths[i] for i in m], len(pieces[m[0]])) for m in members]
        if self.graphs is not None and len(single) == len(pieces):
            hidden = self.graphs.hidden(self.tensor(pieces), windows[0], Attention.CAUSAL, drafting=False)
            if hidden is not None:
                return hidden[:, 0], None
        windows = [window.lay_out() for window in windows]
        widths = [len(m) * window.n for m, window in zip(members, windows, strict=True)]
        positions = _joined([window.positions.view(1, -1) for window in windows])
        slots = _joined([window.slots.transpose(0, 1).flatten(1) for window in windows])

        def attend(layer: int, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
            self.cache.write(layer, slots, k, v)
            parts = zip(q.split_with_sizes(widths, 2), windows, strict=True)
            return _joined([self._attend_ragged(layer, part, window) for part, window in parts], 2)

        tokens = self.tensor([[token for m in members for i in m for token in pieces[i]]])
        hidden = self.network.hidden(tokens, positions, attend, max(window.reach for window in windows))[0]
        if len(single) == len(pieces):
            return hidden, None
        last, end = [0] * len(pieces), -1
        for m in members:
            for i in m:
                end += len(pieces[i])
                last[i] = end
        return hidden, last

    def _attend_ragged(self, layer: int, q: Tensor, window: Window) -> Tensor:
        """q `[1, heads, b * n, head_dim]` -> the same shape; either b or n is 1."""
        if window.n > 1:
            return self._attend(layer, q, window, Attention.CAUSAL)
        return self._attend(layer, q[0].transpose(0, 1)[:, :, None], window, Attention.CAUSAL)[:, :, 0].transpose(0, 1)[
            None
        ]

    def _attend(self, layer: int, q: Tensor, window: Window, attention: Attention) -> Tensor:
        """q `[b, heads, n, head_dim]` -> the same shape, over all slots of the window's rows up to their reach."""
        if window.order is None or window.back is None:
            return self._attend_span(layer, q, window.spans[0], attention)
        queries = zip(q.index_select(0, window.order).split_with_sizes(window.sizes), window.spans, strict=True)
        found = [self._attend_span(layer, query, span, attention) for query, span in queries]
        return torch.cat(found).index_select(0, window.back)

    def _attend_span(self, layer: int, q: Tensor, span: Span, attention: Attention) -> Tensor:
        keys, values = span.read(self.cache.keys[layer]), span.read(self.cache.values[layer])
        mask = span.mask(attention, keys.dtype)
        if span.n > 1 and keys.device.type == "cpu":  # as fast as `grouped` there, without another mask
            return F.scaled_dot_product_attention(q, keys, values, mask, enable_gqa=True)
        return grouped(q, keys, values, mask)


def _joined(parts: list[Tensor], dim: int = 1) -> Tensor:
    return parts[0] if len(parts) == 1 else torch.cat(parts, dim)
