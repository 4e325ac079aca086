"""What a replica on SGLang is told beyond what every engine is."""

from __future__ import annotations

from typing import Self

from pydantic import BaseModel, ConfigDict, Field, model_validator

from trimode_api.modes import AR, BLOCK_LENGTHS, Mode, OperatingPoint, diffusion, speculation
from trimode_api.serving import reserved

COMMAND = ("python3", "-m", "sglang.launch_server")
COMMAND_VARIABLE = "TRIMODE_SGLANG_COMMAND"
"""Environment variable with another command, such as the path of an interpreter that has SGLang."""


class SGLangOptions(BaseModel):
    """One mode, with its block lengths (self-speculation: several, by batch; diffusion: one, with its threshold).

    `gpus` is the tensor parallel size. `command` starts the server. The server must answer within `start_timeout_s`:
    it loads weights and captures graphs, which takes minutes.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    mode: Mode
    block_lengths: tuple[int, ...] = ()
    threshold: float | None = None
    gpus: int = Field(default=1, ge=1)
    args: tuple[str, ...] = ()
    command: tuple[str, ...] = Field(default=COMMAND, min_length=1)
    start_timeout_s: float = Field(default=1800.0, gt=0)

    @model_validator(mode="after")
    def _fits(self) -> Self:
        if found := reserved(self.args):
            raise ValueError(f"args: {', '.join(found)}: follows from the resource; leave it out")
        if self.mode is not Mode.AR and "--attention-backend" in " ".join(self.args):
            raise ValueError(f"args: --attention-backend: {self.mode} needs flashinfer, which is set; leave it out")
        if self.mode is Mode.QUADRATIC:
            raise ValueError(f"mode: SGLang has no {self.mode}")
        if self.mode is Mode.AR:
            return self
        wrong = [length for length in self.block_lengths if length not in BLOCK_LENGTHS]
        if wrong or not self.block_lengths:
            raise ValueError(f"block_lengths: {list(self.block_lengths)}; allowed are some of {list(BLOCK_LENGTHS)}")
        if self.mode is Mode.DIFFUSION and (len(self.block_lengths) != 1 or self.threshold is None):
            raise ValueError("Diffusion takes one block length and a threshold")
        return self

    @property
    def points(self) -> tuple[OperatingPoint, ...]:
        """What the server may run, shortest block first."""
        if self.mode is Mode.AR:
            return (AR,)
        if self.mode is Mode.DIFFUSION:
            return (diffusion(self.block_lengths[0], self.threshold or 1.0),)
        return tuple(speculation(length) for length in sorted(self.block_lengths))
