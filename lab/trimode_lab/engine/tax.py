"""`python -m trimode_lab.engine.tax`: what an engine that could speculate pays for it while it runs AR.

Two engines over the same weights serve the same requests cycle by cycle in turns within one process. One has AR, S8,
S16 and S32, and its policy decides as in production (a dry run: it is not followed, so that every cycle is AR); the
other has AR alone. Prints the median over cycles of the first one's seconds by the second's.
"""

from __future__ import annotations

import argparse
import sys
import time
from collections.abc import Callable
from itertools import cycle, islice
from pathlib import Path
from statistics import median, quantiles

import torch

from trimode_lab.engine.paired import TINY, loaded, serve, suite_prompts
from trimode_workers.engine.messages import Configure
from trimode_workers.model.decoder import Network
from trimode_workers.model.loading import load_decoder
from trimode_workers.text.tokenizer import load_text_model

ADAPTIVE = Configure(points=["AR", "S8", "S16", "S32"], fallback="AR", dry_run=True)
ALONE = Configure(points=["AR"], fallback="AR")


def ratios(
    network: Network, prompts: list[list[int]], tokens: int, least: int, clock: Callable[[], float]
) -> tuple[list[float], bool]:
    """Seconds of a cycle with all points by those of one with AR alone, over `least` cycles or more; whether all
    answers were equal. Cycles that compute prompts do not count."""
    pairs: list[list[float]] = []
    equal = True
    while len(pairs) < least:
        engines = [loaded(network, configure, prompts, tokens) for configure in (ADAPTIVE, ALONE)]
        equal &= serve(engines, pairs, clock)
    return [adaptive / alone for adaptive, alone in pairs], equal


def main() -> None:
    parser = argparse.ArgumentParser(description="What the ability to speculate costs while AR runs.")
    parser.add_argument("--model", type=Path, default=TINY)
    parser.add_argument("--rows", default="1,8,64", help="requests at once, separated by commas")
    parser.add_argument("--tokens", type=int, default=160, help="of each answer")
    parser.add_argument("--cycles", type=int, default=300, help="at least, of each case")
    args = parser.parse_args()
    torch.set_num_threads(1)
    decoder, _ = load_decoder(args.model, torch.float32)
    network, prompts = decoder.fused(), suite_prompts(load_text_model(args.model))
    for rows in map(int, args.rows.split(",")):
        chosen = list(islice(cycle(prompts), rows))
        found, equal = ratios(network, chosen, args.tokens, args.cycles, time.thread_time)
        low, _, high = quantiles(found, n=4)
        words = "all answers equal" if equal else "ANSWERS DIFFER"
        sys.stdout.write(
            f"AR at {rows:>3}: {median(found):.3f} of a cycle without other points (quartiles {low:.3f} to {high:.3f}, "
            f"{len(found)} cycles), {words}\n"
        )
        sys.stdout.flush()


if __name__ == "__main__":
    main()
