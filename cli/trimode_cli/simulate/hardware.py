"""Hardware and models: from `--profile` and the resource to a true curve and a prior.

Belongs here: the profile's formats (a known device's name, JSON, CSV) and the shapes of known models.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from trimode_api.errors import InvalidInput, problems_of
from trimode_api.modes import OperatingPoint, speculation
from trimode_api.resource import NemotronDeployment
from trimode_cli.errors import BadInput
from trimode_cli.simulate.tables import rows
from trimode_policy.profiles import PROFILES, HardwareProfile, generic_cpu
from trimode_policy.roofline import Roofline
from trimode_policy.simulation.truth import Hardware, MeasuredHardware

DEFAULT_GPU = "H200"


@dataclass(frozen=True, slots=True)
class Shape:
    """What the roofline needs of a model."""

    parameters: int
    layers: int
    kv_heads: int
    head_dim: int
    bytes_per_value: int


_SHAPES = (
    ("14b", Shape(13_600_000_000, 40, 8, 128, 2)),
    ("3b", Shape(3_850_000_000, 26, 8, 128, 2)),
    ("tiny", Shape(1_770_000, 4, 2, 32, 4)),
    ("8b", Shape(8_600_000_000, 34, 8, 128, 2)),
)
"""By what the model's uri contains; bf16 sizes of the published checkpoints."""


class ProfileCycle(BaseModel):
    """One measured cycle time."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    point: str
    batch: int = Field(ge=1)
    seconds: float = Field(gt=0)


class Profile(BaseModel):
    """A measured engine. `context_tokens`: cached tokens per request while it was measured.

    `bytes_per_s`, `flops_per_s`, `overhead_s`: the roofline between and beyond what was measured; a known `device`
    gives them too. `tokens_per_cycle`: by point, where it was measured.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    name: str = "measured"
    device: str = DEFAULT_GPU
    bytes_per_s: float | None = Field(default=None, gt=0)
    flops_per_s: float | None = Field(default=None, gt=0)
    overhead_s: float | None = Field(default=None, ge=0)
    memory_bytes: float | None = Field(default=None, gt=0)
    context_tokens: float = Field(default=500.0, ge=0)
    cycles: tuple[ProfileCycle, ...] = ()
    tokens_per_cycle: dict[str, float] = {}


@dataclass(frozen=True, slots=True)
class Machine:
    """`truth`: real seconds. `prior`: what a policy starts from. `cached_tokens`: room for keys and values."""

    name: str
    truth: Hardware
    prior: Roofline
    cached_tokens: float
    gpu: bool
    tokens: Mapping[OperatingPoint, float] = field(default_factory=dict)


def machine(deployment: NemotronDeployment, profile: str | None) -> Machine:
    """The machine under one replica. Raises BadInput or InvalidInput for a profile that cannot be used."""
    shape = shape_of(deployment.spec.model.uri)
    gpus = max(pool.resources.gpus for pool in deployment.spec.pools)
    if profile is None:
        device = PROFILES[DEFAULT_GPU] if gpus else generic_cpu(2, shape.layers)
        return _assembled(Profile(name=f"{device.name} (prior)"), device, shape, gpus > 0)
    if profile in PROFILES:
        return _assembled(Profile(name=f"{profile} (prior)"), PROFILES[profile], shape, True)
    read = _read(Path(profile), shape)
    if read.device == "cpu":
        return _assembled(read, generic_cpu(2, shape.layers), shape, False)
    if read.device not in PROFILES:
        raise BadInput(f"{profile}: device is {read.device!r}, must be cpu or one of {', '.join(PROFILES)}")
    return _assembled(read, PROFILES[read.device], shape, True)


def shape_of(uri: str) -> Shape:
    """The shape of a known model by its uri; the 8B one where nothing fits."""
    return next((shape for part, shape in _SHAPES if part in uri.lower()), _SHAPES[-1][1])


def _assembled(profile: Profile, device: HardwareProfile, shape: Shape, gpu: bool) -> Machine:
    roofline = Roofline.for_model(
        parameters=shape.parameters,
        layers=shape.layers,
        kv_heads=shape.kv_heads,
        head_dim=shape.head_dim,
        bytes_per_value=shape.bytes_per_value,
        flops_per_s=profile.flops_per_s or device.flops_per_s,
        bytes_per_s=profile.bytes_per_s or device.bytes_per_s,
        overhead_s=device.overhead_s if profile.overhead_s is None else profile.overhead_s,
    )
    measured: dict[OperatingPoint, dict[int, float]] = {}
    for cycle in profile.cycles:
        measured.setdefault(_point(cycle.point), {})[cycle.batch] = cycle.seconds
    truth = MeasuredHardware.fitted(roofline, measured, profile.context_tokens) if measured else roofline
    free = 0.9 * (profile.memory_bytes or device.memory_bytes) - roofline.weight_bytes
    if free <= 0:
        raise BadInput(
            f"{profile.name}: the model's {roofline.weight_bytes / 1e9:.1f} GB of weights do not fit; "
            "take a profile with more memory_bytes"
        )
    tokens = {_point(name): value for name, value in profile.tokens_per_cycle.items()}
    return Machine(profile.name, truth, roofline, free / roofline.kv_bytes_per_token, gpu, tokens)


def _point(text: str) -> OperatingPoint:
    try:
        return OperatingPoint.parse(text)
    except ValueError as error:
        raise BadInput(f"profile: {error}") from error


def _read(path: Path, shape: Shape) -> Profile:
    if path.suffix == ".csv":
        return _read_csv(path, shape)
    try:
        data: Any = json.loads(path.read_text(encoding="utf-8"))
        return Profile.model_validate(data)
    except OSError as error:
        raise BadInput(
            f"--profile {path}: is neither one of {', '.join(PROFILES)} nor a file that can be read: {error.strerror}"
        ) from error
    except ValueError as error:
        if isinstance(error, ValidationError):
            raise InvalidInput(problems_of(error), f"profile {path}") from error
        raise BadInput(f"{path}: is not JSON: {error}") from error


def _read_csv(path: Path, shape: Shape) -> Profile:
    """Columns model, block_length, concurrency, cycle_ms: draft and verify cycles of one B200, as published."""
    wanted = next(part for part, known in _SHAPES if known is shape).upper()
    cycles, models = [], set()
    for row in rows(path, ("model", "block_length", "concurrency", "cycle_ms")):
        models.add(row.values["model"])
        if row.values["model"].upper() != wanted:
            continue
        try:
            point = speculation(int(row.number("block_length", 1)))
        except ValueError as error:
            raise row.wrong("block_length", "4, 8, 16, 32 or 64") from error
        batch = int(row.number("concurrency", 1))
        cycles.append(ProfileCycle(point=str(point), batch=batch, seconds=row.number("cycle_ms", 1e-6) / 1e3))
    if not cycles:
        raise BadInput(f"{path}: has no rows of model {wanted}; found {', '.join(sorted(models)) or 'none'}")
    return Profile(name=path.name, device="B200", cycles=tuple(cycles))
