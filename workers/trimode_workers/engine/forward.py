"""A forward of the network over a plan, as it is run and as it is recorded.

Belongs here: how attention over the cache is handed to the network. Riders are pieces of prompts behind the blocks of
those who decode, in one line with them: weights are read once for both.
"""

from __future__ import annotations

import torch
from torch import Tensor

from trimode_workers.engine.attention import Attention, Block, Plan
from trimode_workers.engine.groups import Groups
from trimode_workers.model.decoder import Network


def forward(network: Network, tokens: Tensor, plan: Plan, attention: Attention) -> Tensor:
    """tokens of the shape of the plan's positions -> hidden states `[.., .., hidden]`. Writes the plan's places."""

    def attend(layer: int, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        plan.write(layer, k, v)
        return plan.attend(layer, q, attention)

    return network.hidden(tokens, plan.positions, attend, plan.reach)


def forward_groups(network: Network, tokens: Tensor, window: Block, masks: int) -> Tensor:
    """tokens `[b, heads * (1 + masks)]` -> hidden states; heads and their masks (see `groups`). `window` is the heads';
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
