"""A run: the tiny model's shape, settings, steps and checkpoints."""

import math
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from random import Random

import torch
from tokenizers import Tokenizer
from torch import Generator, nn

from trimode_lab.training.batches import AnySample, collate, draw_rows, draw_tool_rows, encode_any, split_by_length
from trimode_lab.training.objective import Gradients, Part, add_noise
from trimode_lab.training.optimiser import build_optimisers, diffusion_weight, learning_rate
from trimode_lab.training.tokenizer import (
    BOS,
    END,
    MASK,
    PAD,
    VOCAB_SIZE,
)
from trimode_lab.training.validation import Validation, validate
from trimode_tools.tasks import held_out_set, held_out_tool_set, stream
from trimode_workers.model import Decoder, ModelConfig, RopeConfig

TINY = ModelConfig(
    vocab_size=VOCAB_SIZE,
    hidden_size=192,
    intermediate_size=512,
    layers=4,
    heads=6,
    kv_heads=2,
    head_dim=32,
    max_positions=4096,
    mask_token_id=MASK,
    eos_token_ids=(END,),
    bos_token_id=BOS,
    pad_token_id=PAD,
    block_size=32,
    rope=RopeConfig(theta=10000.0, original_max_positions=4096, query_scaling_beta=0.1),
)


@dataclass(frozen=True)
class Settings:
    """One run. It ends after `minutes` of wall time or `steps` steps, whichever is given; steps repeat exactly."""

    minutes: float | None = 60.0
    steps: int | None = None
    seed: int = 0
    threads: int = 2
    samples_per_step: int = 32
    samples_per_forward: int = 2
    peak_rate: float = 3e-3
    flat_share: float = 0.5  # of the run at the peak rate, before it falls
    ar_weight: float = 1.0
    early_diffusion: float = 0.5  # weight of the diffusion loss in the first half; 1.0 at the end
    clip_norm: float = 1.0
    short_share: float = 0.12  # of the run spent on short samples first, where copying is learnt cheaply
    short_tokens: int = 64
    tool_share: float = 0.0  # of the samples of a step: those of the tasks with tools, once short samples are over
    bfloat16: bool = False  # matrix products only; attention, norms and weights stay in float32
    checkpoint_seconds: float = 120.0
    validation_seconds: float = 180.0
    validation_per_task: int = 16

    def progress(self, step: int, elapsed: float) -> float:
        """Share of the run done, from `elapsed` seconds and finished steps."""
        by_steps = 0.0 if self.steps is None else step / self.steps
        by_time = 0.0 if self.minutes is None else elapsed / (60.0 * self.minutes)
        return max(by_steps, by_time)


_NO_LIMIT = 10**6


@dataclass(frozen=True)
class StepReport:
    """What one step did; losses in nats per token, times in seconds, progress in [0, 1]."""

    step: int
    progress: float
    elapsed: float
    ar_loss: float
    diffusion_loss: float


class Trainer:
    """Model, optimisers and counters of one run; `step()` is a function of the seed and the step's number."""

    def __init__(self, settings: Settings, tokenizer: Tokenizer) -> None:
        torch.manual_seed(settings.seed)
        self.settings, self.tokenizer = settings, tokenizer
        self.model = Decoder(TINY)
        _initialise(self.model)
        self.gradients = Gradients(self.model, settings.threads, settings.bfloat16)
        self.optimisers = build_optimisers(self.model, settings.peak_rate)
        self.steps_done, self.elapsed = 0, 0.0

    def step(self) -> StepReport:
        """One optimiser step over `samples_per_step` fresh samples."""
        began, s = time.monotonic(), self.settings
        progress = s.progress(self.steps_done, self.elapsed)
        rng = Random(f"{s.seed}:{self.steps_done}")
        noise_rng = Generator().manual_seed(rng.getrandbits(48))
        short = progress < s.short_share
        tools = 0 if short else round(s.tool_share * s.samples_per_step)
        plain, limit = s.samples_per_step - tools, s.short_tokens if short else _NO_LIMIT
        rows = draw_rows(self.tokenizer, stream(rng, held_out=False), rng, plain, limit)
        rows += draw_tool_rows(self.tokenizer, rng, tools)
        batches = [collate(part) for part in split_by_length(rows, s.samples_per_forward)]
        noised = [add_noise(batch, noise_rng) for batch in batches]
        written = sum(int(batch.answer_lengths.sum()) for batch in batches)
        hidden = max(sum(float(n.weights.sum()) for n in noised), 1.0)
        weight = diffusion_weight(progress, s.early_diffusion)
        parts = [Part(b, n, s.ar_weight / written, weight / hidden) for b, n in zip(batches, noised, strict=True)]
        ar, diffusion = self.gradients.compute(parts)
        nn.utils.clip_grad_norm_(self.model.parameters(), s.clip_norm)
        rate = learning_rate(s.peak_rate, self.steps_done, progress, s.flat_share)
        for optimiser in self.optimisers:
            for group in optimiser.param_groups:
                group["lr"] = rate
            optimiser.step()
            optimiser.zero_grad()
        self.steps_done += 1
        self.elapsed += time.monotonic() - began
        return StepReport(self.steps_done, progress, self.elapsed, ar / written, diffusion / hidden)

    def save(self, path: Path) -> None:
        """Everything needed to go on, written whole or not at all."""
        state = {
            "model": self.model.state_dict(),
            "optimisers": [optimiser.state_dict() for optimiser in self.optimisers],
            "steps_done": self.steps_done,
            "elapsed": self.elapsed,
        }
        partial = path.with_suffix(".partial")
        torch.save(state, partial)
        partial.replace(path)

    def resume(self, path: Path) -> None:
        """Go on from what `save` wrote."""
        state = torch.load(path, weights_only=True)
        self.model.load_state_dict(state["model"])
        for optimiser, saved in zip(self.optimisers, state["optimisers"], strict=True):
            optimiser.load_state_dict(saved)
        self.steps_done, self.elapsed = state["steps_done"], state["elapsed"]


def train(
    trainer: Trainer,
    checkpoint: Path,
    on_step: Callable[[StepReport], None],
    on_validation: Callable[[Validation], None],
) -> None:
    """Step until the settings' end, with checkpoints and glances in between and a checkpoint at the end."""
    s = trainer.settings
    asked: list[AnySample] = [*held_out_set(s.validation_per_task, seed=1)]
    asked += held_out_tool_set(s.validation_per_task, seed=1) if s.tool_share else []
    looked_at = [(sample.task, encode_any(trainer.tokenizer, sample)) for sample in asked]
    saved = validated = trainer.elapsed
    while s.progress(trainer.steps_done, trainer.elapsed) < 1.0:
        report = trainer.step()
        on_step(report)
        if not math.isfinite(report.ar_loss + report.diffusion_loss):
            raise FloatingPointError(f"the loss is not finite at step {report.step}")
        if trainer.elapsed - saved >= s.checkpoint_seconds:
            trainer.save(checkpoint)
            saved = trainer.elapsed
        if trainer.elapsed - validated >= s.validation_seconds:
            on_validation(validate(trainer.model, looked_at))
            validated = trainer.elapsed
    trainer.save(checkpoint)
    on_validation(validate(trainer.model, looked_at))


def _initialise(model: Decoder) -> None:
    """Normal weights by fan-in; what writes to the residual stream smaller, the head near zero."""
    for name, p in model.named_parameters():
        if p.ndim != 2:
            continue
        deviation = p.shape[1] ** -0.5
        if name.endswith(("o_proj.weight", "down_proj.weight")):
            deviation /= (2 * model.config.layers) ** 0.5
        if name.startswith("diffusion_head"):
            deviation *= 0.1
        if name.endswith("embed_tokens.weight"):
            deviation = 0.1
        nn.init.normal_(p, std=deviation)
