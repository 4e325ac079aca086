"""The terminal side of a run: from a parsed command line to a model folder."""

import argparse
from dataclasses import replace
from pathlib import Path

import torch
from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn
from tokenizers import Tokenizer

from trimode_lab.training.run import TINY, Settings, StepReport, Trainer, train
from trimode_lab.training.tokenizer import save_tokenizer, train_tokenizer, training_texts
from trimode_lab.training.validation import Validation
from trimode_workers.model import load_decoder, save_decoder

_TOKENIZER_SAMPLES = 20_000
_TOKENIZER_SEED = 0
_PRINT_EVERY = 50


def run_console(arguments: argparse.Namespace) -> int:
    """Train (or only export) as the parsed command line says; 0, or 1 if there is nothing to go on from."""
    console = Console()
    minutes = 60.0 if arguments.minutes is None and arguments.steps is None else arguments.minutes
    # Where the processor does not multiply bfloat16 itself a step took eight times as long as in float32.
    able = torch.cpu.get_capabilities()
    bfloat16 = bool(able.get("amx_bf16") or able.get("avx512_bf16"))
    settings = Settings(minutes, arguments.steps, arguments.seed, arguments.threads, bfloat16=bfloat16)
    start: Path | None = arguments.start
    if start is not None:
        # Such weights can copy already. A higher rate with half of the samples from tasks with tools and diffusion at
        # half its weight cost the other tasks 0.026 of exact match and 4 % of drafted tokens. AR counts more because
        # what it has to learn is which function, and whether: few tokens, which the noise of diffusion's loss drowned.
        settings = replace(
            settings,
            peak_rate=1e-3,
            flat_share=0.45,
            ar_weight=4.0,
            early_diffusion=1.0,
            short_share=0.0,
            tool_share=0.4,
        )
    torch.set_num_threads(1)  # the trainer brings its own threads
    out: Path = arguments.out
    checkpoint = out / "checkpoint.pt"
    tokenizer = train_tokenizer(training_texts(_TOKENIZER_SEED, _TOKENIZER_SAMPLES))
    if start is not None:
        tokenizer = Tokenizer.from_file(str(start / "tokenizer.json"))
    save_tokenizer(tokenizer, out, TINY.max_positions)
    trainer = Trainer(settings, tokenizer)
    if start is not None:
        trainer.model.load_state_dict(load_decoder(start)[0].state_dict())
    if arguments.resume or arguments.export_only:
        if not checkpoint.is_file():
            console.print(f"[red]no checkpoint to go on from: {checkpoint}[/]")
            return 1
        trainer.resume(checkpoint)
    if not arguments.export_only:
        _train_with_progress(trainer, checkpoint, console)
    trainer.gradients.close()
    save_decoder(trainer.model, out)
    console.print(f"wrote {out} after {trainer.steps_done} steps, {trainer.elapsed / 60:.1f} minutes")
    return 0


def _train_with_progress(trainer: Trainer, checkpoint: Path, console: Console) -> None:
    size = sum(p.numel() for p in trainer.model.parameters())
    console.print(f"{size / 1e6:.2f} M parameters, seed {trainer.settings.seed}")
    columns = (TextColumn("training"), BarColumn(), TextColumn("{task.percentage:.0f}% {task.fields[losses]}"))
    with Progress(*columns, TimeElapsedColumn(), console=console, disable=not console.is_terminal) as bar:
        task = bar.add_task("training", total=1.0, losses="")

        def on_step(report: StepReport) -> None:
            losses = f"AR {report.ar_loss:.3f} diffusion {report.diffusion_loss:.3f}"
            bar.update(task, completed=report.progress, losses=losses)
            if report.step % _PRINT_EVERY == 0:
                minutes = report.elapsed / 60
                line = f"{minutes:6.1f} min  step {report.step:5d}  {report.progress:4.0%}  {losses}"
                console.print(line, highlight=False, soft_wrap=True)

        def on_validation(found: Validation) -> None:
            console.print(f"{trainer.elapsed / 60:6.1f} min  {found}", highlight=False, soft_wrap=True)

        train(trainer, checkpoint, on_step, on_validation)
