"""`python -m trimode_lab.engine.figures`: what the engine's own work costs and saves, with the packaged model.

What is compared runs in turns in one process, and the clock counts this process's time on the processor, because on a
shared machine that says more than the wall's. All on one thread.
"""

from __future__ import annotations

import argparse
import sys
import time
from collections.abc import Callable, Iterator
from functools import partial
from itertools import count, islice
from pathlib import Path
from random import Random
from statistics import median
from typing import Any, Literal

import torch

import trimode_workers
from trimode_tools.engines import ClosedLoop
from trimode_tools.tasks.suite import stream
from trimode_workers.engine.engine import Engine, EngineSettings
from trimode_workers.engine.layouts import make_cache
from trimode_workers.engine.messages import Configure, Submit
from trimode_workers.engine.modes import MODES
from trimode_workers.engine.primitive import Primitive
from trimode_workers.engine.settings import keep_freed_memory
from trimode_workers.model.decoder import Network
from trimode_workers.model.loading import load_decoder
from trimode_workers.text.tokenizer import load_text_model

TINY = Path(trimode_workers.__file__).parent / "tiny"
ANSWER_TOKENS, CONTEXT = 128, 1024
PROMPTS_A_ROUND = 400
LAYOUTS: tuple[Literal["rows", "pages"], ...] = ("rows", "pages")
clock = time.process_time


def engine_of(network: Network, point: str, rows: int, context: int = CONTEXT, shared: int | None = None) -> Engine:
    configure = Configure(points=[point], fallback=point, fixed=point)
    return Engine(network, EngineSettings(rows, context, shared_tokens=shared), configure)


def distinct_prompts() -> Iterator[list[int]]:
    """Prompts of the tasks, none twice: little but their template is shared."""
    text, seen = load_text_model(TINY), set[str]()
    for sample in stream(Random(0), held_out=False):
        if sample.prompt not in seen:
            seen.add(sample.prompt)
            yield text.chat([{"role": "user", "content": sample.prompt}])


def some_tokens(seed: int, length: int, network: Network) -> list[int]:
    """Any prompt: what prefilling costs does not depend on what it says."""
    rng = Random(seed)
    return [rng.randrange(8, network.config.vocab_size) for _ in range(length)]


def shared_prompt(network: Network, rounds: int) -> str:
    """Seconds until a request with a known beginning of 1,000 tokens can decode, and with an unknown one."""
    seconds: dict[bool, list[float]] = {False: [], True: []}
    numbers = count()
    for _ in range(rounds):
        engine, system = engine_of(network, "AR", 4, 2048), some_tokens(next(numbers), 1000, network)
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


def steady(engine: Engine, concurrency: int, prompts: list[list[int]]) -> ClosedLoop:
    """So many requests at all times, each with a prompt that came never before."""
    return ClosedLoop(engine, concurrency, iter(prompts), ANSWER_TOKENS, clock=clock)


def throughput(network: Network, point: str, concurrency: int, rounds: int, prompts: list[list[int]]) -> str:
    """What looking for pages and keeping them costs, were none ever found: the store against none, in turns."""
    with_store, without = (
        steady(engine_of(network, point, concurrency, shared=shared), concurrency, prompts) for shared in (None, 0)
    )
    found = with_store.engine._requests.store.found
    with_store.engine._requests.store.found = lambda sequence: 0 * found(sequence)  # type: ignore[method-assign]
    # The system backs a page's memory when it is first written: once, and not in the time that is measured here.
    with_store.engine._requests.store.memory.zero_()
    turn = 40 * concurrency if point == "AR" else 2000
    ratios, speeds = [], []
    for load in (with_store, without):
        load.run(tokens=3 * turn)
    for number in range(rounds):
        # Who goes first changes from round to round.
        pair = (with_store, without) if number % 2 else (without, with_store)
        turns = {load: load.run(tokens=turn) for load in pair}
        speed = {load: one.tokens / one.seconds for load, one in turns.items()}
        speeds.append(speed[with_store])
        ratios.append(speed[with_store] / speed[without])
    return f"{point} at {concurrency}: {median(speeds):,.0f} tokens/s, {median(ratios):.3f} of those without a store"


def overhead(network: Network, point: str, rounds: int, prompts: list[list[int]]) -> str:
    """The part of a cycle of 32 requests that is not spent in the model: planning, committing, telling, learning."""
    load = steady(engine_of(network, point, 32), 32, prompts)
    inside, depth = [0.0], [0]

    def timed(call: Any) -> Any:
        def run(*args: Any) -> Any:
            began, depth[0] = clock(), depth[0] + 1
            try:
                return call(*args)
            finally:
                depth[0] -= 1
                inside[0] += 0.0 if depth[0] else clock() - began

        return run

    mode = next(mode for mode in MODES if point.startswith(mode.value[0]))
    MODES[mode], before = timed(MODES[mode]), MODES[mode]
    load.engine._primitive.advance = timed(load.engine._primitive.advance)  # type: ignore[method-assign]
    shares = []
    try:
        load.run(tokens=2000)
        for _ in range(rounds):
            began, inside[0] = clock(), 0.0
            load.run(tokens=1500)
            shares.append(1 - inside[0] / (clock() - began))
    finally:
        MODES[mode] = before
    return f"{point} at 32: {100 * median(shares):.1f} % of a cycle is not the model's"


def long_prompt(network: Network, rounds: int) -> str:
    """Cycles of 16 running requests beside a prompt of 4,000 tokens and without."""
    budget = EngineSettings().prefill_budget_tokens
    beside, alone, worst = [], [], []
    for number in range(rounds):
        engine = engine_of(network, "AR", 17, 4096)
        for i in range(16):
            engine.submit(Submit(str(i), some_tokens(1000 * number + i, 32, network), 200, ignore_eos=True))
        for _ in range(20):
            engine.step()
        alone += [_cycle(engine)[0] for _ in range(30)]
        engine.submit(Submit("long", some_tokens(number, 4000, network), 1, ignore_eos=True))
        mine, ended = [], False
        while not ended:
            seconds, names = _cycle(engine)
            ended = "long" in names
            mine.append(seconds)
        beside += mine
        worst.append(max(mine))
    return (
        f"4,000 tokens arrive beside 16: a cycle takes {1e3 * median(beside):.1f} ms (worst {1e3 * median(worst):.1f}) "
        f"instead of {1e3 * median(alone):.1f}, for {len(beside) // rounds} cycles of {budget} prompt tokens each; "
        f"in one piece they would take {1e3 * sum(beside) / rounds:.0f} ms"
    )


def _cycle(engine: Engine) -> tuple[float, set[str]]:
    began = clock()
    events = engine.step().events
    return clock() - began, {event.request_id for event in events}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=9)
    rounds: int = parser.parse_args().rounds
    torch.set_num_threads(1)
    keep_freed_memory()
    network = load_decoder(TINY)[0].fused()
    prompts = list(islice(distinct_prompts(), PROMPTS_A_ROUND * (rounds + 3)))
    measures: list[Callable[[], str]] = [
        *(partial(paging, network, context, rounds) for context in (96, 192, 512)),
        lambda: shared_prompt(network, rounds),
        lambda: throughput(network, "AR", 64, rounds, prompts),
        lambda: throughput(network, "S16", 8, rounds, prompts),
        lambda: overhead(network, "AR", rounds, prompts),
        lambda: overhead(network, "S16", rounds, prompts),
        lambda: long_prompt(network, max(1, rounds // 3)),
    ]
    for measure in measures:
        sys.stdout.write(measure() + "\n")
        sys.stdout.flush()


if __name__ == "__main__":
    main()
