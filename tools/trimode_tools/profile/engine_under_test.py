"""The engine that is measured: fetched, built, and described.

Belongs here: checks of the command line and everything before the first cycle.
"""

from __future__ import annotations

import os
import shlex
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from random import Random
from typing import TYPE_CHECKING

from trimode_api.modes import AR, OperatingPoint
from trimode_local import console, download
from trimode_local.errors import BadInput
from trimode_local.preflight import machine_memory
from trimode_policy.profiles import known_gpu
from trimode_tools.bench import machine
from trimode_tools.eval import questions
from trimode_tools.profile.measure import Target
from trimode_tools.simulate.profile_file import ProfileShape

if TYPE_CHECKING:
    from trimode_workers.engine.engine import Engine
    from trimode_workers.engine.messages import Started

MAX_TOKENS = 128
"""Longest answer while acceptance is counted, and of the closed loop."""


@dataclass(frozen=True, slots=True)
class Options:
    """The command line; see `main` for each."""

    out: Path
    model: str
    adapter: str | None
    points: str
    max_batch: int
    context: int
    threads: int
    prompts: str | None
    quick: bool
    validate: bool


@dataclass(slots=True)
class EngineUnderTest:
    """The engine that is measured. `prompts` are token ids, `tasks` the kind of each."""

    engine: Engine
    started: Started
    target: Target
    prompts: list[list[int]]
    tasks: list[str]

    @property
    def clock(self) -> Callable[[], float]:
        """Processor time where one thread does all the work: then others on the machine disturb little. Else the
        wall's."""
        alone = self.started.device == "cpu" and self.target.about["threads"] == 1
        return time.process_time if alone else time.perf_counter


def points_of(text: str) -> list[OperatingPoint]:
    found = []
    for part in text.split(","):
        try:
            point = OperatingPoint.parse(part.strip())
        except ValueError as exc:
            raise BadInput(f"--points: {exc}") from exc
        if point.threshold is not None:
            raise BadInput(
                f"--points: {point}: how many forwards a cycle with a threshold takes depends on the answer; "
                "`trimode eval` measures it on questions"
            )
        found.append(point)
    return found


def start(wanted: Options, points: Sequence[OperatingPoint], most: int) -> EngineUnderTest:
    """Fetch the model, read the prompts, build the engine. At most
    `most` prompts. Raises BadInput for what does not fit."""
    from trimode_workers.engine.messages import Configure
    from trimode_workers.errors import ModelError, SettingsError, TemplateError, TokenizerError
    from trimode_workers.process.build import build
    from trimode_workers.replica.settings import EngineOptions
    from trimode_workers.sources import Hub, ModelSource, SourceError, fetch
    from trimode_workers.text.tokenizer import load_text_model

    with download.shown(console.err) as told:
        try:
            folder = fetch(ModelSource.parse(wanted.model), Hub.from_environment(os.environ), wanted.adapter, told)
        except SourceError as exc:
            raise BadInput(f"--model: {exc}") from exc
    asked = list(questions.suite(24) if wanted.prompts is None else questions.read(wanted.prompts))
    Random(0).shuffle(asked)
    asked = asked[:most]
    try:
        text = load_text_model(folder)
        prompts = [text.chat(question.turns) for question in asked]
        context = max(2 * wanted.context, max(map(len, prompts)) + MAX_TOKENS)
        options = EngineOptions(
            model=str(folder),
            draft_adapter=wanted.adapter,
            max_context_tokens=context,
            max_running_requests=wanted.max_batch,
            threads=wanted.threads,
        )
        engine, started = build(options, Configure([str(point) for point in points], str(AR)), shared_tokens=0)
    except (ModelError, SettingsError, TokenizerError, TemplateError) as exc:
        raise BadInput(str(exc)) from exc
    if started.max_context_tokens < context:
        raise BadInput(
            f"--context {wanted.context} and the prompts need {context} tokens of context, the model has "
            f"{started.max_context_tokens}"
        )
    if started.max_running_requests < wanted.max_batch:
        raise BadInput(
            f"--max-batch {wanted.max_batch}: memory holds {started.max_running_requests} requests of {context} tokens"
        )
    return EngineUnderTest(
        engine, started, _target(wanted, folder, started), prompts, [question.task for question in asked]
    )


def _target(wanted: Options, folder: Path, started: Started) -> Target:
    import torch

    from trimode_workers.engine.class_controller import prior
    from trimode_workers.model.config import ModelConfig

    config = ModelConfig.from_folder(folder)
    device, memory, name = "cpu", float(machine_memory()), "cpu"
    if started.device == "cuda":
        properties = torch.cuda.get_device_properties(0)
        name, memory = properties.name, float(properties.total_memory)
        known = known_gpu(name)
        device = name if known is None else known.name
    return Target(
        name=f"{wanted.model} on {name}",
        model=wanted.model,
        device=device,
        memory_bytes=memory,
        shape=ProfileShape(
            parameters=round(prior(config).flops_per_token / 2),
            layers=config.layers,
            kv_heads=config.kv_heads,
            head_dim=config.head_dim,
            bytes_per_value=torch.finfo(getattr(torch, started.dtype)).bits // 8,
        ),
        about={
            "command": shlex.join(["trimode", *sys.argv[1:]]),
            "day": time.strftime("%Y-%m-%d"),
            "machine": machine.facts(),
            "versions": machine.versions(),
            "threads": torch.get_num_threads(),
            "dtype": started.dtype,
        },
    )
