"""What an engine believes of its machine before anything has run."""

from __future__ import annotations

import pytest

from trimode_api.modes import AR, speculation
from trimode_policy.profiles import PROFILES
from trimode_workers.engine.class_controller import prior
from trimode_workers.model.config import ModelConfig

EIGHT_B = ModelConfig(131072, 4096, 14336, 34, 32, 8, 128, 262144, 100, (2,))


@pytest.mark.parametrize(("name", "known"), [("NVIDIA H200", "H200"), ("NVIDIA A100-SXM4-80GB", "A100")])
def test_a_gpu_begins_with_its_data_sheet(name: str, known: str) -> None:
    found = prior(EIGHT_B, name, 2)
    assert (found.bytes_per_s, found.flops_per_s) == (PROFILES[known].bytes_per_s, PROFILES[known].flops_per_s)
    assert found.weight_bytes == pytest.approx(16e9, rel=0.05)
    assert found.kv_bytes_per_token == 136 * 1024


def test_an_unknown_gpu_is_taken_for_an_h100_and_no_gpu_for_a_small_cpu() -> None:
    assert prior(EIGHT_B, "Some GPU", 2).bytes_per_s == PROFILES["H100"].bytes_per_s
    assert prior(EIGHT_B).bytes_per_s < PROFILES["L4"].bytes_per_s


def test_speculation_is_believed_to_pay_longer_on_a_gpu() -> None:
    """Blocks are nearly free as long as reading the weights takes longer than computing them."""

    def gain(batch: int, gpu: str) -> float:
        found = prior(EIGHT_B, gpu, 2 if gpu else 4)
        return found.seconds(AR, batch, 500.0) / found.seconds(speculation(8), batch, 500.0)

    assert gain(8, "NVIDIA H100 80GB HBM3") > 2 * gain(8, "")
