"""`python -m trimode_lab.engine.switches`: does a request that has changed modes still accept as many drafts?

An engine changes between AR and S16 every few cycles, with all requests in flight. For each of its S16 cycles the same
tokens are given to a request that has never been in another mode, and one S16 cycle of it is run: does that accept as
many? Greedy, so that what is accepted depends on the tokens before it alone, if the cached state is what it should be.
"""

from __future__ import annotations

import argparse
import sys
from dataclasses import dataclass
from pathlib import Path

import torch

from trimode_api.modes import OperatingPoint
from trimode_lab.engine.paired import TINY, suite_prompts
from trimode_workers.engine.engine import Engine, EngineSettings
from trimode_workers.engine.messages import Configure, Submit
from trimode_workers.model.decoder import Network
from trimode_workers.model.loading import load_decoder
from trimode_workers.text.tokenizer import load_text_model

POINTS = ["AR", "S16"]


@dataclass(frozen=True, slots=True)
class Cycle:
    """One S16 cycle of a request: the tokens before it, and how many it gave."""

    tokens: tuple[int, ...]
    emitted: int
    switches: int


def switching(network: Network, prompts: list[list[int]], tokens: int, every: int) -> list[Cycle]:
    """The S16 cycles of requests whose point changes every so many cycles, AR first; whole ones only, as the last of
    an answer is cut."""
    number = [0]
    points = [OperatingPoint.parse(name) for name in POINTS]
    settings = EngineSettings(len(prompts), max(map(len, prompts)) + tokens, shared_tokens=0)
    configure = Configure(points=POINTS, fallback="AR")
    engine = Engine(network, settings, configure, chooser=lambda batch, allowed: points[number[0] // every % 2])
    known = {str(i): list(prompt) for i, prompt in enumerate(prompts)}
    for name, prompt in known.items():
        engine.submit(Submit(name, prompt, tokens, ignore_eos=True))
    while engine.stats().queued_prompt_tokens:  # prompts first, so that all change together
        for event in engine.step().events:
            known[event.request_id] += event.tokens
    found: list[Cycle] = []
    while not engine.idle:
        switches, speculates = number[0] // every, bool(number[0] // every % 2)
        for event in engine.step().events:
            mine = known[event.request_id]
            if speculates and event.finish is None:
                found.append(Cycle(tuple(mine), len(event.tokens), switches))
            mine += event.tokens
        number[0] += 1
    return found


def unswitched(network: Network, cycle: Cycle) -> int:
    """Tokens of the first cycle of a request with these tokens as its prompt, in S16 from the start."""
    configure = Configure(points=["S16"], fallback="S16", fixed="S16")
    settings = EngineSettings(1, len(cycle.tokens) + 17, shared_tokens=0, prefill_budget_tokens=4096)
    engine = Engine(network, settings, configure)
    engine.submit(Submit("alone", list(cycle.tokens), 17, ignore_eos=True))
    while not (events := engine.step().events):
        pass
    return len(events[0].tokens)


def main() -> None:
    parser = argparse.ArgumentParser(description="Acceptance after switches, against acceptance without any.")
    parser.add_argument("--model", type=Path, default=TINY)
    parser.add_argument("--prompts", type=int, default=24)
    parser.add_argument("--tokens", type=int, default=120, help="of each answer")
    parser.add_argument("--every", type=int, default=3, help="cycles between two switches")
    args = parser.parse_args()
    torch.set_num_threads(1)
    network, text = load_decoder(args.model, torch.float32)[0].fused(), load_text_model(args.model)
    prompts = suite_prompts(text)[: args.prompts]
    cycles = switching(network, prompts, args.tokens, args.every)
    alone = [unswitched(network, cycle) for cycle in cycles]
    same = sum(cycle.emitted == count for cycle, count in zip(cycles, alone, strict=True))
    most = max(cycle.switches for cycle in cycles)
    after = sum(cycle.emitted for cycle in cycles) / len(cycles)
    sys.stdout.write(
        f"S16 after 1 to {most} switches within a request: {after:.3f} tokens per cycle; at the same places without "
        f"any {sum(alone) / len(alone):.3f}; {same} of {len(cycles)} cycles accept the same number\n"
    )


if __name__ == "__main__":
    main()
