from __future__ import annotations

import math
from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from trimode_api.modes import AR, diffusion, quadratic, speculation
from trimode_policy.profiles import PROFILES, generic_cpu, known_gpu
from trimode_policy.roofline import ModelShape, Roofline

EIGHT_B = ModelShape(parameters=8_000_000_000, layers=34, kv_heads=8, head_dim=128, bytes_per_value=2)
positive = st.floats(1e-3, 1e15)


def test_ar_at_batch_one_is_bound_by_reading_the_weights() -> None:
    roofline = Roofline.for_model(EIGHT_B, flops_per_s=790e12, bytes_per_s=4.8e12, overhead_s=0.0)
    assert roofline.seconds(AR, 1, 0.0) == pytest.approx(16e9 / 4.8e12)


def test_a_large_speculating_batch_is_bound_by_arithmetic() -> None:
    roofline = Roofline.for_model(EIGHT_B, flops_per_s=790e12, bytes_per_s=4.8e12, overhead_s=0.0)
    assert roofline.seconds(speculation(32), 128, 0.0) == pytest.approx(2 * 16e9 * 128 * 32 / 790e12)


def test_context_costs_bandwidth() -> None:
    roofline = Roofline.for_model(EIGHT_B, flops_per_s=1e30, bytes_per_s=1e12, overhead_s=0.0)
    per_token = 2 * 34 * 8 * 128 * 2
    more = roofline.seconds(AR, 10, 1000.0) - roofline.seconds(AR, 10, 0.0)
    assert more == pytest.approx(10 * 1000 * per_token / 1e12)


def test_overhead_is_paid_per_forward() -> None:
    roofline = Roofline(1e30, 1e30, 1.0, 1.0, 1.0, 0.0)
    assert roofline.seconds(AR, 1, 0.0) == pytest.approx(1.0)
    assert roofline.seconds(speculation(8), 1, 0.0) == pytest.approx(2.0)
    assert roofline.seconds(diffusion(32, 0.9), 1, 0.0) > 2.0


@pytest.mark.parametrize("field", ["bytes_per_s", "flops_per_s", "overhead_s", "weight_bytes"])
@pytest.mark.parametrize("value", [-1.0, math.inf, math.nan])
def test_nonsense_is_refused_by_name(field: str, value: float) -> None:
    good = dict.fromkeys(("bytes_per_s", "flops_per_s", "overhead_s", "weight_bytes", "flops_per_token"), 1.0)
    with pytest.raises(ValueError, match=field):
        Roofline(**{**good, "kv_bytes_per_token": 0.0, field: value})


def test_zero_bandwidth_is_refused() -> None:
    with pytest.raises(ValueError, match=r"bytes_per_s is 0\.0, must be a finite number above 0"):
        Roofline(0.0, 1.0, 0.0, 1.0, 1.0, 0.0)


def test_a_quadratic_cycle_is_one_wide_forward() -> None:
    compute_bound = Roofline.for_model(EIGHT_B, flops_per_s=790e12, bytes_per_s=1e30, overhead_s=0.0)
    assert compute_bound.seconds(quadratic(8), 4, 0.0) == pytest.approx(16e9 * 4 * 8 * 9 / 790e12)
    by_overhead = Roofline(1e30, 1e30, 1.0, 1.0, 1.0, 0.0)
    assert by_overhead.seconds(quadratic(8), 1, 0.0) == pytest.approx(1.0)


def test_drafting_in_steps_costs_more_forwards() -> None:
    roofline = Roofline(1e30, 1e30, 1.0, 1.0, 1.0, 0.0)
    assert roofline.seconds(speculation(8, 0.9), 1, 0.0) > roofline.seconds(speculation(8), 1, 0.0)


rooflines = st.builds(Roofline, positive, positive, st.floats(0, 1), positive, positive, positive)


@given(rooflines, st.integers(1, 500), st.floats(0, 1e5))
def test_more_load_never_favours_speculation(roofline: Roofline, batch: int, context: float) -> None:
    for length in (8, 32):
        ratios = [
            roofline.seconds(speculation(length), b, context) / roofline.seconds(AR, b, context)
            for b in (batch, batch + 1, 2 * batch, 4 * batch)
        ]
        assert all(later >= earlier * (1 - 1e-9) for earlier, later in pairwise(ratios))


def test_profiles_are_marked_as_priors_with_their_source() -> None:
    assert set(PROFILES) == {"A100", "H100", "H200", "B200", "L4"}
    assert not any(p.measured for p in PROFILES.values())
    assert all("data sheet" in p.source for p in PROFILES.values())


def test_on_an_h200_speculation_wins_alone_and_loses_in_a_crowd() -> None:
    roofline = PROFILES["H200"].roofline(EIGHT_B)
    s32, tokens = speculation(32), 6.8
    assert roofline.seconds(s32, 1, 1500.0) / tokens < roofline.seconds(AR, 1, 1500.0) / 2
    assert roofline.seconds(s32, 128, 1500.0) / tokens > roofline.seconds(AR, 128, 1500.0)


def test_the_generic_cpu_is_near_the_packaged_model() -> None:
    tiny = generic_cpu(2, 4).roofline(ModelShape(1_770_000, layers=4, kv_heads=2, head_dim=32, bytes_per_value=4))
    assert tiny.seconds(AR, 1, 150.0) == pytest.approx(2.0e-3, rel=0.5)
    assert tiny.seconds(speculation(32), 64, 150.0) == pytest.approx(174e-3, rel=0.3)


@pytest.mark.parametrize(("cores", "layers"), [(0, 4), (2, 0)])
def test_a_cpu_needs_cores_and_a_model_layers(cores: int, layers: int) -> None:
    with pytest.raises(ValueError, match="at least 1"):
        generic_cpu(cores, layers)


@pytest.mark.parametrize(
    ("name", "device"),
    [
        ("NVIDIA H100 80GB HBM3", "H100"),
        ("NVIDIA A100-SXM4-80GB", "A100"),
        ("NVIDIA H200", "H200"),
        ("NVIDIA B200", "B200"),
        ("NVIDIA L4", "L4"),
        ("NVIDIA L40S", None),
        ("NVIDIA GH200 480GB", None),
        ("", None),
    ],
)
def test_a_gpu_is_known_by_its_drivers_name(name: str, device: str | None) -> None:
    found = known_gpu(name)
    assert (found and found.name) == device
