"""Recorded loads: Azure LLM inference CSV, Mooncake JSONL, BurstGPT CSV.

Tiers and kinds, which the formats lack, are drawn by the seed. Rows become `Job`s in order of arrival; the first
arrives at second 0.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from datetime import datetime
from enum import StrEnum
from pathlib import Path
from random import Random
from typing import Any

from trimode_local.errors import BadInput
from trimode_tools.simulate.csv_rows import rows
from trimode_tools.simulator.workload import Job, tier_of

_EPOCH = datetime(1970, 1, 1)


class TraceFormat(StrEnum):
    """Whose format."""

    AZURE = "azure"
    MOONCAKE = "mooncake"
    BURSTGPT = "burstgpt"


@dataclass(frozen=True, slots=True)
class Arrival:
    """A row of a trace: second, tokens in and out."""

    at: float
    prompt: int
    output: int


def read_trace(path: Path, form: TraceFormat) -> list[Arrival]:
    """All requests, in order of arrival from second 0. Raises BadInput with file, line and what is allowed."""
    found = sorted(_READERS[form](path), key=lambda arrival: arrival.at)
    if not found:
        raise BadInput(f"{path}: holds no request")
    start = found[0].at
    return [Arrival(a.at - start, a.prompt, a.output) for a in found]


@dataclass(frozen=True, slots=True)
class Mix:
    """What a trace lacks: a share `premium` of requests is in the first of `tiers`, the rest in the others; kinds are
    equally likely."""

    premium: float
    tiers: int
    kinds: int


def as_jobs(arrivals: list[Arrival], time_scale: float, mix: Mix, rng: Random) -> list[Job]:
    """Jobs, time run `time_scale` times as fast."""
    jobs = []
    for arrival in arrivals:
        tier, kind = tier_of(mix.tiers, mix.premium, rng), int(rng.random() * mix.kinds)
        jobs.append(Job(arrival.at / time_scale, arrival.prompt, arrival.output, tier, kind))
    return jobs


def _azure(path: Path) -> Iterator[Arrival]:
    """Azure Public Dataset: TIMESTAMP, ContextTokens, GeneratedTokens."""
    for row in rows(path, ("TIMESTAMP", "ContextTokens", "GeneratedTokens")):
        text = row.values["TIMESTAMP"]
        try:
            # Seven digits of fraction are one more than datetime reads.
            at = (datetime.fromisoformat(text[:26]) - _EPOCH).total_seconds()
        except ValueError:
            raise row.wrong("TIMESTAMP", "a time such as 2023-11-16 18:15:46.6805900") from None
        yield Arrival(at, int(row.number("ContextTokens", 1)), max(1, int(row.number("GeneratedTokens"))))


def _burstgpt(path: Path) -> Iterator[Arrival]:
    """BurstGPT: Timestamp (seconds), Request tokens, Response tokens; failed requests (no response) are left out."""
    for row in rows(path, ("Timestamp", "Request tokens", "Response tokens")):
        output = int(row.number("Response tokens"))
        if output:
            yield Arrival(row.number("Timestamp"), max(1, int(row.number("Request tokens"))), output)


def _mooncake(path: Path) -> Iterator[Arrival]:
    """Mooncake: one JSON object per line with timestamp (milliseconds), input_length, output_length."""
    needed = ("timestamp", "input_length", "output_length")
    try:
        with path.open(encoding="utf-8") as file:
            for number, line in enumerate(file, 1):
                if not line.strip():
                    continue
                record: Any = json.loads(line)
                for field in needed:
                    value = record.get(field) if isinstance(record, dict) else None
                    if isinstance(value, bool) or not isinstance(value, int | float) or not 0 <= value < float("inf"):
                        raise BadInput(
                            f"{path}, line {number}: {field} is {value!r}, must be a number of at least 0; "
                            f"needed are {', '.join(needed)}"
                        )
                prompt, output = max(1, int(record["input_length"])), max(1, int(record["output_length"]))
                yield Arrival(record["timestamp"] / 1e3, prompt, output)
    except json.JSONDecodeError as error:
        raise BadInput(f"{path}, line {number}: is not JSON: {error.msg}") from error
    except OSError as error:
        raise BadInput(f"{path}: cannot be read: {error.strerror}") from error


_READERS: dict[TraceFormat, Callable[[Path], Iterator[Arrival]]] = {
    TraceFormat.AZURE: _azure,
    TraceFormat.MOONCAKE: _mooncake,
    TraceFormat.BURSTGPT: _burstgpt,
}
