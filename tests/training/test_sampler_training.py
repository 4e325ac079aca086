"""Where a sampler head's samples come from, that it learns from them, and the command as a whole."""

import shutil
import subprocess
import sys
from dataclasses import astuple
from pathlib import Path
from random import Random

import pytest
import torch
from tokenizers import Tokenizer

import trimode_workers
from trimode_lab.training.batches import collate, draw_rows
from trimode_lab.training.compare_points import Score, score, table
from trimode_lab.training.objective import both_streams
from trimode_lab.training.sampler import Places, _masked, _NoisyStream, collect_places, fit
from trimode_tools.tasks import held_out_set, stream
from trimode_workers.model import Decoder, load_decoder
from trimode_workers.model.sampler import SIGNS, SamplerHead, load_sampler

TINY = Path(trimode_workers.__file__).parent / "tiny"


@pytest.fixture(scope="module")
def decoder() -> Decoder:
    return load_decoder(TINY)[0]


@pytest.fixture(scope="module")
def tokenizer() -> Tokenizer:
    return Tokenizer.from_file(str(TINY / "tokenizer.json"))


@torch.inference_mode()
def test_the_clean_stream_is_run_once_for_the_same_states(decoder: Decoder, tokenizer: Tokenizer) -> None:
    rng = Random(0)
    batch = collate(draw_rows(tokenizer, stream(rng, held_out=False), rng, 5, 120))
    noised = _masked(batch, torch.Generator().manual_seed(0))
    assert noised.hidden.any(1).all()
    expected = both_streams(decoder, batch, noised)[:, batch.tokens.shape[1] :]
    found = _NoisyStream(decoder, batch, noised.block_starts).states(noised.tokens)
    torch.testing.assert_close(found, expected, atol=1e-4, rtol=1e-4)


def test_a_harvest_is_of_hidden_places_and_repeats(decoder: Decoder, tokenizer: Tokenizer) -> None:
    told: list[int] = []
    places = collect_places(decoder, tokenizer, 1500, 3, told.append)
    assert len(places) >= 1500
    assert (told[0], told[-1]) == (0, 1500)
    assert places.hidden.shape == (len(places), decoder.config.hidden_size)
    assert places.seen.shape == (len(places), SIGNS)
    assert set(places.right.unique().tolist()) == {0.0, 1.0}, "without mistakes there is nothing to learn"
    assert float(places.weights.min()) > 0
    again = collect_places(decoder, tokenizer, 1500, 3, lambda have: None)
    assert all(torch.equal(a, b) for a, b in zip(astuple(places), astuple(again), strict=True))


def test_a_head_learns_what_the_probability_does_not_tell() -> None:
    """Whether a token is right is written in the hidden state; the probability is noise."""
    rng = torch.Generator().manual_seed(0)
    hidden, seen = torch.randn(4000, 8, generator=rng), torch.randn(4000, SIGNS, generator=rng)
    right = (hidden[:, 2] > 0).float()
    head, steps = SamplerHead(8, 16), []
    fit(head, Places(hidden, seen, right, torch.ones(4000)), 100, 0, steps.append)
    assert steps == list(range(1, 401))
    judged = (head.judge(hidden, seen) > 0).float()
    assert float((judged == right).float().mean()) > 0.9
    assert float(((seen[:, 0] > 0).float() == right).float().mean()) < 0.6


def test_the_command_writes_a_head_that_loads(tmp_path: Path) -> None:
    folder = tmp_path / "tiny"
    shutil.copytree(TINY, folder)
    (folder / "sampler.safetensors").unlink(missing_ok=True)
    options = ["--places", "600", "--epochs", "1", "--width", "8", "--threads", "1"]
    run = subprocess.run(
        [sys.executable, "-m", "trimode_lab.training.sampler", str(folder), *options],
        capture_output=True,
        text=True,
        timeout=600,
        check=False,
    )
    assert run.returncode == 0, run.stderr
    assert "likeliest tokens right" in run.stderr
    head = load_sampler(folder, 192)
    assert head is not None
    assert head.first.out_features == 8


def test_marks_stand_one_below_the_other() -> None:
    text = table([Score("AR", 1.0, 1.0, 1.0, 2.5), Score("D8@0.9 by the head", 0.8, 7.0, 3.0, 0.7)], 12, 1)
    assert "| AR | 100.0% | 1.00 | 1.00 | 2.50 |" in text
    assert "| D8@0.9 by the head | 80.0% | 7.00 | 3.00 | 0.70 |" in text


def test_marks_of_the_shipped_model(decoder: Decoder, tokenizer: Tokenizer) -> None:
    found = score(decoder.fused(), tokenizer, held_out_set(1)[:4], "S8", 4)
    assert found.right == 1.0
    assert found.per_cycle == pytest.approx(2 * found.per_forward)
    assert 3 < found.per_cycle <= 8
