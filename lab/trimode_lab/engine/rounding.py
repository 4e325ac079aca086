"""`python -m trimode_lab.engine.rounding`: in how many greedy answers a number format makes modes differ.

The packaged model answers held-out prompts in AR and in each of the other points, in float32 and in bfloat16. A draft
of a block is verified by one forward of several tokens, which adds up the same products in another order than a forward
of one token; bfloat16 keeps 8 bits of each result, so that two logits that are nearly equal may change places.
"""

from __future__ import annotations

import argparse
import random
import sys
from pathlib import Path

import torch

import trimode_workers
from trimode_tools.tasks.suite import held_out_set
from trimode_workers.engine.engine import Engine, EngineSettings
from trimode_workers.engine.messages import Configure, Submit
from trimode_workers.model.loading import load_decoder
from trimode_workers.text.tokenizer import load_text_model

TINY = Path(trimode_workers.__file__).parent / "tiny"
POINTS = "S8,S16,S32"


def prompts(count: int) -> list[list[int]]:
    """Held-out ones, in an order of their own."""
    text, samples = load_text_model(TINY), held_out_set(max(24, count // 10))  # of each of some twelve kinds
    random.Random(0).shuffle(samples)
    return [text.chat([{"role": "user", "content": sample.prompt}]) for sample in samples[:count]]


def answers(dtype: torch.dtype, point: str, asked: list[list[int]], tokens: int) -> list[list[int]]:
    """Greedy ones, 32 at a time."""
    engine = Engine(load_decoder(TINY, dtype)[0], EngineSettings(32, 512), Configure(points=[point], fallback=point))
    for number, prompt in enumerate(asked):
        engine.submit(Submit(str(number), prompt, tokens))
    found: dict[str, list[int]] = {str(number): [] for number in range(len(asked))}
    while not engine.idle:
        for event in engine.step().events:
            found[event.request_id] += event.tokens
    return list(found.values())


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m trimode_lab.engine.rounding")
    parser.add_argument("--prompts", type=int, default=200)
    parser.add_argument("--tokens", type=int, default=64)
    parser.add_argument("--points", default=POINTS)
    options = parser.parse_args()
    torch.set_num_threads(1)
    asked = prompts(options.prompts)
    for dtype in (torch.float32, torch.bfloat16):
        plain = answers(dtype, "AR", asked, options.tokens)
        for point in options.points.split(","):
            other = answers(dtype, point, asked, options.tokens)
            equal = sum(a == b for a, b in zip(plain, other, strict=True))
            name = str(dtype).removeprefix("torch.")
            sys.stdout.write(f"{name:>9} {point:>4}: {equal} of {len(asked)} answers are AR's\n")
            sys.stdout.flush()
    return 0


if __name__ == "__main__":
    sys.exit(main())
