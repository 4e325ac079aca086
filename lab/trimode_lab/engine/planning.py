"""`python -m trimode_lab.engine.planning`: what a cycle of AR costs beside the network's layers.

The layers are left out and the logits always say the same token; what is left is planning, the places in the cache,
sampling and events. For an older engine run the file with the older checkout's packages on PYTHONPATH.
"""

from __future__ import annotations

import argparse
import sys
import time
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

import trimode_workers
from trimode_workers.engine.engine import Engine, EngineSettings
from trimode_workers.engine.messages import Configure, Submit
from trimode_workers.model.loading import load_decoder

TINY = Path(trimode_workers.__file__).parent / "tiny"
PROMPT, TOKEN, SHARE = 12, 50, 10


def without_layers(network: Any) -> None:
    """It answers zeros for hidden states, and logits that all say `TOKEN`."""
    config, made = network.config, dict[tuple[int, ...], Tensor]()
    line = torch.zeros(config.vocab_size)
    line[TOKEN] = 100.0
    lines = line.repeat(32_768, 1)

    def hidden(tokens: Tensor, *_: Any, **__: Any) -> Tensor:
        shape = tuple(tokens.shape)
        return made.setdefault(shape, torch.zeros(*shape, config.hidden_size))

    network.hidden = hidden
    network.logits = lambda states: lines[: states[..., 0].numel()].view(*states.shape[:-1], config.vocab_size)


def cycles_us(engine: Engine, rows: int, cycles: int) -> list[float]:
    """Microseconds of this process's time of each cycle in which all decode."""
    for number in range(rows):
        engine.submit(Submit(str(number), [TOKEN + number % 50] * PROMPT, cycles * 2))
    found: list[float] = []
    while len(found) < cycles:
        began = time.process_time_ns()
        cycle = engine.step()
        if len(cycle.events) == rows:
            found.append((time.process_time_ns() - began) / 1000)
    return sorted(found)


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m trimode_lab.engine.planning")
    parser.add_argument("--rows", default="1,64,256")
    parser.add_argument("--cycles", type=int, default=400)
    options = parser.parse_args()
    torch.set_num_threads(1)
    decoder = load_decoder(TINY, torch.float32)[0]
    network = decoder.fused()
    without_layers(network)
    for rows in map(int, options.rows.split(",")):
        engine = Engine(network, EngineSettings(rows, 1024), Configure(points=["AR"], fallback="AR"))
        found = cycles_us(engine, rows, options.cycles)
        sys.stdout.write(f"{rows:>4} rows: {found[len(found) // SHARE]:.0f} us (a tenth of the cycles took less)\n")
        sys.stdout.flush()
    return 0


if __name__ == "__main__":
    sys.exit(main())
