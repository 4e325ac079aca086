"""The server's command line and its algorithm's file. Pure.

The flags hold what is easily left out, and then goes wrong in silence: dLLM modes run one request at a time unless
told otherwise, need flashinfer, see no causal context and have no threshold by default; AR must not name a dLLM
algorithm, and the draft adapter is on while drafting only.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from trimode_api.modes import Mode
from trimode_workers.replica.settings import EngineOptions
from trimode_workers.sglang.options import SGLangOptions

FIRST_BOUND, GROWTH = 4, 8
"""The longest block is for up to 4 requests, the next for up to 32, and so on: as the fork's authors publish it."""


@dataclass(frozen=True, slots=True)
class Tier:
    """`block_length` is used while at most `most` requests run."""

    most: int
    block_length: int


def tiers(block_lengths: Sequence[int], max_running_requests: int) -> tuple[Tier, ...]:
    """Longest first; the last holds up to `max_running_requests`."""
    found: list[Tier] = []
    most = FIRST_BOUND
    for length in sorted(set(block_lengths), reverse=True):
        found.append(Tier(min(most, max_running_requests), length))
        if most >= max_running_requests:
            break
        most *= GROWTH
    found[-1] = Tier(max_running_requests, found[-1].block_length)
    return tuple(found)


def block_length(of: Sequence[Tier], running: int) -> int:
    """What the server uses while `running` requests run."""
    return next((tier.block_length for tier in of if running <= tier.most), of[-1].block_length)


AR_OVERRIDE = {"ar_mode": True}


@dataclass(frozen=True, slots=True)
class Launch:
    """What to run. `algorithm` is the content of the file that `argv` names, None in AR mode."""

    argv: tuple[str, ...]
    algorithm: dict[str, Any] | None


def launch(engine: EngineOptions, options: SGLangOptions, port: int, file: Path) -> Launch:
    """The server of `engine.model` on the loopback interface; `file` is where the algorithm's content will be."""
    common = [
        *options.command,
        *("--model-path", engine.model),
        "--trust-remote-code",
        *("--host", "127.0.0.1"),
        *("--port", str(port)),
        *("--dtype", engine.dtype),
        *("--context-length", str(engine.max_context_tokens)),
        *("--max-running-requests", str(engine.max_running_requests)),
        "--enable-metrics",
    ]
    if not any(arg.startswith(("--tp-size", "--tensor-parallel-size")) for arg in options.args):
        common += ["--tp-size", str(options.gpus)]
    if options.mode is Mode.AR:
        return Launch((*common, "--json-model-override-args", json.dumps(AR_OVERRIDE), *options.args), None)
    algorithm = _algorithm(engine, options)
    own = [
        *("--attention-backend", "flashinfer"),
        *("--dllm-algorithm", algorithm["algorithm"]),
        *("--dllm-algorithm-config", str(file)),
    ]
    return Launch((*common, *own, *options.args), algorithm)


def _algorithm(engine: EngineOptions, options: SGLangOptions) -> dict[str, Any]:
    if options.mode is Mode.DIFFUSION:
        return {
            "algorithm": "FastDiffuser",
            "causal_context": True,
            "temperature": 0.0,
            "threshold": options.threshold,
            "max_steps": options.block_lengths[0],
            "block_size": options.block_lengths[0],
        }
    by_batch = tiers(options.block_lengths, engine.max_running_requests)
    content: dict[str, Any] = {
        "algorithm": "LinearSpec",
        "causal_context": True,
        "block_size": by_batch[0].block_length,
    }
    if len(by_batch) > 1:
        content["block_size_tiers"] = [
            {"max_running_bs": tier.most, "block_size": tier.block_length} for tier in by_batch
        ]
    if engine.draft_adapter is not None:
        content |= {"lora_path": str(Path(engine.model, engine.draft_adapter)), "lora_mode": "draft_only"}
    return content
