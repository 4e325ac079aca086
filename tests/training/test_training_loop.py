"""A few real steps of the recipe, on a model of its real shape; and what decides without training."""

from dataclasses import replace
from pathlib import Path

import pytest
import torch
from tokenizers import Tokenizer

from trimode_lab.training.optimiser import diffusion_weight, learning_rate, orthogonalise
from trimode_lab.training.run import Settings, Trainer, train
from trimode_lab.training.tokenizer import train_tokenizer, training_texts

SMALL = Settings(
    minutes=None, steps=3, samples_per_step=4, samples_per_forward=2, threads=2, short_share=1.0, validation_per_task=1
)


@pytest.fixture(scope="module")
def tokenizer() -> Tokenizer:
    return train_tokenizer(training_texts(0, 300))


def weights(trainer: Trainer) -> torch.Tensor:
    return torch.cat([p.detach().reshape(-1) for p in trainer.model.parameters()])


def test_steps_repeat_exactly_and_go_on_after_a_checkpoint(tokenizer: Tokenizer, tmp_path: Path) -> None:
    whole = Trainer(SMALL, tokenizer)
    reports = [whole.step() for _ in range(3)]
    halves = Trainer(replace(SMALL, threads=1), tokenizer)
    assert [halves.step().ar_loss for _ in range(2)] == [report.ar_loss for report in reports[:2]]
    halves.save(tmp_path / "checkpoint.pt")
    resumed = Trainer(SMALL, tokenizer)
    resumed.resume(tmp_path / "checkpoint.pt")
    assert resumed.step().diffusion_loss == reports[2].diffusion_loss
    assert torch.equal(weights(resumed), weights(whole))
    for trainer in (whole, halves, resumed):
        trainer.gradients.close()


def test_training_learns_and_leaves_a_checkpoint(tokenizer: Tokenizer, tmp_path: Path) -> None:
    trainer = Trainer(replace(SMALL, steps=16), tokenizer)
    reports, looks = [], []
    train(trainer, tmp_path / "checkpoint.pt", reports.append, looks.append)
    trainer.gradients.close()
    assert [report.step for report in reports] == list(range(1, 17))
    assert reports[-1].ar_loss < reports[0].ar_loss - 0.5
    assert reports[-1].diffusion_loss < reports[0].diffusion_loss
    assert len(looks) == 1
    assert (tmp_path / "checkpoint.pt").is_file()


def test_the_schedules() -> None:
    assert learning_rate(1.0, 0, 0.0) == pytest.approx(1 / 60)
    assert learning_rate(1.0, 500, 0.5) == 1.0
    assert learning_rate(1.0, 500, 0.75) == pytest.approx(0.5)
    assert learning_rate(1.0, 500, 1.0) == pytest.approx(0.01)
    assert [learning_rate(1.0, 500, p, flat=0.0) for p in (0.25, 0.5)] == pytest.approx([0.75, 0.5])
    assert [diffusion_weight(p) for p in (0.0, 0.5, 0.8, 1.0)] == pytest.approx([0.5, 0.5, 1.0, 1.0])


def test_progress_is_by_whichever_limit_is_nearer() -> None:
    assert Settings(minutes=10, steps=None).progress(999, 300) == 0.5
    assert Settings(minutes=None, steps=10).progress(5, 1e9) == 0.5
    assert Settings(minutes=10, steps=10).progress(9, 60) == 0.9


def test_orthogonalised_matrices_have_singular_values_near_one() -> None:
    torch.manual_seed(0)
    for shape in ((3, 8, 20), (2, 20, 8), (1, 12, 12)):
        values = torch.linalg.svdvals(orthogonalise(torch.randn(shape), steps=8))
        assert values.min() > 0.6
        assert values.max() < 1.3
