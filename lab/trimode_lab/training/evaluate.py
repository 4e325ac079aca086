"""`python -m trimode_lab.training.evaluate DIR`: score a model folder on the held-out set, as Markdown tables."""

import argparse
import json
import os
import sys
from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from rich.console import Console
from rich.progress import track
from tokenizers import Tokenizer

from trimode_lab.training.batches import AnySample, encode_any
from trimode_lab.training.reference import Cycle, Decoded, autoregressive, decode, diffusion, self_speculation
from trimode_tools.tables import markdown
from trimode_tools.tasks import check, held_out_set, held_out_tool_set
from trimode_workers.model import Network, load_decoder

POINTS: dict[str, Cycle] = {
    "AR": autoregressive,
    **{f"S{block}": self_speculation(block) for block in (4, 8, 16, 32, 64)},
    **{f"D{block}@{t}": diffusion(block, t) for block in (8, 16, 32) for t in (0.8, 0.9, 0.95, 0.99)},
}
TOOL_POINTS = ("AR", "S8", "S16", "S32", "D8@0.95", "D8@0.99", "D32@0.9")
_ROWS_PER_BATCH = 64
_MARKERS = ("<!-- marks: begin -->", "<!-- marks: end -->")


@dataclass(frozen=True)
class Scores:
    """Of one operating point: exact match by task, share of answers equal to AR's, tokens per cycle and forward."""

    point: str
    exact: dict[str, float]
    same_as_ar: float
    tokens_per_cycle: float
    tokens_per_forward: float

    @property
    def mean_exact(self) -> float:
        return sum(self.exact.values()) / len(self.exact)


def evaluate(
    model: Network, tokenizer: Tokenizer, samples: Sequence[AnySample], points: Mapping[str, Cycle], progress: Console
) -> Iterator[Scores]:
    """Decode `samples` at `points`, of which the first is AR."""
    ordered = sorted(samples, key=lambda sample: len(sample.answer))
    rows = [encode_any(tokenizer, sample) for sample in ordered]
    reference: list[Decoded] = []
    for name, cycle in track(points.items(), "scoring", console=progress):
        parts = [rows[start : start + _ROWS_PER_BATCH] for start in range(0, len(rows), _ROWS_PER_BATCH)]
        decoded = [one for part in parts for one in decode(model, part, cycle)]
        reference = reference or decoded
        by_task: dict[str, list[bool]] = defaultdict(list)
        for sample, one in zip(ordered, decoded, strict=True):
            by_task[sample.task].append(check(sample, tokenizer.decode(one.tokens)))
        emitted = sum(len(one.tokens) - 1 for one in decoded)  # the first token is prefill's
        same = sum(one.tokens == other.tokens for one, other in zip(decoded, reference, strict=True))
        yield Scores(
            name,
            {task: sum(right) / len(right) for task, right in sorted(by_task.items())},
            same / len(decoded),
            emitted / max(sum(one.cycles for one in decoded), 1),
            emitted / max(sum(one.forwards for one in decoded), 1),
        )


def tables(scores: list[Scores], prompts: str) -> str:
    """The scores as two Markdown tables: operating points, and exact match by task for a few of them."""
    points = []
    for s in scores:
        shares, tokens = (s.mean_exact, s.same_as_ar), (s.tokens_per_cycle, s.tokens_per_forward)
        points.append((s.point, *(f"{x:.3f}" for x in shares), *(f"{x:.2f}" for x in tokens)))
    headings = ("point", "exact match", "same as AR", "tokens per cycle", "tokens per forward")
    shown = [s for s in scores if s.point in ("AR", "D8@0.95", "D8@0.99", "D32@0.9")]
    tasks = [(task, *(f"{s.exact[task]:.2f}" for s in shown)) for task in sorted(scores[0].exact)]
    by_task = markdown(("task", *(s.point for s in shown)), tasks)
    return f"{prompts}, greedy, float32.\n\n{markdown(headings, points)}\n{by_task}".rstrip()


def insert(card: str, table: str) -> str:
    """`card` with what stands between its two markers replaced. Raises ValueError if one is missing."""
    before, begin, rest = card.partition(_MARKERS[0])
    _, end, after = rest.partition(_MARKERS[1])
    if not (begin and end):
        raise ValueError(f"the card has no {_MARKERS[0]} ... {_MARKERS[1]}")
    return f"{before}{begin}\n{table}\n{end}{after}"


def main() -> int:
    """Score the folder named on the command line; the tables go to standard output, progress to standard error."""
    parser = argparse.ArgumentParser(prog="python -m trimode_lab.training.evaluate", description=__doc__)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--per-task", type=int, default=40, help="held-out prompts of each task")
    parser.add_argument("--per-tool-task", type=int, default=75, help="held-out conversations of each task with tools")
    parser.add_argument("--threads", type=int, default=os.cpu_count() or 1)
    parser.add_argument("--json", type=Path, help="also write the scores here")
    parser.add_argument("--card", type=Path, help="README.md whose tables (between its markers) are replaced")
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)
    decoder, _ = load_decoder(arguments.folder)
    tokenizer = Tokenizer.from_file(str(arguments.folder / "tokenizer.json"))
    asked: dict[str, tuple[Sequence[AnySample], Mapping[str, Cycle]]] = {
        "held-out prompts": (held_out_set(arguments.per_task), POINTS),
        "held-out conversations with tools": (
            held_out_tool_set(arguments.per_tool_task),
            {point: POINTS[point] for point in TOOL_POINTS},
        ),
    }
    network, console = decoder.fused(), Console(stderr=True)
    scores = {kind: list(evaluate(network, tokenizer, *given, console)) for kind, given in asked.items()}
    table = "\n\n".join(tables(marks, f"{len(asked[kind][0])} {kind}") for kind, marks in scores.items())
    if arguments.card is not None:
        card = arguments.card.read_text(encoding="utf-8")
        arguments.card.write_text(insert(card, table), encoding="utf-8")
    Console(soft_wrap=True).print(table, highlight=False, markup=False)
    if arguments.json is not None:
        found = {kind: [vars(m) for m in marks] for kind, marks in scores.items()}
        arguments.json.write_text(json.dumps(found, indent=2) + "\n", encoding="utf-8")
    return 0


if __name__ == "__main__":
    sys.exit(main())
