"""The profile's file: YAML (or JSON) with measured cycles.

What a simulation makes of it is in `simulate.hardware`.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any

import yaml
from pydantic import AfterValidator, BaseModel, ConfigDict, Field, ValidationError

from trimode_api.errors import InvalidInput, problems_of
from trimode_api.modes import Mode, OperatingPoint
from trimode_local.errors import BadInput

DEFAULT_GPU = "H200"
HEAD = """\
# Measured by `trimode profile`; read by `trimode simulate --profile`. Seconds are means of whole cycles.
"""


Point = Annotated[str, AfterValidator(lambda text: str(OperatingPoint.parse(text)))]
Positive = Annotated[float, Field(gt=0, allow_inf_nan=False)]
NotNegative = Annotated[float, Field(ge=0, allow_inf_nan=False)]
Acceptance = Annotated[float, Field(ge=1, le=64)]


class Part(BaseModel):
    """Frozen; unknown fields are errors."""

    model_config = ConfigDict(extra="forbid", frozen=True)


class ProfileCycle(Part):
    """A cycle of `batch` decoding requests and no prompts. `context_tokens`: cached per request, in the mean; left
    out, that of the whole profile."""

    point: Point
    batch: int = Field(ge=1)
    context_tokens: NotNegative | None = None
    seconds: Positive


class ProfilePrompts(Part):
    """By how many seconds so many prompt tokens lengthen a cycle that they share."""

    mode: Mode
    tokens: int = Field(ge=1)
    seconds: NotNegative


class ProfileShape(Part):
    """The model that was measured, as the roofline needs it. `parameters`: read by every forward."""

    parameters: int = Field(ge=1)
    layers: int = Field(ge=1)
    kv_heads: int = Field(ge=1)
    head_dim: int = Field(ge=1)
    bytes_per_value: int = Field(ge=1, le=8)


class Profile(Part):
    """A measured engine.

    `model`: its uri. `device`: `cpu`, a known GPU, or any other name where the four figures below are given.
    `bytes_per_s`, `flops_per_s`, `overhead_s`: the roofline between and beyond what was measured; a known device gives
    them too. `context_tokens`: of cycles that do not say their own. `noise`: standard deviation of the logarithm of
    one cycle's seconds. `tokens_per_cycle`: by point, as if no answer ended within a cycle; `kinds`: the same for each
    kind of request; `acceptance_length`: tokens over cycles with the last cycles of answers, as `trimode eval` counts.
    `about`: on what and how it was measured, for people.
    """

    name: str = "measured"
    model: str | None = None
    device: str = Field(default=DEFAULT_GPU, min_length=1)
    bytes_per_s: Positive | None = None
    flops_per_s: Positive | None = None
    overhead_s: NotNegative | None = None
    memory_bytes: Positive | None = None
    shape: ProfileShape | None = None
    context_tokens: NotNegative = 500.0
    noise: Annotated[float, Field(ge=0, le=1)] | None = None
    cycles: tuple[ProfileCycle, ...] = ()
    prompts: tuple[ProfilePrompts, ...] = ()
    tokens_per_cycle: Mapping[Point, Acceptance] = {}
    acceptance_length: Mapping[Point, Acceptance] = {}
    kinds: Mapping[str, Mapping[Point, Acceptance]] = {}
    about: Mapping[str, Any] = {}

    @property
    def points(self) -> tuple[OperatingPoint, ...]:
        """Those measured, in their order in the file."""
        return tuple(dict.fromkeys(OperatingPoint.parse(cycle.point) for cycle in self.cycles))

    def context_of(self, cycle: ProfileCycle) -> float:
        """Cached tokens per request of that cycle."""
        return self.context_tokens if cycle.context_tokens is None else cycle.context_tokens


def read_profile(path: Path) -> Profile:
    """Raises BadInput for a file that cannot be read, InvalidInput naming every field that is wrong."""
    try:
        text = path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        reason = error.strerror if isinstance(error, OSError) else "not text in UTF-8"
        raise BadInput(f"profile {path}: cannot be read: {reason}") from error
    try:
        data = yaml.safe_load(text)
    except yaml.YAMLError as error:
        raise BadInput(f"profile {path}: not valid YAML: {' '.join(str(error).split())}") from error
    if not isinstance(data, dict):
        raise BadInput(f"profile {path}: must be a mapping with cycles, tokens_per_cycle and so on")
    try:
        return Profile.model_validate(data)
    except ValidationError as error:
        raise InvalidInput(problems_of(error), f"profile {path}") from error


def write_profile(profile: Profile, path: Path) -> None:
    """One line for each measured value, so that two profiles can be compared line by line."""
    data = profile.model_dump(mode="json", exclude_none=True)
    text = yaml.dump(data, Dumper=_Dumper, sort_keys=False, width=200, default_flow_style=False)
    path.write_text(HEAD + text, encoding="utf-8")


class _Dumper(yaml.SafeDumper):
    """Mappings of plain values, other than the whole file, on one line; floats with six digits."""

    def represent_mapping(self, tag: str, mapping: Any, flow_style: bool | None = None) -> yaml.MappingNode:
        values = mapping.values() if isinstance(mapping, dict) else [value for _, value in mapping]
        flat = not any(isinstance(value, dict | list) for value in values)
        return super().represent_mapping(tag, mapping, flow_style=flat)

    def represent_float(self, data: float) -> yaml.ScalarNode:
        mantissa, exponent, power = f"{data:.6g}".partition("e")
        if "." not in mantissa:  # YAML takes 1e-05 for text
            mantissa += ".0"
        return self.represent_scalar("tag:yaml.org,2002:float", mantissa + exponent + power)


# PyYAML finds a plain type's function in a table, not by the method's name.
_Dumper.add_representer(float, _Dumper.represent_float)
