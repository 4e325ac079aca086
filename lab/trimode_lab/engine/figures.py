"""`python -m trimode_lab.engine.figures`: pages, shared beginnings and drafts cut short, with the packaged model.

What is compared runs in turns in one process, and the clock counts this process's time on the processor, because on a
shared machine that says more than the wall's. All on one thread.
"""

from __future__ import annotations

import argparse
import sys
import time
from itertools import count
from random import Random
from statistics import median
from typing import Literal

import torch

from trimode_lab.engine.paired import TINY
from trimode_workers.engine.attention import Attention
from trimode_workers.engine.engine import Engine, EngineSettings
from trimode_workers.engine.layouts import make_cache
from trimode_workers.engine.messages import Configure, Submit
from trimode_workers.engine.primitive import Primitive, Riders
from trimode_workers.engine.settings import keep_freed_memory
from trimode_workers.model.decoder import Network
from trimode_workers.model.loading import load_decoder

LAYOUTS: tuple[Literal["rows", "pages"], ...] = ("rows", "pages")
clock = time.process_time


def some_tokens(seed: int, length: int, network: Network) -> list[int]:
    """Any prompt: what prefilling costs does not depend on what it says."""
    rng = Random(seed)
    return [rng.randrange(8, network.config.vocab_size) for _ in range(length)]


def shared_prompt(network: Network, rounds: int) -> str:
    """Seconds until a request with a known beginning of 1,000 tokens can decode, and with an unknown one."""
    seconds: dict[bool, list[float]] = {False: [], True: []}
    numbers = count()
    for _ in range(rounds):
        engine = Engine(network, EngineSettings(4, 2048), Configure(points=["AR"], fallback="AR"))
        system = some_tokens(next(numbers), 1000, network)
        for known in (False, True):
            ask = system + some_tokens(next(numbers), 24, network)
            engine.submit(Submit(str(known), ask, 1, ignore_eos=True))
            began = clock()
            while not engine.idle:
                engine.step()
            seconds[known].append(clock() - began)
    first, next_one = median(seconds[False]), median(seconds[True])
    return f"1,000 shared tokens: {1e3 * first:.1f} ms for the first request, {1e3 * next_one:.1f} ms for the next"


@torch.inference_mode()
def paging(network: Network, context: int, rounds: int) -> str:
    """An autoregressive forward of 64 requests over pages, which the reference gathers, against rows."""
    rows, chance = 64, Random(0)
    lengths = [max(1, round(context * chance.uniform(0.5, 1.5))) for _ in range(rows)]
    primitives = []
    for layout in LAYOUTS:
        settings = EngineSettings(rows, 2 * context, layout=layout)
        cache, _ = make_cache(network.config, settings, network.like)
        cache.memory.normal_()
        for _ in range(rows):
            cache.acquire()
        primitives.append(Primitive(network, cache))

    def forward(primitive: Primitive) -> float:
        began = clock()
        network.logits(primitive.advance([[5]] * rows, list(range(rows)), lengths))
        return clock() - began

    ratios = []
    for _ in range(10 * rounds):
        over_rows, over_pages = map(forward, primitives)
        ratios.append(over_pages / over_rows)
    return f"64 requests of {context} tokens: a forward over pages takes {median(ratios):.2f} of one over rows"


@torch.inference_mode()
def ragged(network: Network, rows: int, block: int, rounds: int) -> str:
    """Verifying drafts that were cut to different lengths, five eighths of the block in the mean, and to one length,
    against verifying them whole."""
    chance = Random(0)
    cache, _ = make_cache(network.config, EngineSettings(rows, 256), network.like)
    cache.memory.normal_()
    mine, lengths = [cache.acquire() for _ in range(rows)], [chance.randrange(40, 110) for _ in range(rows)]
    primitive, mean = Primitive(network, cache), 5 * block // 8
    cut = [max(1, min(block, round(mean * share))) for share in (0.4, 1.0, 1.0, 1.6)] * (rows // 4)

    def level(n: int) -> float:
        tokens, began = primitive.tensor([[5] * n] * rows), clock()
        primitive.forward(tokens, primitive.window(mine, lengths, n), Attention.CAUSAL)
        return clock() - began

    def pieces() -> float:
        began = clock()
        riders = Riders([[5] * n for n in cut], mine, lengths)
        primitive.ride(riders)
        network.logits(torch.cat(riders.each()))
        return clock() - began

    turns = [(level(block), pieces(), level(mean)) for _ in range(3 * rounds)]
    different, one = (median(turn[i] / turn[0] for turn in turns) for i in (1, 2))
    share = sum(cut) / rows / block
    return (
        f"verifying {share:.2f} of {rows} blocks of {block} takes {different:.2f} of the whole ones' time, "
        f"{one:.2f} where all are cut to {mean}"
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=9)
    rounds: int = parser.parse_args().rounds
    torch.set_num_threads(1)
    keep_freed_memory()
    network = load_decoder(TINY)[0].fused()
    for context in (96, 192, 512):
        sys.stdout.write(paging(network, context, rounds) + "\n")
        sys.stdout.flush()
    for rows, block in ((4, 16), (4, 32), (16, 16), (16, 32), (32, 16)):
        sys.stdout.write(ragged(network, rows, block, rounds) + "\n")
        sys.stdout.flush()
    sys.stdout.write(shared_prompt(network, rounds) + "\n")


if __name__ == "__main__":
    main()
