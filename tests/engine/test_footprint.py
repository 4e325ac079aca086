"""How many requests fit beside the weights, and what is said where none does."""

from pathlib import Path

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

import trimode_workers
from trimode_lab.gpu.sizes import NEMOTRON_8B
from trimode_workers.engine.cache import KVCache
from trimode_workers.engine.footprint import Demand, footprint, rows_that_fit, workspace
from trimode_workers.engine.messages import Configure
from trimode_workers.engine.settings import EngineSettings
from trimode_workers.engine.store import PageStore
from trimode_workers.errors import SettingsError
from trimode_workers.model.config import ModelConfig
from trimode_workers.process import build
from trimode_workers.process.device import _free_in_memory
from trimode_workers.replica.settings import EngineOptions

SMALL = ModelConfig(64, 32, 64, 2, 4, 2, 8, 512, 3, (2,))
GIB = 2**30


@pytest.mark.parametrize(("config", "itemsize"), [(SMALL, 4), (SMALL, 2)])
def test_a_row_is_as_large_as_the_cache_makes_it(config: ModelConfig, itemsize: int) -> None:
    dtype = torch.float32 if itemsize == 4 else torch.bfloat16
    cache = KVCache(config, 3, 100 + 64, dtype, torch.device("cpu"))
    assert 3 * footprint(config, 100, 64, itemsize).row == cache.memory.numel() * cache.memory.element_size()


def test_the_page_store_is_planned_for() -> None:
    rows, context = 3, 256
    settings = EngineSettings(rows, context)
    cache = KVCache(SMALL, rows, context + 64, torch.float32, torch.device("cpu"))
    store = PageStore(cache, settings.shared)
    assert rows * footprint(SMALL, context, 64, 4).pages == store.memory.numel() * store.memory.element_size()


def test_an_8b_takes_136_kib_per_token() -> None:
    """2 x 34 layers x 8 heads x 128 x 2 bytes."""
    assert footprint(NEMOTRON_8B, 4096, 64, 2).row == (4096 + 64) * 139264


@given(st.integers(0, 200 * GIB), st.integers(1, 512), st.integers(64, 262144))
def test_what_fits_is_as_much_as_fits(free: int, wanted: int, context: int) -> None:
    one, fixed = footprint(NEMOTRON_8B, context, 64, 2).request, workspace(NEMOTRON_8B, 64, wanted)
    try:
        rows = rows_that_fit(NEMOTRON_8B, Demand(wanted, context, 64), 2, free)
    except SettingsError:
        assert one > free - fixed
        return
    assert rows * one <= free - fixed
    assert rows == wanted or (rows + 1) * one > free - fixed


def test_the_refusal_names_a_length_that_fits() -> None:
    with pytest.raises(SettingsError, match=r"max_context_tokens is 262144: .* at most (\d+) tokens fit") as caught:
        rows_that_fit(NEMOTRON_8B, Demand(64, 262144, 64), 2, 16 * GIB)
    longest = int(str(caught.value).split("at most ")[1].split()[0])
    assert rows_that_fit(NEMOTRON_8B, Demand(64, longest, 64), 2, 16 * GIB) == 1
    with pytest.raises(SettingsError):
        rows_that_fit(NEMOTRON_8B, Demand(64, longest + 1, 64), 2, 16 * GIB)


def test_nothing_free_is_said_as_such() -> None:
    with pytest.raises(SettingsError, match=r"0\.0 GiB are free: not even a short request fits"):
        rows_that_fit(NEMOTRON_8B, Demand(64, 4096, 64), 2, -5)


@pytest.mark.parametrize(
    ("limit", "free"),
    [
        ("max", 8 * GIB),
        (str(4 * GIB), 3 * GIB),
        (str(64 * GIB), 8 * GIB),
        (None, 8 * GIB),
    ],
)
def test_a_containers_limit_counts_without_its_file_cache(tmp_path: Path, limit: str | None, free: int) -> None:
    (tmp_path / "meminfo").write_text(f"MemTotal: 99 kB\nMemAvailable: {8 * GIB // 1024} kB\n")
    if limit is not None:
        (tmp_path / "memory.max").write_text(limit + "\n")
        (tmp_path / "memory.stat").write_text(f"anon {GIB}\nfile {2 * GIB}\nshmem 0\n")
    assert _free_in_memory(tmp_path, tmp_path / "meminfo") == free


def test_an_engine_starts_with_the_rows_that_fit(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    folder = Path(trimode_workers.__file__).parent / "tiny"
    options, configure = EngineOptions(model=str(folder)), Configure(points=["AR"], fallback="AR")
    config = ModelConfig.from_folder(folder)
    free = 5 * footprint(config, 4096, 64, 4).request + workspace(config, 64, 64) + 1
    monkeypatch.setattr(build, "free_memory", lambda device: free)
    _, started = build.build(options, configure)
    assert started.max_running_requests == 5
    assert "5 of max_running_requests 64 fit" in caplog.text
    monkeypatch.setattr(build, "free_memory", lambda device: free // 10)
    with pytest.raises(SettingsError, match="max_context_tokens is 4096"):
        build.build(options, configure)
