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
from trimode_tools.engines import complete
from trimode_tools.tables import markdown
from trimode_tools.tasks import Sample, check, held_out_set
from trimode_workers.engine.engine import Engine, EngineSettings
from trimode_workers.engine.messages import Configure
from trimode_workers.model import FusedDecoder, load_decoder
from trimode_workers.model.sampler import load_sampler

POINTS = "AR,S8,S8@0.9,S16,S16@0.9,Q8,Q16,D8@0.9,D32@0.9"
_CONTEXT, _ANSWER = 448, 160


@dataclass(frozen=True)
class Score:
    """Share of right answers; tokens per cycle and per forward of one row; milliseconds of processor per token."""

    name: str
    right: float
    per_cycle: float
    per_forward: float
    milliseconds: float


def score(network: FusedDecoder, tokenizer: Tokenizer, samples: Sequence[Sample], point: str, rows: int) -> Score:
    """All samples at one operating point, `rows` at a time."""
    engine = Engine(network, EngineSettings(rows, _CONTEXT), Configure(points=[point], fallback=point))
    began = time.process_time()
    answers = complete(engine, [encode(tokenizer, sample).prompt for sample in samples], point, _ANSWER)
    spent = time.process_time() - began
    right = sum(check(sample, tokenizer.decode(one.ids)) for sample, one in zip(samples, answers, strict=True))
    stats = engine.stats()
    tokens = stats.emitted_total[point]
    name = f"{point} by the head" if network.sampler is not None else point
    per_cycle, per_forward = tokens / sum(one.cycles for one in answers), tokens / stats.forwards_total[point]
    return Score(name, right / len(samples), per_cycle, per_forward, 1e3 * spent / tokens)


def table(scores: Sequence[Score], samples: int, rows: int) -> str:
    """A line for each."""
    headings = ("point", "right", "tok/cycle", "tok/fwd", "processor ms per token")
    lines = [
        (s.name, f"{s.right:.1%}", *(f"{x:.2f}" for x in (s.per_cycle, s.per_forward, s.milliseconds))) for s in scores
    ]
    about = f"{samples} held-out prompts, greedy, {rows} at a time. Time includes prompts, tokens no answers' ends."
    return f"{about}\n\n{markdown(headings, lines)}".rstrip()


def main() -> int:
    """Score the folder named on the command line; the table goes to standard output."""
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
    scores: list[Score] = []
    for point, used in track(turns, "scoring", console=Console(stderr=True)):
        network.sampler = used
        scores.append(score(network, tokenizer, samples, str(point), arguments.rows))
    Console(soft_wrap=True).print(table(scores, len(samples), arguments.rows), highlight=False, markup=False)
    return 0


if __name__ == "__main__":
    sys.exit(main())
