"""`python -m trimode_lab.engine.paired`: what packing the weights for oneDNN gives (`model.products`).

Two engines over the same weights, one with all products by MKL, serve the same requests cycle by cycle in turns within
one process, so that a busy machine slows both. Prints the median over cycles of old over new seconds, and whether all
answers are equal.
"""

from __future__ import annotations

import argparse
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from itertools import cycle, islice
from pathlib import Path
from statistics import median

import torch

import trimode_workers
from trimode_tools.tasks.suite import held_out_set
from trimode_workers.engine.engine import Engine, EngineSettings
from trimode_workers.engine.messages import Configure, Submit
from trimode_workers.model import products
from trimode_workers.model.decoder import Network
from trimode_workers.model.fused import FusedDecoder
from trimode_workers.model.loading import load_decoder
from trimode_workers.text.tokenizer import TextModel, load_text_model

CASES = "AR:1,AR:8,AR:32,AR:64,S8:64,S16:1,S16:4,S16:8,S16:16,S16:32"
TINY = Path(trimode_workers.__file__).parent / "tiny"


@dataclass(frozen=True, slots=True)
class Found:
    """`gain`: old over new, the median over cycles; `old_ms` and `new_ms` medians of a cycle."""

    gain: float
    old_ms: float
    new_ms: float
    cycles: int
    equal: bool


def compare(
    old: FusedDecoder,
    new: FusedDecoder,
    point: str,
    prompts: list[list[int]],
    tokens: int,
    least: int,
    clock: Callable[[], float],
) -> Found:
    """Serve the prompts with both, again until `least` cycles have run; cycles that compute prompts do not count."""
    pairs: list[list[float]] = []
    equal, configure = True, Configure(points=[point], fallback=point, fixed=point)
    while len(pairs) < least:
        equal &= serve([loaded(network, configure, prompts, tokens) for network in (old, new)], pairs, clock)
    old_ms, new_ms = (1e3 * median(column) for column in zip(*pairs, strict=True))
    return Found(median(a / b for a, b in pairs), old_ms, new_ms, len(pairs), equal)


def serve(engines: list[Engine], pairs: list[list[float]], clock: Callable[[], float]) -> bool:
    """Step both to their ends, adding each pair's seconds; whether they answered alike."""
    answers: list[dict[str, list[int]]] = [{}, {}]
    while not (engines[0].idle or engines[1].idle):
        decoding = not any(engine.stats().queued_prompt_tokens for engine in engines)
        spent = [0.0, 0.0]
        for i in (0, 1) if len(pairs) % 2 else (1, 0):
            began = clock()
            done = engines[i].step()
            spent[i] = clock() - began
            for event in done.events:
                answers[i].setdefault(event.request_id, []).extend(event.tokens)
        if decoding:
            pairs.append(spent)
    return engines[0].idle and engines[1].idle and answers[0] == answers[1]


def suite_prompts(text: TextModel, per_task: int = 8) -> list[list[int]]:
    """Held-out prompts of the tiny model's tasks, as tokens."""
    return [text.chat([{"role": "user", "content": sample.prompt}]) for sample in held_out_set(per_task)]


def loaded(network: Network, configure: Configure, prompts: list[list[int]], tokens: int) -> Engine:
    """An engine that has the prompts to answer, each with so many tokens."""
    context = max(map(len, prompts)) + tokens
    engine = Engine(network, EngineSettings(len(prompts), context, shared_tokens=0), configure)
    for number, prompt in enumerate(prompts):
        engine.submit(Submit(str(number), prompt, tokens, ignore_eos=True))
    return engine


def main() -> None:
    parser = argparse.ArgumentParser(description="Packed weights against unpacked ones, in one run.")
    parser.add_argument("--model", type=Path, default=TINY)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--tokens", type=int, default=160, help="of each answer")
    parser.add_argument("--cycles", type=int, default=150, help="at least, of each case")
    parser.add_argument("--cases", default=CASES, help="point:requests, separated by commas")
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    products.MOST_THREADS = args.threads  # also where it is not used yet
    # Of one thread its own processor time, which others on the machine do not lengthen.
    clock = time.thread_time if args.threads == 1 else time.perf_counter
    decoder, _ = load_decoder(args.model, torch.float32)
    old, new = FusedDecoder(decoder, pack=False), FusedDecoder(decoder)
    prompts = suite_prompts(load_text_model(args.model))
    for case in args.cases.split(","):
        point, _, rows = case.partition(":")
        found = compare(old, new, point, list(islice(cycle(prompts), int(rows))), args.tokens, args.cycles, clock)
        words = "all answers equal" if found.equal else "ANSWERS DIFFER"
        sys.stdout.write(
            f"{point:4} {rows:>3} requests  {found.gain:5.2f}   {found.old_ms:8.2f} ms to {found.new_ms:8.2f} ms "
            f"over {found.cycles} cycles, {words}\n"
        )
        sys.stdout.flush()


if __name__ == "__main__":
    main()
