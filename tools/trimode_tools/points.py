"""Operating points as the command line names them and as a request asks for them."""

from __future__ import annotations

from typing import Any

from trimode_api.modes import Mode, OperatingPoint
from trimode_local.errors import BadInput


def parse(text: str) -> tuple[OperatingPoint, ...]:
    """`AR,S8,D32@0.9`, each point once. Raises BadInput naming `--points`."""
    try:
        return tuple(dict.fromkeys(OperatingPoint.parse(part.strip()) for part in text.split(",")))
    except ValueError as exc:
        raise BadInput(f"--points: {exc}") from exc


def pin(point: str) -> dict[str, Any]:
    """The extension `trimode` of a request that pins it to `point`."""
    parsed = OperatingPoint.parse(point)
    options: dict[str, Any] = {"mode": parsed.mode.value}
    if parsed.mode is not Mode.AR:
        options["blockLength"] = parsed.block_length
    if parsed.threshold is not None:
        options["threshold"] = parsed.threshold
    return options
