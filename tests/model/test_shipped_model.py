"""The model in the package: it loads, fits, and answers what its card says it can."""

from collections.abc import Sequence
from pathlib import Path

import pytest
from tokenizers import Tokenizer

import trimode_workers
from trimode_lab.training.batches import AnySample, encode_any
from trimode_lab.training.reference import Cycle, autoregressive, decode, diffusion, self_speculation
from trimode_tools.tasks import check, held_out_set, held_out_tool_set
from trimode_workers.model import FusedDecoder, load_decoder

TINY = Path(trimode_workers.__file__).parent / "tiny"
SAMPLES = held_out_set(3)


@pytest.fixture(scope="module")
def model() -> FusedDecoder:
    return load_decoder(TINY)[0].fused()


@pytest.fixture(scope="module")
def tokenizer() -> Tokenizer:
    return Tokenizer.from_file(str(TINY / "tokenizer.json"))


def answers(
    model: FusedDecoder, tokenizer: Tokenizer, cycle: Cycle, samples: Sequence[AnySample] = SAMPLES
) -> tuple[list[list[int]], float, float]:
    """Token ids, share of exact answers, tokens per cycle."""
    decoded = decode(model, [encode_any(tokenizer, sample) for sample in samples], cycle)
    right = [check(s, tokenizer.decode(one.tokens)) for s, one in zip(samples, decoded, strict=True)]
    emitted = sum(len(one.tokens) - 1 for one in decoded)
    return [one.tokens for one in decoded], sum(right) / len(right), emitted / sum(one.cycles for one in decoded)


def test_the_folder_is_small_and_complete() -> None:
    assert (TINY / "model.safetensors").stat().st_size <= 16_000_000
    assert {"config.json", "tokenizer.json", "tokenizer_config.json", "README.md"} <= {p.name for p in TINY.iterdir()}


def test_it_answers_in_all_three_modes(model: FusedDecoder, tokenizer: Tokenizer) -> None:
    ar, exact, _ = answers(model, tokenizer, autoregressive)
    assert exact >= 0.8
    for block, at_least in ((8, 4.5), (32, 7.0)):
        tokens, _, per_cycle = answers(model, tokenizer, self_speculation(block))
        assert tokens == ar
        assert per_cycle >= at_least
    assert answers(model, tokenizer, diffusion(8, 0.95))[1] >= exact - 0.15


def test_it_calls_tools_tells_results_and_knows_when_not_to_call(model: FusedDecoder, tokenizer: Tokenizer) -> None:
    samples = held_out_tool_set(8)
    ar, exact, _ = answers(model, tokenizer, autoregressive, samples)
    assert exact >= 0.85
    for block, at_least in ((8, 5.0), (32, 8.0)):
        tokens, _, per_cycle = answers(model, tokenizer, self_speculation(block), samples)
        assert tokens == ar
        assert per_cycle >= at_least
