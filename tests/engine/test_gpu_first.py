"""`make gpu-first` on a processor, with a toy: every section runs, and a limit leaves a whole file behind."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch

from trimode_lab.gpu.first import measure
from trimode_lab.gpu.report import Report, Result
from trimode_lab.gpu.sizes import NEMOTRON_8B, parameters


def test_every_section_measures_something(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    report = Report(tmp_path / "found.json", 300.0)
    cudnn = torch.backends.cuda.cudnn_sdp_enabled()
    measure(report, toy=True, tests=False)
    torch.backends.cuda.enable_cudnn_sdp(cudnn)
    found = json.loads((tmp_path / "found.json").read_text())
    assert found["skipped"] == []
    assert {r["section"] for r in found["results"]} == {"device", "sdpa", "attention", "cycle", "sampling"}
    cycles = {r["case"]: r["values"] for r in found["results"] if r["section"] == "cycle"}
    assert set(cycles) == {"AR x 1", "S8 x 1", "AR x 3", "S8 x 3"}
    assert all(values["ms"] > 0 and values["cached_tokens"] >= 17 for values in cycles.values())
    assert any(r["case"].startswith("reference ") and r["values"]["us"] > 0 for r in found["results"])
    assert len(capsys.readouterr().out.splitlines()) == len(found["results"])


def test_what_the_limit_cuts_off_is_named_and_a_failure_ends_only_its_section(tmp_path: Path) -> None:
    now = [0.0]

    def slow() -> Iterator[Result]:
        for number in range(9):
            now[0] += 4
            yield Result("slow", str(number), {"seconds": 4.0})

    def broken() -> Iterator[Result]:
        yield Result("broken", "one", {})
        raise RuntimeError("no kernel image is available")

    report = Report(tmp_path / "found.json", 10.0, lambda: now[0])
    report.take("broken", broken())
    report.take("slow", slow())
    report.take("late", slow())
    found = json.loads((tmp_path / "found.json").read_text())
    assert [r["section"] for r in found["results"]] == ["broken", "slow", "slow", "slow"]
    assert found["skipped"] == [
        "broken: RuntimeError: no kernel image is available",
        "slow: no time left",
        "late: no time left",
    ]


def test_the_8b_has_the_published_number_of_weights() -> None:
    """16 GiB in bfloat16, of which the embedding is one GiB."""
    assert 2 * (parameters(NEMOTRON_8B) + NEMOTRON_8B.vocab_size * NEMOTRON_8B.hidden_size) / 2**30 == pytest.approx(
        16, abs=0.2
    )
