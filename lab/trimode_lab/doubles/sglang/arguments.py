"""The stub's command line: SGLang's names and defaults, and the fork's dLLM algorithms with their traps."""

from __future__ import annotations

import argparse
import json
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

import yaml

from trimode_api.modes import Mode

ALGORITHMS = {"FastDiffuser": Mode.DIFFUSION, "LinearSpec": Mode.SELF_SPECULATION}


class Refused(Exception):
    """The server does not start with these arguments."""


@dataclass(frozen=True, slots=True)
class Arguments:
    """`tiers`: (largest batch, block length), for self-speculation."""

    model: Path
    host: str
    port: int
    mode: Mode
    max_running_requests: int
    context_length: int
    block_size: int = 32
    tiers: tuple[tuple[int, int], ...] = ()
    adapter: str = ""
    metrics: bool = False
    given: list[str] = field(default_factory=list)

    @property
    def eos(self) -> int:
        """The model's end of sequence; 0 where its config names none."""
        try:
            value = json.loads((self.model / "config.json").read_text())["eos_token_id"]
        except (OSError, KeyError):
            return 0
        return int(value[0] if isinstance(value, list) else value)

    def block(self, running: int) -> int:
        return next((block for most, block in self.tiers if running <= most), self.block_size)


def parse(argv: Sequence[str]) -> Arguments:
    """Raises Refused for what a real server would not start with, or would answer wrongly with."""
    parser = argparse.ArgumentParser(allow_abbrev=False, exit_on_error=False)
    parser.add_argument("--model-path", type=Path, required=True)
    parser.add_argument("--trust-remote-code", action="store_true")
    parser.add_argument("--host", default="127.0.0.1")
    parser.add_argument("--port", type=int, default=30000)
    parser.add_argument("--dtype", default="auto")
    parser.add_argument("--context-length", type=int, default=4096)
    parser.add_argument("--max-running-requests", type=int)
    parser.add_argument("--tp-size", type=int, default=1)
    parser.add_argument("--mem-fraction-static", type=float)
    parser.add_argument("--enable-metrics", action="store_true")
    parser.add_argument("--attention-backend")
    parser.add_argument("--json-model-override-args", default="{}")
    parser.add_argument("--dllm-algorithm")
    parser.add_argument("--dllm-algorithm-config", type=Path)
    try:
        found, rest = parser.parse_known_args(argv)
    except (argparse.ArgumentError, SystemExit) as exc:
        raise Refused(f"arguments: {exc}") from exc
    if rest:
        raise Refused(f"unrecognized arguments: {' '.join(rest)}")
    ar = json.loads(found.json_model_override_args).get("ar_mode", False)
    content = {}
    mode = Mode.AR
    if found.dllm_algorithm is None:
        if not ar:
            raise Refused("neither ar_mode nor a dLLM algorithm: this checkpoint cannot be decoded")
    else:
        if ar:
            raise Refused("ar_mode with a dLLM algorithm: answers would be wrong")
        if found.attention_backend != "flashinfer":
            raise Refused("dLLM algorithms need --attention-backend flashinfer")
        mode = ALGORITHMS[found.dllm_algorithm]
        content = yaml.safe_load(found.dllm_algorithm_config.read_text())
        if content["algorithm"] != found.dllm_algorithm or not content.get("causal_context"):
            raise Refused(f"the algorithm's file does not fit: {content}")
        if mode is Mode.DIFFUSION and not content.get("threshold"):
            raise Refused("FastDiffuser without a threshold")
        if content.get("lora_path") and not Path(content["lora_path"]).is_dir():
            raise Refused(f"lora_path: {content['lora_path']} is not there")
    return Arguments(
        model=found.model_path,
        host=found.host,
        port=found.port,
        mode=mode,
        # The trap: one request at a time, unless told otherwise.
        max_running_requests=found.max_running_requests or (256 if mode is Mode.AR else 1),
        context_length=found.context_length,
        block_size=content.get("block_size", 32),
        tiers=tuple((tier["max_running_bs"], tier["block_size"]) for tier in content.get("block_size_tiers", ())),
        adapter=content.get("lora_path", ""),
        metrics=found.enable_metrics,
        given=list(argv),
    )
