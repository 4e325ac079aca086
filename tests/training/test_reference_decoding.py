"""The evaluation's own decoding, on a random model: its modes must agree with one another and with brute force."""

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from trimode_lab.training.batches import Row
from trimode_lab.training.evaluate import Scores, insert, tables
from trimode_lab.training.reference import autoregressive, decode, diffusion, self_speculation
from trimode_workers.model import Decoder, ModelConfig

CONFIG = ModelConfig(
    vocab_size=24,
    hidden_size=32,
    intermediate_size=48,
    layers=2,
    heads=4,
    kv_heads=2,
    head_dim=8,
    max_positions=256,
    mask_token_id=3,
    eos_token_ids=(2,),
)
ROWS = [Row([1, 7, 8, 9, 5], []), Row([1, 6, 5], []), Row([1, *range(10, 20), 5], [])]
LIMIT = 40


@pytest.fixture(scope="module")
def model() -> Decoder:
    torch.manual_seed(5)
    decoder = Decoder(CONFIG).eval().requires_grad_(False)
    for p in decoder.parameters():
        if p.ndim == 2:
            torch.nn.init.normal_(p, std=0.3)
    return decoder


def brute_force(model: Decoder, row: Row) -> list[int]:
    def causal(_: int, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        return F.scaled_dot_product_attention(q, k, v, is_causal=True, enable_gqa=True)

    tokens = list(row.prompt)
    while len(tokens) < len(row.prompt) + LIMIT and (len(tokens) == len(row.prompt) or tokens[-1] != 2):
        hidden = model.hidden(torch.tensor([tokens]), torch.arange(len(tokens))[None], causal)
        tokens.append(int(model.logits(hidden[0, -1]).argmax()))
    return tokens[len(row.prompt) :]


def test_ar_equals_decoding_without_a_cache(model: Decoder) -> None:
    found = decode(model, ROWS, autoregressive, LIMIT)
    assert [one.tokens for one in found] == [brute_force(model, row) for row in ROWS]
    assert len({tuple(one.tokens) for one in found}) == 3  # else this shows little
    assert all(one.cycles == one.forwards == len(one.tokens) - 1 for one in found)


@pytest.mark.parametrize("block", [2, 4, 8, 32])
def test_self_speculation_answers_as_ar_does(model: Decoder, block: int) -> None:
    expected = decode(model, ROWS, autoregressive, LIMIT)
    found = decode(model, ROWS, self_speculation(block), LIMIT)
    assert [one.tokens for one in found] == [one.tokens for one in expected]
    assert all(one.forwards == 2 * one.cycles <= 2 * (len(one.tokens) - 1) for one in found)


def test_diffusion_fills_every_mask_one_by_one_or_at_once(model: Decoder) -> None:
    careful = decode(model, ROWS, diffusion(8, 1.1), LIMIT)
    at_once = decode(model, ROWS, diffusion(8, 0.0), LIMIT)
    for one in at_once:
        assert one.forwards == 2 * one.cycles
    for one in careful:
        assert 2 * one.cycles <= one.forwards <= 8 * one.cycles
    assert sum(one.forwards for one in careful) > sum(one.forwards for one in at_once)


def test_a_block_of_two_at_any_threshold_is_two_forwards(model: Decoder) -> None:
    for one in decode(model, ROWS, diffusion(2, 1.1), LIMIT):
        assert one.forwards == 2 * one.cycles


def test_tables_name_every_point_and_task() -> None:
    scores = [Scores(point, {"add": 0.5, "sort": 1.0}, 1.0, 2.0, 1.0) for point in ("AR", "S8", "D8@0.95")]
    text = tables(scores, "7 prompts")
    assert text.startswith("7 prompts, greedy, float32.")
    assert "| S8 | 0.750 | 1.000 | 2.00 | 1.00 |" in text
    assert "| task | AR | D8@0.95 |" in text
    assert "| sort | 1.00 | 1.00 |" in text


def test_a_card_keeps_all_but_its_tables() -> None:
    card = "# A\n<!-- marks: begin -->\nold\n<!-- marks: end -->\nrest\n"
    assert insert(card, "new") == card.replace("old", "new")
    assert insert(insert(card, "x"), "old") == card
    with pytest.raises(ValueError, match="the card has no"):
        insert("# A", "new")
