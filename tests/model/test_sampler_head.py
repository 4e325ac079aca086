"""The sampler head's file, and what it starts from."""

from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

from trimode_workers.errors import WeightsError
from trimode_workers.model.sampler import SAMPLER, SamplerHead, load_sampler, save_sampler, signs


def some_head(hidden: int = 6, width: int = 5) -> SamplerHead:
    torch.manual_seed(1)
    head = SamplerHead(hidden, width)
    torch.nn.init.normal_(head.last.weight)
    return head.eval()


def test_a_new_head_says_what_the_probability_says() -> None:
    p = torch.softmax(3 * torch.randn(4, 7, 12, generator=torch.Generator().manual_seed(0)), -1)
    torch.testing.assert_close(torch.sigmoid(SamplerHead(6, 5)(torch.randn(4, 7, 6), p)), p.amax(-1))


def test_signs_are_of_the_distribution() -> None:
    found = signs(torch.tensor([[0.5, 0.25, 0.25, 0.0]]))[0]
    torch.testing.assert_close(found, torch.tensor([0.0, 0.693147, 1.039721]), atol=1e-4, rtol=1e-4)
    assert torch.isfinite(signs(torch.tensor([[1.0, 0.0, 0.0]]))).all()


def test_a_file_brings_the_same_head_back(tmp_path: Path) -> None:
    head, p = some_head(), torch.softmax(torch.randn(9, 12), -1)
    save_sampler(head, tmp_path)
    again = load_sampler(tmp_path, 6)
    assert again is not None
    hidden = torch.randn(9, 6)
    assert torch.equal(again(hidden, p), head(hidden, p))
    assert sorted(file.name for file in tmp_path.iterdir()) == [SAMPLER]


def test_most_folders_have_none(tmp_path: Path) -> None:
    assert load_sampler(tmp_path, 6) is None


def test_what_does_not_fit_is_refused_by_name(tmp_path: Path) -> None:
    save_sampler(some_head(), tmp_path)
    with pytest.raises(WeightsError, match=r"first\.weight is \(5, 9\), expected \(5, 11\)"):
        load_sampler(tmp_path, 8)
    tensors = {name: t for name, t in some_head().state_dict().items() if name != "second.bias"}
    save_file(tensors | {"more": torch.zeros(1)}, tmp_path / SAMPLER)
    with pytest.raises(WeightsError, match=r"more is \(1,\), expected none; second\.bias is missing, expected \(5,\)"):
        load_sampler(tmp_path, 6)
    (tmp_path / SAMPLER).write_bytes(b"nonsense")
    with pytest.raises(WeightsError, match="corrupt"):
        load_sampler(tmp_path, 6)
