"""`python -m trimode_workers.training.marks FOLDER`: what the folder's sampler head gains, as a Markdown table.

Held-out prompts through the serving engine at each diffusion point, with the head and without it. A head is worth
having where it gives more tokens per forward at the same accuracy, which thresholds alone also trade.
"""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from rich.console import Console
from rich.progress import track
from tokenizers import Tokenizer

from trimode_workers.engine.engine import Engine, EngineSettings
from trimode_workers.engine.messages import Configure, Submit
from trimode_workers.model import FusedDecoder, WeightsError, load_decoder
from trimode_workers.model.sampler import SAMPLER, load_sampler
from trimode_workers.tasks import Sample, check, held_out_set
from trimode_workers.training.batches import encode

POINTS = "D8@0.7,D8@0.9,D8@0.97,D8@0.99,D32@0.7,D32@0.9,D32@0.97,D32@0.99"
_ROWS, _CONTEXT, _ANSWER = 64, 448, 160


@dataclass(frozen=True)
class Mark:
    """Share of right answers, and tokens per forward of one row."""

    right: float
    tokens_per_forward: float


def mark(network: FusedDecoder, tokenizer: Tokenizer, samples: Sequence[Sample], point: str) -> Mark:
    """All samples at one operating point."""
    engine = Engine(network, EngineSettings(_ROWS, _CONTEXT), Configure(points=[point], fallback=point))
    for index, sample in enumerate(samples):
        engine.submit(Submit(str(index), encode(tokenizer, sample).prompt, _ANSWER, lossy_ok=True))
    answers: dict[str, list[int]] = {}
    while not engine.idle:
        for event in engine.step().events:
            answers.setdefault(event.request_id, []).extend(event.tokens)
    right = sum(check(sample, tokenizer.decode(answers[str(index)])) for index, sample in enumerate(samples))
    stats = engine.stats()
    return Mark(right / len(samples), stats.emitted_total[point] / stats.forwards_total[point])


def table(points: Sequence[str], with_head: Sequence[Mark], without: Sequence[Mark], samples: int) -> str:
    """Both columns side by side."""
    lines = [
        f"{samples} held-out prompts, greedy.",
        "",
        "| point | right, by probability | tok/fwd | right, by the head | tok/fwd |",
        "|---|---:|---:|---:|---:|",
    ]
    lines += [
        f"| {point} | {plain.right:.1%} | {plain.tokens_per_forward:.2f} | {own.right:.1%} "
        f"| {own.tokens_per_forward:.2f} |"
        for point, own, plain in zip(points, with_head, without, strict=True)
    ]
    return "\n".join(lines)


def main() -> int:
    """Mark the folder named on the command line; the table goes to standard output."""
    parser = argparse.ArgumentParser(prog="python -m trimode_workers.training.marks", description=__doc__)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--points", default=POINTS)
    parser.add_argument("--per-task", type=int, default=16, help="held-out prompts of each task")
    parser.add_argument("--threads", type=int, default=os.cpu_count() or 1)
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)
    decoder, config = load_decoder(arguments.folder)
    network, head = decoder.fused(), load_sampler(arguments.folder, config.hidden_size)
    if head is None:
        raise WeightsError(f"{arguments.folder} has no {SAMPLER}; train one with trimode_workers.training.sampler")
    tokenizer = Tokenizer.from_file(str(arguments.folder / "tokenizer.json"))
    samples, points = held_out_set(arguments.per_task), arguments.points.split(",")
    found: dict[bool, list[Mark]] = {False: [], True: []}
    turns = [(point, with_head) for point in points for with_head in (False, True)]
    for point, with_head in track(turns, "marking", console=Console(stderr=True)):
        network.sampler = head if with_head else None
        found[with_head].append(mark(network, tokenizer, samples, point))
    Console(soft_wrap=True).print(table(points, found[True], found[False], len(samples)), highlight=False, markup=False)
    return 0


if __name__ == "__main__":
    sys.exit(main())
