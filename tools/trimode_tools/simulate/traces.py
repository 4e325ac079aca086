"""Recorded loads: Azure LLM inference CSV, Mooncake JSONL, BurstGPT CSV.

Belongs here: the formats, and what they lack: tiers and kinds are drawn by the seed. Rows become `Job`s in order of
arrival; the first arrives at second 0.
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
from trimode_tools.simulator.workload import Job

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


def as_jobs(
    arrivals: list[Arrival], time_scale: float, premium: float, tiers: int, kinds: int, chance: Random
) -> list[Job]:
    """Jobs, time run `time_scale` times as fast; a share `premium` goes to the first tier, the rest to the others."""
    jobs = []
    for arrival in arrivals:
        first = tiers == 1 or chance.random() < premium
        tier = 0 if first else 1 + int(chance.random() * (tiers - 1))
        kind = int(chance.random() * kinds)
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
    try:
        with path.open(encoding="utf-8") as file:
            for number, line in enumerate(file, 1):
                if line.strip():
                    yield _mooncake_row(path, number, line)
    except OSError as error:
        raise BadInput(f"{path}: cannot be read: {error.strerror}") from error


def _mooncake_row(path: Path, number: int, line: str) -> Arrival:
    try:
        record: Any = json.loads(line)
    except json.JSONDecodeError as error:
        raise BadInput(f"{path}, line {number}: is not JSON: {error.msg}") from error
    needed = ("timestamp", "input_length", "output_length")
    for field in needed:
        value = record.get(field) if isinstance(record, dict) else None
        if isinstance(value, bool) or not isinstance(value, int | float) or not 0 <= value < float("inf"):
            raise BadInput(
                f"{path}, line {number}: {field} is {value!r}, must be a number of at least 0; "
                f"needed are {', '.join(needed)}"
            )
    return Arrival(record["timestamp"] / 1e3, max(1, int(record["input_length"])), max(1, int(record["output_length"])))


_READERS: dict[TraceFormat, Callable[[Path], Iterator[Arrival]]] = {
    TraceFormat.AZURE: _azure,
    TraceFormat.MOONCAKE: _mooncake,
    TraceFormat.BURSTGPT: _burstgpt,
}
