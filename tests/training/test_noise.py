"""The dual-stream mask and the noise, by cases small enough to check by hand."""

import torch

from trimode_lab.training.batches import Row, collate
from trimode_lab.training.objective import PAD_WEIGHT, add_noise, block_starts, clean_mask, noisy_mask
from trimode_lab.training.tokenizer import END, MASK


def picture(mask: torch.Tensor) -> list[str]:
    return ["".join("x" if seen else "." for seen in row) for row in mask.tolist()]


def test_blocks_are_cut_at_the_offset() -> None:
    starts = block_starts(7, torch.tensor([4, 2]), torch.tensor([1, 0]))
    assert starts.tolist() == [[0, 1, 1, 1, 1, 5, 5], [0, 0, 2, 2, 4, 4, 6]]


def test_the_two_masks_of_a_tiny_batch() -> None:
    # Row 0: two prompt tokens, three of answer; row 1: one and two, so it is padded on both sides.
    batch = collate([Row([10, 11], [12, 13, END]), Row([20], [21, END])], tail=0)
    assert batch.tokens.tolist() == [[10, 11, 12, 13, END], [0, 20, 21, END, END]]
    assert batch.blocks.tolist() == [[11, 12, 13, END], [20, 21, END, END]]
    clean = clean_mask(batch)[:, 0]
    assert picture(clean[0]) == ["x....", "xx...", "xxx..", "xxxx.", "xxxxx"]
    assert picture(clean[1]) == ["x....", ".x...", ".xx..", ".xxx.", ".xxxx"]  # a pad sees only itself
    starts = block_starts(4, torch.tensor([2, 2]), torch.tensor([0, 1]))
    noisy = noisy_mask(batch, starts)[:, 0]
    # clean keys before the block, then noisy keys inside it
    assert picture(noisy[0]) == ["x....xx..", "x....xx..", "xxx....xx", "xxx....xx"]
    assert picture(noisy[1]) == [".....x...", ".x....xx.", ".x....xx.", ".xxx....x"]


def test_noise_hides_answers_only_and_weighs_what_follows_the_end_little() -> None:
    rows = [Row([1, 4, 50, 5], [*range(60, 60 + n), END]) for n in (3, 9, 17, 30)] * 8
    batch = collate(rows)
    noised = add_noise(batch, torch.Generator().manual_seed(0))
    assert torch.equal(noised.tokens == MASK, noised.hidden)
    assert torch.equal(noised.tokens[~noised.hidden], batch.blocks[~noised.hidden])
    assert not noised.hidden[:, 0].any()  # the last prompt token
    columns = torch.arange(noised.tokens.shape[1])
    for index, row in enumerate(rows):
        end = len(row.answer)
        weights, starts = noised.weights[index], noised.block_starts[index]
        assert set(weights[columns <= end].tolist()) <= {0.0, 1.0}
        assert set(weights[columns > end].tolist()) <= {0.0, torch.tensor(PAD_WEIGHT).item()}
        assert not weights[starts > end].any()  # blocks that begin behind the end teach nothing


def test_noise_repeats_with_its_seed() -> None:
    batch = collate([Row([1], list(range(60, 90)))])
    first, again, other = (add_noise(batch, torch.Generator().manual_seed(s)).tokens for s in (1, 1, 2))
    assert torch.equal(first, again)
    assert not torch.equal(first, other)


def test_some_blocks_are_hidden_but_for_their_first_token() -> None:
    batch = collate([Row([1], list(range(60, 200)))] * 64)
    noised = add_noise(batch, torch.Generator().manual_seed(0))
    first = torch.arange(noised.tokens.shape[1]) == noised.block_starts
    drafts = 0
    for row in range(64):
        for start in noised.block_starts[row].unique():
            own = noised.block_starts[row] == start
            drafts += bool(own.sum() > 7 and noised.hidden[row][own & ~first[row]].all())
    assert drafts > 64
