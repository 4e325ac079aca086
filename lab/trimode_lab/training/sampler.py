"""`python -m trimode_lab.training.sampler FOLDER`: train a sampler head for diffusion and put it into the folder.

The head learns from masked places as diffusion meets them, and whether the likeliest token was right there. Blocks
behind true text are denoised as when serving, at thresholds drawn at random, with all the mistakes that makes; every
place that is still hidden in a forward is one sample. The decoder stays as it is. Some minutes on a CPU; what it gains
is measured by `training.compare_points`.
"""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from random import Random

import torch
import torch.nn.functional as F
from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn
from tokenizers import Tokenizer
from torch import Generator, Tensor

from trimode_lab.training.batches import Batch, collate, draw_rows, split_by_length
from trimode_lab.training.objective import PAD_WEIGHT, Noised, block_starts, clean_mask, noisy_mask
from trimode_lab.training.tokenizer import MASK
from trimode_tools.tasks import stream
from trimode_workers.model import load_decoder
from trimode_workers.model.decoder import Decoder
from trimode_workers.model.sampler import SAMPLER, SamplerHead, save_sampler, signs

BLOCKS = (8, 16, 32)
STEPS = 8
"""Forwards of a batch; most blocks are filled by then."""
_ROWS, _ROWS_PER_FORWARD, _TOKENS = 64, 16, 250
_LOWEST, _HIGHEST = 0.4, 0.995


@dataclass(frozen=True)
class Places:
    """`hidden` `[n, h]`, `seen` `[n, SIGNS]`, `right` `[n]` as 0 or 1, `weights` `[n]`: less behind the end."""

    hidden: Tensor
    seen: Tensor
    right: Tensor
    weights: Tensor

    def __len__(self) -> int:
        return len(self.right)


def collect_places(
    decoder: Decoder, tokenizer: Tokenizer, count: int, seed: int, progress: Callable[[int], None]
) -> Places:
    """At least `count` places; the same for the same seed. `progress` is told how many there are."""
    rng = Random(seed)
    noise = Generator().manual_seed(seed)
    samples = stream(rng, held_out=False)
    found: list[Places] = []
    while (have := sum(map(len, found))) < count:
        progress(have)
        rows = draw_rows(tokenizer, samples, rng, _ROWS, _TOKENS)
        for part in split_by_length(rows, _ROWS_PER_FORWARD):
            found += _denoise(decoder, collate(part), noise)
    progress(count)
    return Places(
        *(torch.cat([getattr(part, name) for part in found]) for name in ("hidden", "seen", "right", "weights"))
    )


@torch.inference_mode()
def _denoise(decoder: Decoder, batch: Batch, rng: Generator) -> list[Places]:
    noised = _masked(batch, rng)
    stream = _NoisyStream(decoder, batch, noised.block_starts)
    thresholds = _LOWEST + (_HIGHEST - _LOWEST) * torch.rand(len(batch.tokens), 1, generator=rng)
    found: list[Places] = []
    for _ in range(STEPS):
        open_rows = noised.hidden.any(1).nonzero()[:, 0]
        if not len(open_rows):
            break
        fields = (noised.tokens, noised.block_starts, noised.hidden, noised.weights)
        noised, thresholds = Noised(*(field[open_rows] for field in fields)), thresholds[open_rows]
        stream.narrow(open_rows)
        states = stream.states(noised.tokens)
        logits = decoder.logits(states)
        logits[..., decoder.config.mask_token_id] = -torch.inf
        p = torch.softmax(logits, -1)
        confidence, tokens = p.max(-1)
        at = noised.hidden
        right = (tokens == stream.truth)[at].float()
        found.append(Places(states[at], signs(p[at]), right, noised.weights[at]))
        confidence = confidence.masked_fill(~at, -1.0)
        best = torch.full_like(confidence, -1.0).scatter_reduce(1, noised.block_starts, confidence, "amax")
        chosen = at & ((confidence >= thresholds) | (confidence == best.gather(1, noised.block_starts)))
        filled = torch.where(chosen, tokens, noised.tokens)
        noised = replace(noised, tokens=filled, hidden=at & ~chosen)
    return found


class _NoisyStream:
    """The noisy stream over a clean one that is run once: it never sees the noise. `truth` is what was hidden."""

    def __init__(self, decoder: Decoder, batch: Batch, starts: Tensor) -> None:
        self._decoder, self._mask, self.truth = decoder, noisy_mask(batch, starts), batch.blocks
        self._clean: list[tuple[Tensor, Tensor]] = []
        columns, seen = torch.arange(batch.tokens.shape[1]), clean_mask(batch)
        self._positions = columns[batch.first :].expand(len(batch.tokens), -1)

        def keep(layer: int, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
            self._clean.append((k, v))
            return F.scaled_dot_product_attention(q, k, v, seen, enable_gqa=True)

        decoder.hidden(batch.tokens, columns.expand_as(batch.tokens), keep)

    def narrow(self, rows: Tensor) -> None:
        """Go on with some of the rows only."""
        self._clean = [(k[rows], v[rows]) for k, v in self._clean]
        self._mask, self._positions, self.truth = self._mask[rows], self._positions[rows], self.truth[rows]

    def states(self, tokens: Tensor) -> Tensor:
        """Noisy tokens `[b, 1 + A]` -> hidden states."""

        def attend(layer: int, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
            keys, values = (torch.cat(pair, 2) for pair in zip(self._clean[layer], (k, v), strict=True))
            return F.scaled_dot_product_attention(q, keys, values, self._mask, enable_gqa=True)

        return self._decoder.hidden(tokens, self._positions, attend)


def _masked(batch: Batch, rng: Generator) -> Noised:
    """All of every block but its first token hidden, as a block begins when serving."""
    b, width = batch.blocks.shape
    lengths = torch.tensor(BLOCKS)[torch.randint(len(BLOCKS), (b,), generator=rng)]
    starts = block_starts(width, lengths, (torch.rand(b, generator=rng) * lengths).long())
    columns, last = torch.arange(width), batch.answer_lengths[:, None]
    hidden = (columns != starts) & (columns > 0) & (starts <= last)
    weights = torch.where(columns <= last, 1.0, PAD_WEIGHT) * hidden
    return Noised(torch.where(hidden, MASK, batch.blocks), starts, hidden, weights)


_BATCH = 1024
_RATE = 2e-3
_HELD_OUT_SHARE = 0.1
"""Share of further places, of other texts, on which the head is compared with the plain probability."""


def fit(head: SamplerHead, places: Places, epochs: int, seed: int, progress: Callable[[int], None]) -> None:
    """Train in place; `progress` is told how many batches are done."""
    rng = torch.Generator().manual_seed(seed)
    optimiser = torch.optim.AdamW(head.parameters(), _RATE, weight_decay=1e-2)
    total = epochs * -(-len(places) // _BATCH)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimiser, _RATE, total_steps=total, pct_start=0.1)
    done = 0
    for _ in range(epochs):
        order = torch.randperm(len(places), generator=rng)
        for start in range(0, len(order), _BATCH):
            optimiser.zero_grad()
            at = order[start : start + _BATCH]
            odds = head.judge(places.hidden[at], places.seen[at])
            loss = F.binary_cross_entropy_with_logits(odds, places.right[at], places.weights[at])
            loss.backward()  # type: ignore[no-untyped-call]
            optimiser.step()
            schedule.step()
            done += 1
            progress(done)


@torch.inference_mode()
def compare(head: SamplerHead, places: Places) -> str:
    """Of the places each measure is surest of, how many are right: the head beside the plain probability."""
    own, plain = head.judge(places.hidden, places.seen), places.seen[:, 0]
    lines = [f"{len(places)} places, {float(places.right.mean()):.1%} of the likeliest tokens right; of the surest"]
    for share in (0.3, 0.5, 0.7):
        best = [places.right[odds.topk(int(share * len(places))).indices].mean() for odds in (own, plain)]
        lines.append(f"  {share:.0%}: {float(best[0]):.2%} by the head, {float(best[1]):.2%} by probability")
    return "\n".join(lines)


def main() -> int:
    """Harvest, train, write; progress goes to standard error."""
    parser = argparse.ArgumentParser(prog="python -m trimode_lab.training.sampler", description=__doc__)
    parser.add_argument("folder", type=Path, help="a model folder; gets the file sampler.safetensors")
    parser.add_argument("--places", type=int, default=100_000, help="masked places to learn from")
    parser.add_argument("--epochs", type=int, default=4)
    parser.add_argument("--width", type=int, default=32, help="of the head's two layers")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--threads", type=int, default=os.cpu_count() or 1)
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)
    torch.manual_seed(arguments.seed)
    decoder, config = load_decoder(arguments.folder)
    tokenizer = Tokenizer.from_file(str(arguments.folder / "tokenizer.json"))
    head = SamplerHead(config.hidden_size, arguments.width)
    console = Console(stderr=True)
    columns = (TextColumn("{task.description}"), BarColumn(), TextColumn("{task.percentage:.0f}%"), TimeElapsedColumn())
    with Progress(*columns, console=console) as bar:
        task = bar.add_task("denoising", total=arguments.places)
        advance = lambda done: bar.update(task, completed=done)  # noqa: E731
        places = collect_places(decoder, tokenizer, arguments.places, arguments.seed, advance)
        few, seed = int(_HELD_OUT_SHARE * arguments.places), arguments.seed + 1
        other = collect_places(decoder, tokenizer, few, seed, lambda done: None)
        task = bar.add_task("training", total=arguments.epochs * -(-len(places) // _BATCH))
        fit(head, places, arguments.epochs, arguments.seed, advance)
    console.print(compare(head, other), highlight=False)
    save_sampler(head, arguments.folder)
    size = sum(p.numel() for p in head.parameters())
    console.print(f"wrote {arguments.folder / SAMPLER}: {size} parameters")
    return 0


if __name__ == "__main__":
    sys.exit(main())
