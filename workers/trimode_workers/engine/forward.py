"""A forward of the network over a plan, as it is run and as it is recorded.

How attention over the cache is handed to the network. Riders are pieces of prompts behind the blocks of those who
decode, in one line with them: weights are read once for both. `Groups` are the tokens of a quadratic forward: heads,
which are causal and are written to the cache behind the prefix, and behind each head masks that draft what follows it.
"""

from __future__ import annotations

import torch
from torch import Tensor

from trimode_workers.engine.attention import Attention, Block, Plan
from trimode_workers.engine.window import Window
from trimode_workers.model.decoder import Network


def forward(network: Network, tokens: Tensor, plan: Plan, attention: Attention) -> Tensor:
    """tokens of the shape of the plan's positions -> hidden states `[.., .., hidden]`. Writes the plan's places."""

    def attend(layer: int, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        plan.write(layer, k, v)
        return plan.attend(layer, q, attention)

    # The reach is told, since reading it back from the positions would stop a GPU in every forward.
    return network.hidden(tokens, plan.positions, attend, plan.reach)


def forward_groups(network: Network, tokens: Tensor, window: Block, masks: int) -> Tensor:
    """tokens `[b, heads * (1 + masks)]` -> hidden states; heads and their masks (`Groups`). `window` is the heads';
    writes it."""
    groups, n = Groups(window.positions, masks), window.positions.shape[1]

    def attend(layer: int, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        window.write(layer, k[:, :, :n], v[:, :, :n])
        return window.attend_groups(layer, (q, k[:, :, n:], v[:, :, n:]), groups)

    return network.hidden(tokens, groups.positions, attend, window.reach + masks)


def forward_both(network: Network, tokens: Tensor, window: Block, masks: int, line: tuple[Tensor, Plan]) -> Tensor:
    """`forward_groups` and a line of riders `[1, total]` in one forward -> `[1, all tokens, hidden]`."""
    groups, n, (b, width) = Groups(window.positions, masks), window.positions.shape[1], tokens.shape
    riding, plan = line

    def attend(layer: int, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        # The weights are read once for both; only attention is called twice, since groups need a mask and prompts have
        # none.
        own, theirs = zip(*(x.split_with_sizes((b * width, riding.numel()), 2) for x in (q, k, v)), strict=True)
        q, k, v = (torch.unflatten(x[0], 1, (b, width)).transpose(0, 1) for x in own)
        window.write(layer, k[:, :, :n], v[:, :, :n])
        found = window.attend_groups(layer, (q, k[:, :, n:], v[:, :, n:]), groups)
        plan.write(layer, *theirs[1:])
        return torch.cat(
            (found.transpose(0, 1).flatten(1, 2)[None], plan.attend(layer, theirs[0], Attention.CAUSAL)), 2
        )

    everything, positions = (
        torch.cat((x.reshape(1, -1), y), 1) for x, y in ((tokens, riding), (groups.positions, plan.positions))
    )
    return network.hidden(everything, positions, attend, max(window.reach + masks, plan.reach))


class Groups:
    """`heads` tokens of each row, `masks` behind each; all heads come first, then group by group.

    A mask sees what its head sees, and its own group both ways. Masks are never written, so they need no slots.
    """

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
