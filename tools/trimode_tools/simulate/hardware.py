"""Hardware and models: from `--profile` and the resource to a true curve and a prior."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

from trimode_api.modes import OperatingPoint, speculation
from trimode_api.resource import NemotronDeployment
from trimode_local.errors import BadInput
from trimode_policy.profiles import PROFILES, HardwareProfile, generic_cpu
from trimode_policy.roofline import ModelShape, Roofline
from trimode_tools.simulate.csv_rows import rows
from trimode_tools.simulate.profile_file import DEFAULT_GPU, Profile, ProfileCycle, ProfileShape, read_profile
from trimode_tools.simulator.cost_model import GAIN_BY_LENGTH, Hardware, ProfiledHardware

_SHAPES = {
    part: ProfileShape(parameters=parameters, layers=layers, kv_heads=kv_heads, head_dim=head_dim, bytes_per_value=size)
    for part, parameters, layers, kv_heads, head_dim, size in (
        ("14b", 13_600_000_000, 40, 8, 128, 2),
        ("3b", 3_850_000_000, 26, 8, 128, 2),
        ("tiny", 1_770_000, 4, 2, 32, 4),
        ("8b", 8_600_000_000, 34, 8, 128, 2),
    )
}
"""By what the model's uri contains; bf16 sizes of the published checkpoints."""
NOISE = 0.05
"""Standard deviation of the logarithm of one cycle's seconds, where it was not measured."""


@dataclass(frozen=True, slots=True)
class Machine:
    """`truth`: real seconds. `prior`: what a policy starts from. `cached_tokens`: room for keys and values.

    `tokens`: per cycle, by point, where they were measured; `kinds`: the same by kind of request. `noise`: standard
    deviation of the logarithm of one cycle's seconds. `model`: the one it was measured with, None for priors.
    """

    name: str
    truth: Hardware
    prior: Roofline
    cached_tokens: float
    gpu: bool
    tokens: Mapping[OperatingPoint, float] = field(default_factory=dict)
    kinds: Mapping[str, Mapping[OperatingPoint, float]] = field(default_factory=dict)
    noise: float = NOISE
    model: str | None = None


def machine(deployment: NemotronDeployment, profile: str | None) -> Machine:
    """The machine under one replica. Raises BadInput or InvalidInput for a profile that cannot be used."""
    shape = shape_of(deployment.spec.model.uri)
    gpus = max(pool.resources.gpus for pool in deployment.spec.pools)
    if profile is None:
        device = PROFILES[DEFAULT_GPU] if gpus else generic_cpu(2, shape.layers)
        return _assembled(Profile(name=f"{device.name} (prior)"), device, shape, gpus > 0)
    if profile in PROFILES:
        return _assembled(Profile(name=f"{profile} (prior)"), PROFILES[profile], shape, True)
    path = Path(profile)
    if path.suffix == ".csv":
        return assembled(_read_csv(path, shape), shape)
    if not path.exists():
        raise BadInput(f"--profile {path}: is neither one of {', '.join(PROFILES)} nor a file that exists")
    return assembled(read_profile(path), shape)


def assembled(profile: Profile, shape: ProfileShape) -> Machine:
    """The machine that a profile tells of; `shape` where it does not tell the model's. Raises BadInput."""
    shape = profile.shape or shape
    if profile.device == "cpu":
        return _assembled(profile, generic_cpu(2, shape.layers), shape, False)
    known = PROFILES.get(profile.device)
    if known is None:
        figures = (profile.bytes_per_s, profile.flops_per_s, profile.memory_bytes, profile.overhead_s)
        if any(figure is None for figure in figures):
            raise BadInput(
                f"profile {profile.name}: device is {profile.device!r}, must be cpu or one of {', '.join(PROFILES)}, "
                "or any other where bytes_per_s, flops_per_s, overhead_s and memory_bytes are given"
            )
        bytes_per_s, flops_per_s, memory_bytes, overhead_s = (figure or 0.0 for figure in figures)
        known = HardwareProfile(profile.device, bytes_per_s, flops_per_s, memory_bytes, overhead_s, True, profile.name)
    return _assembled(profile, known, shape, True)


def shape_of(uri: str) -> ProfileShape:
    """The shape of a known model by its uri; the 8B one where nothing fits."""
    return next((shape for part, shape in _SHAPES.items() if part in uri.lower()), _SHAPES["8b"])


def _assembled(profile: Profile, device: HardwareProfile, shape: ProfileShape, gpu: bool) -> Machine:
    roofline = Roofline.for_model(
        ModelShape(**shape.model_dump()),
        flops_per_s=profile.flops_per_s or device.flops_per_s,
        bytes_per_s=profile.bytes_per_s or device.bytes_per_s,
        overhead_s=device.overhead_s if profile.overhead_s is None else profile.overhead_s,
    )
    truth = ProfiledHardware.measured(
        roofline,
        [(OperatingPoint.parse(c.point), c.batch, profile.context_of(c), c.seconds) for c in profile.cycles],
        [(p.mode, p.tokens, p.seconds) for p in profile.prompts],
    )
    free = 0.9 * (profile.memory_bytes or device.memory_bytes) - roofline.weight_bytes
    if free <= 0:
        raise BadInput(
            f"{profile.name}: the model's {roofline.weight_bytes / 1e9:.1f} GB of weights do not fit; "
            "take a profile with more memory_bytes"
        )
    return Machine(
        profile.name,
        truth if profile.cycles or profile.prompts else roofline,
        roofline,
        free / roofline.kv_bytes_per_token,
        gpu,
        _points(profile.tokens_per_cycle),
        {kind: _points(tokens) for kind, tokens in profile.kinds.items()},
        NOISE if profile.noise is None else profile.noise,
        profile.model,
    )


def _points(tokens: Mapping[str, float]) -> dict[OperatingPoint, float]:
    return {OperatingPoint.parse(name): value for name, value in tokens.items()}


def _read_csv(path: Path, shape: ProfileShape) -> Profile:
    """Columns model, block_length, concurrency, cycle_ms: draft and verify cycles of one B200, as published."""
    wanted = next(part for part, known in _SHAPES.items() if known is shape).upper()
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


@dataclass(frozen=True, slots=True)
class Acceptance:
    """Tokens per cycle at block length 32, by kind; `measured`: by point, for each kind or one number for all."""

    kinds: tuple[str, ...]
    tokens: tuple[float, ...]
    measured: Mapping[OperatingPoint, tuple[float, ...]] = field(default_factory=dict)


BUILT_IN = Acceptance(
    ("coding", "math", "reasoning", "multilingual", "humanities", "qa", "rag", "roleplay", "stem", "summarization",
     "writing"),
    (8.57, 8.14, 7.99, 10.06, 6.31, 4.65, 6.15, 5.54, 7.02, 5.48, 5.07),
)  # fmt: skip
"""The model with its draft LoRA on SPEED-Bench (Nemotron-Labs-Diffusion paper, table 10)."""


def acceptance_of(machine: Machine, file: Path | None, drafter: str) -> Acceptance:
    """The table in `file`, else the kinds that the machine's profile measured, at points measured for all of
    them, else the built-in table.

    What a profile measured over all kinds holds for each kind of a table.
    """
    if file is None:
        kinds = tuple(machine.kinds)
        every = [set(machine.kinds[kind]) for kind in kinds]
        common = [p for p in set().union(*every).intersection(*every) if p.mode.speculates]
        if points := sorted(common, key=lambda point: (point.block_length, str(point))):
            measured = {point: tuple(machine.kinds[kind][point] for kind in kinds) for point in points}
            longest = points[-1]
            gain = GAIN_BY_LENGTH[longest.block_length]
            return Acceptance(kinds, tuple(1.0 + (tokens - 1.0) / gain for tokens in measured[longest]), measured)
    table = BUILT_IN if file is None else read_acceptance(file, drafter)
    return Acceptance(table.kinds, table.tokens, {point: (tokens,) for point, tokens in machine.tokens.items()})


def read_acceptance(path: Path, drafter: str) -> Acceptance:
    """The row of `drafter` in a CSV with the column `drafter` and one column per kind."""
    found = []
    for row in rows(path, ("drafter",)):
        found.append(row.values["drafter"])
        if row.values["drafter"] == drafter:
            kinds = tuple(column for column in row.values if column != "drafter")
            if not kinds:
                raise BadInput(f"{path}, line 1: no column beside drafter; write one per kind of request")
            return Acceptance(kinds, tuple(row.number(kind, 1.0) for kind in kinds))
    raise BadInput(f"{path}: has no drafter {drafter!r}; found {', '.join(found) or 'none'}")
