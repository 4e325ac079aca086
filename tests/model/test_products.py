"""Products by oneDNN are those by MKL, and are used from where they are faster."""

from __future__ import annotations

import pytest
import torch

from trimode_workers.model import products
from trimode_workers.model.products import COUNTS, Product, crossover, packable

needs_onednn = pytest.mark.skipif(
    not torch.backends.mkldnn.is_available(),
    reason="NOT TRIED: this build of torch has no oneDNN, products stay with MKL",
)


@needs_onednn
@pytest.mark.parametrize("shape", [(192, 320), (512, 192), (33, 7)])
def test_packed_products_equal_plain_ones(shape: tuple[int, int], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(products, "crossover", lambda *_: 4)
    torch.manual_seed(0)
    weight = torch.randn(shape) / shape[0] ** 0.5
    packed, plain = Product(weight, pack=True), Product(weight)
    assert (packed.least, plain.least) == (4, None)
    for count in (1, 3, 4, 5, 100):
        x, residual = torch.randn(count, shape[0]), torch.randn(count, shape[1])
        kept = residual.clone()
        torch.testing.assert_close(packed(x), x @ weight, rtol=0, atol=1e-5)
        torch.testing.assert_close(packed.onto(residual, x), residual + x @ weight, rtol=0, atol=1e-5)
        assert torch.equal(residual, kept)


@needs_onednn
def test_the_packed_copy_is_used_from_its_count_on(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(products, "crossover", lambda *_: 4)
    used: list[int] = []
    monkeypatch.setattr(products, "_times", lambda x, packed: used.append(len(x)) or torch.zeros(1))
    monkeypatch.setattr(products, "_plus", lambda r, x, packed: used.append(-len(x)) or torch.zeros(1))
    product = Product(torch.ones(8, 8), pack=True)
    for count in (3, 4, 9):
        product(torch.ones(count, 8))
        product.onto(torch.ones(count, 8), torch.ones(count, 8))
    assert used == [4, -4, 9, -9]


@needs_onednn
@pytest.mark.parametrize(
    ("faster_at", "least"),
    [((), None), ((64,), 64), ((64, 32, 16), 16), (COUNTS, 2), ((64, 32, 8), 32), ((2, 4), None)],
)
def test_the_race_finds_where_it_pays(
    faster_at: tuple[int, ...], least: int | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(products, "_wins", lambda weight, packed, count: count in faster_at)
    crossover.cache_clear()
    assert crossover(8, 8, 1) == least
    crossover.cache_clear()


@needs_onednn
@pytest.mark.parametrize(
    ("races", "least"),
    [([1.05], None), ([1.2, 1.05], None), ([1.2, 1.2, 1.05], 64), ([1.2, 1.2, 1.2, 1.05], 64)],
)
def test_by_a_margin_and_twice(races: list[float], least: int | None, monkeypatch: pytest.MonkeyPatch) -> None:
    times = iter(races)
    monkeypatch.setattr(products, "_fastest", lambda *_: [next(times), 1.0])
    crossover.cache_clear()
    assert crossover(8, 8, 1) == least
    crossover.cache_clear()
    assert next(times, None) is None


@needs_onednn
def test_what_is_packed_is_float32_on_a_thread_of_a_cpu_and_not_too_large(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch, "get_num_threads", lambda: 1)
    assert packable(torch.zeros(1), 2**28)
    assert not packable(torch.zeros(1), 2**28 + 1)
    assert not packable(torch.zeros(1, dtype=torch.bfloat16), 1)
    assert not packable(torch.zeros(1, device="meta"), 1)
    monkeypatch.setattr(torch, "get_num_threads", lambda: 2)
    assert not packable(torch.zeros(1), 1)
