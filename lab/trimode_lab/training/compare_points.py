"""`python -m trimode_lab.training.compare_points FOLDER`: any operating points side by side, as a Markdown table.

Held-out prompts through the serving engine. Speed is processor time, which a busy machine leaves as it is. Where the
folder ships a sampler head, diffusion points run with it and without it: a head is worth having where it gives more
tokens per forward at the same accuracy, which thresholds alone also trade.
"""

from __future__ import annotations

import argparse
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from rich.console import Console
from rich.progress import track
from tokenizers import Tokenizer

from trimode_api.modes import Mode, OperatingPoint
from trimode_lab.training.batches import encode
from trimode_tools.tasks import Sample, check, held_out_set
from trimode_workers.engine.engine import Engine, EngineSettings
from trimode_workers.engine.messages import Configure, Submit
from trimode_workers.model import FusedDecoder, load_decoder
from trimode_workers.model.sampler import load_sampler

POINTS = "AR,S8,S8@0.9,S16,S16@0.9,Q8,Q16,D8@0.9,D32@0.9"
_CONTEXT, _ANSWER = 448, 160


@dataclass(frozen=True)
class Mark:
    """Share of right answers; tokens per cycle and per forward of one row; milliseconds of processor per token."""

    name: str
    right: float
    per_cycle: float
    per_forward: float
    milliseconds: float


def mark(network: FusedDecoder, tokenizer: Tokenizer, samples: Sequence[Sample], point: str, rows: int) -> Mark:
    """All samples at one operating point, `rows` at a time."""
    engine = Engine(network, EngineSettings(rows, _CONTEXT), Configure(points=[point], fallback=point))
    for index, sample in enumerate(samples):
        engine.submit(Submit(str(index), encode(tokenizer, sample).prompt, _ANSWER, lossy_ok=True))
    answers: dict[str, list[int]] = {}
    cycles, began = 0, time.process_time()
    while not engine.idle:
        for event in engine.step().events:
            answers.setdefault(event.request_id, []).extend(event.tokens)
            cycles += sum(event.cycles.values()) if event.finish else 0
    spent = time.process_time() - began
    right = sum(check(sample, tokenizer.decode(answers[str(index)])) for index, sample in enumerate(samples))
    stats = engine.stats()
    tokens = stats.emitted_total[point]
    name = f"{point} by the head" if network.sampler is not None else point
    per_forward = tokens / stats.forwards_total[point]
    return Mark(name, right / len(samples), tokens / cycles, per_forward, 1e3 * spent / tokens)


def table(marks: Sequence[Mark], samples: int, rows: int) -> str:
    """A line for each."""
    lines = [
        f"{samples} held-out prompts, greedy, {rows} at a time. Time includes prompts, tokens exclude answers' ends.",
        "",
        "| point | right | tok/cycle | tok/fwd | processor ms per token |",
        "|---|---:|---:|---:|---:|",
    ]
    return "\n".join(
        lines
        + [
            f"| {m.name} | {m.right:.1%} | {m.per_cycle:.2f} | {m.per_forward:.2f} | {m.milliseconds:.2f} |"
            for m in marks
        ]
    )


def main() -> int:
    """Mark the folder named on the command line; the table goes to standard output."""
    parser = argparse.ArgumentParser(prog="python -m trimode_lab.training.compare_points", description=__doc__)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--points", default=POINTS)
    parser.add_argument("--per-task", type=int, default=4, help="held-out prompts of each task")
    parser.add_argument("--rows", type=int, default=1, help="requests at a time")
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    decoder, config = load_decoder(arguments.folder)
    network, head = decoder.fused(), load_sampler(arguments.folder, config.hidden_size)
    tokenizer = Tokenizer.from_file(str(arguments.folder / "tokenizer.json"))
    samples = held_out_set(arguments.per_task)
    points = [OperatingPoint.parse(point) for point in arguments.points.split(",")]
    turns = [(p, h) for p in points for h in ((None, head) if head and p.mode is Mode.DIFFUSION else (None,))]
    marks: list[Mark] = []
    for point, used in track(turns, "marking", console=Console(stderr=True)):
        network.sampler = used
        marks.append(mark(network, tokenizer, samples, str(point), arguments.rows))
    Console(soft_wrap=True).print(table(marks, len(samples), arguments.rows), highlight=False, markup=False)
    return 0


if __name__ == "__main__":
    sys.exit(main())
