"""The tokens of a quadratic forward: heads, and behind each head a group of masks that drafts what follows it.

Belongs here: their positions, and what each sees. Heads are causal and are written to the cache behind the prefix;
a mask sees what its head sees, and its own group both ways. Masks are never written, so they need no slots.
"""

from __future__ import annotations

import torch
from torch import Tensor

from trimode_workers.engine.window import Window


class Groups:
    """`heads` tokens of each row, `masks` behind each; all heads come first, then group by group."""

    def __init__(self, at: Tensor, masks: int) -> None:
        """`at` `[b, heads]` are the heads' positions; `positions` is `[b, heads * (1 + masks)]`."""
        heads, device = at.shape[1], at.device
        self.heads = heads
        behind = at[:, :, None] + 1 + torch.arange(masks, device=device)
        self.positions = torch.cat((at, behind.flatten(1)), 1)
        # The last position in the cache that each query sees: its own, or its head's.
        self._last = torch.cat((at, at.repeat_interleave(masks, 1)), 1)
        group = torch.arange(heads, device=device).repeat_interleave(masks)
        nobody = torch.full((heads,), -1, device=device)
        self._foreign = torch.cat((nobody, group))[:, None] != group

    def masks(self, window: Window, dtype: torch.dtype) -> list[Tensor]:
        """For each span of the heads' window an additive mask as `mask`'s."""
        last = self._last if window.order is None else self._last.index_select(0, window.order)
        parts = last.split_with_sizes(window.sizes)
        return [self._mask(part, span.reach, dtype) for part, span in zip(parts, window.spans, strict=True)]

    def mask(self, reach: int, dtype: torch.dtype) -> Tensor:
        """Additive, `[b, 1, queries, reach + heads * masks]`: over slots, then over the masks' own keys."""
        return self._mask(self._last, reach, dtype)

    def _mask(self, last: Tensor, reach: int, dtype: torch.dtype) -> Tensor:
        behind = torch.arange(reach, device=last.device) > last[:, :, None]
        hidden = torch.cat((behind, self._foreign.expand(last.shape[0], -1, -1)), 2)[:, None]
        return torch.zeros(hidden.shape, dtype=dtype, device=last.device).masked_fill_(hidden, -torch.inf)
