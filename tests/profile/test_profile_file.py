"""The profile's file: round trip, and every broken field by name."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import yaml

from trimode_api.errors import InvalidInput
from trimode_api.modes import AR, Mode, speculation
from trimode_local.errors import BadInput
from trimode_tools.simulate.hardware import BUILT_IN, acceptance_of, assembled, shape_of
from trimode_tools.simulate.profile_file import (
    Profile,
    ProfileCycle,
    ProfilePrompts,
    ProfileShape,
    read_profile,
    write_profile,
)

GOOD: dict[str, Any] = {
    "device": "H200",
    "cycles": [{"point": "AR", "batch": 1, "seconds": 0.01}],
    "prompts": [{"mode": "AR", "tokens": 32, "seconds": 0.001}],
    "tokens_per_cycle": {"S8": 4.0},
}
FULL = Profile(
    name="mine",
    model="tiny://",
    device="cpu",
    bytes_per_s=1.25e10,
    flops_per_s=4e10,
    overhead_s=1e-5,
    memory_bytes=8e9,
    shape=ProfileShape(parameters=1_770_000, layers=4, kv_heads=2, head_dim=32, bytes_per_value=4),
    noise=0.1,
    cycles=(
        ProfileCycle(point="AR", batch=1, context_tokens=64.0, seconds=1e-3),
        ProfileCycle(point="S8", batch=1, context_tokens=64.0, seconds=0.003),
        ProfileCycle(point="S8", batch=8, context_tokens=64.0, seconds=0.012),
    ),
    prompts=(
        ProfilePrompts(mode=Mode.AR, tokens=32, seconds=1e-3),
        ProfilePrompts(mode=Mode.AR, tokens=64, seconds=2e-3),
    ),
    tokens_per_cycle={"S8": 6.5},
    kinds={"sums": {"S8": 5.0}, "lists": {"S8": 7.5}},
    about={"threads": 1, "machine": {"cores": 2}},
)


def test_a_profile_comes_back_as_it_was_written(tmp_path: Path) -> None:
    file = tmp_path / "p.yaml"
    write_profile(FULL, file)
    assert read_profile(file) == FULL
    lines = file.read_text().splitlines()
    assert "- {point: S8, batch: 8, context_tokens: 64.0, seconds: 0.012}" in lines
    assert lines[0].startswith("#")


def test_it_becomes_a_machine_of_the_simulator() -> None:
    found = assembled(FULL, shape_of("anything"))
    assert (found.name, found.model, found.gpu, found.noise) == ("mine", "tiny://", False, 0.1)
    assert found.prior.weight_bytes == 4 * 1_770_000
    assert found.truth.seconds(speculation(8), 8, 64.0) == pytest.approx(0.012)
    assert found.truth.prefill_seconds(64, AR) == pytest.approx(2e-3)
    kinds = acceptance_of(found, None, "lora")
    assert kinds.kinds == ("sums", "lists")
    assert kinds.measured == {speculation(8): (5.0, 7.5)}


def test_without_kinds_its_tokens_hold_for_all_kinds_of_the_table() -> None:
    found = acceptance_of(assembled(FULL.model_copy(update={"kinds": {}}), shape_of("")), None, "lora")
    assert found.kinds == BUILT_IN.kinds
    assert found.measured == {speculation(8): (6.5,)}


def test_a_kind_that_lacks_a_point_leaves_the_point_out() -> None:
    kinds = {"sums": {"S8": 5.0, "S16": 6.0}, "lists": {"S8": 7.5}}
    found = acceptance_of(assembled(FULL.model_copy(update={"kinds": kinds}), shape_of("")), None, "lora")
    assert list(found.measured) == [speculation(8)]


def test_any_device_will_do_that_the_profile_describes() -> None:
    own = FULL.model_copy(update={"device": "RTX 9090"})
    assert assembled(own, shape_of("")).gpu
    with pytest.raises(BadInput, match=r"device is 'RTX 9090', must be cpu or one of A100.*memory_bytes are given"):
        assembled(own.model_copy(update={"memory_bytes": None}), shape_of(""))


@pytest.mark.parametrize(
    ("path", "value", "complaint"),
    [
        (("cycles", 0, "point"), "S7", r"cycles\[0\].point: block length 7 is not one of"),
        (("cycles", 0, "seconds"), 0, r"cycles\[0\].seconds: input should be greater than 0, got 0"),
        (("cycles", 0, "seconds"), float("nan"), r"cycles\[0\].seconds: "),
        (("cycles", 0, "batch"), 0, r"cycles\[0\].batch: input should be greater than or equal to 1"),
        (("cycles", 0, "rows"), 1, r"cycles\[0\].rows: unknown field"),
        (("prompts", 0, "mode"), "Fast", r"prompts\[0\].mode: "),
        (("prompts", 0, "seconds"), -1, r"prompts\[0\].seconds: "),
        (("tokens_per_cycle", "S8"), 0.5, "tokens_per_cycle.S8: input should be greater than or equal to 1"),
        (("tokens_per_cycle", "S9"), 2, "tokens_per_cycle.S9"),
        (("noise",), 3, "noise: input should be less than or equal to 1, got 3"),
        (("bytes_per_s",), "inf", "bytes_per_s: "),
        (("shape",), {"parameters": 0}, "shape.parameters: "),
        (("speed",), 1, "speed: unknown field"),
    ],
)
def test_what_is_wrong_is_named_by_its_field(
    path: tuple[str | int, ...], value: object, complaint: str, tmp_path: Path
) -> None:
    data: Any = yaml.safe_load(yaml.safe_dump(GOOD))
    place = data
    for step in path[:-1]:
        place = place[step]
    place[path[-1]] = value
    file = tmp_path / "p.yaml"
    file.write_text(yaml.safe_dump(data))
    with pytest.raises(InvalidInput, match=complaint) as caught:
        read_profile(file)
    assert str(file) in str(caught.value)


def test_all_problems_are_named_together(tmp_path: Path) -> None:
    file = tmp_path / "p.yaml"
    file.write_text("cycles: [{point: X, batch: 0, seconds: -1}]\nnoise: 7\n")
    with pytest.raises(InvalidInput) as caught:
        read_profile(file)
    assert len(caught.value.problems) == 4


@pytest.mark.parametrize(
    ("text", "complaint"),
    [("a: [", "not valid YAML"), ("- 1\n", "must be a mapping"), ("", "must be a mapping")],
)
def test_what_is_no_profile_at_all(text: str, complaint: str, tmp_path: Path) -> None:
    file = tmp_path / "p.yaml"
    file.write_text(text)
    with pytest.raises(BadInput, match=complaint):
        read_profile(file)
    with pytest.raises(BadInput, match="cannot be read: No such file"):
        read_profile(tmp_path / "none.yaml")
