"""`python -m trimode_lab.training.sampler FOLDER`: train a sampler head for diffusion and put it into the folder.

The decoder stays as it is. Some minutes on a CPU; what it gains is measured by `training.marks`.
"""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Callable
from pathlib import Path

import torch
import torch.nn.functional as F
from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn
from tokenizers import Tokenizer

from trimode_lab.training.harvest import Places, harvest
from trimode_workers.model import load_decoder
from trimode_workers.model.sampler import SAMPLER, SamplerHead, save_sampler

_BATCH = 1024
_RATE = 2e-3
_LOOK = 0.1
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
            _loss(head, places, order[start : start + _BATCH]).backward()  # type: ignore[no-untyped-call]
            optimiser.step()
            schedule.step()
            done += 1
            progress(done)


def _loss(head: SamplerHead, places: Places, at: torch.Tensor) -> torch.Tensor:
    odds = head.judge(places.hidden[at], places.seen[at])
    return F.binary_cross_entropy_with_logits(odds, places.right[at], places.weights[at])


@torch.inference_mode()
def look(head: SamplerHead, places: Places) -> str:
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
        places = harvest(decoder, tokenizer, arguments.places, arguments.seed, advance)
        other = harvest(decoder, tokenizer, int(_LOOK * arguments.places), arguments.seed + 1, lambda done: None)
        task = bar.add_task("training", total=arguments.epochs * -(-len(places) // _BATCH))
        fit(head, places, arguments.epochs, arguments.seed, advance)
    console.print(look(head, other), highlight=False)
    save_sampler(head, arguments.folder)
    size = sum(p.numel() for p in head.parameters())
    console.print(f"wrote {arguments.folder / SAMPLER}: {size} parameters")
    return 0


if __name__ == "__main__":
    sys.exit(main())
