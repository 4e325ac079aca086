"""The comparison with other routers: its arithmetic, its page, and one small run."""

from __future__ import annotations

import json
import shutil
import subprocess
from dataclasses import replace
from pathlib import Path

import pytest

from trimode_lab.router.bench.load import Result, Scenario
from trimode_lab.router.rivals.candidates import RIVALS, free_port
from trimode_lab.router.rivals.measure import CORES, DIRECT, ON_ALL_CORES, OURS, Outcome, compare, installed
from trimode_lab.router.rivals.report import table, write

RESULT = Result("short", 100, 0, 50.0, 0.1, 10.0, 1.0, 2.0, 60.0)


def outcome(candidate: str, scenario: str, *costs: float, **changes: float) -> Outcome:
    rounds = (replace(RESULT, name=scenario, cpu_ms_per_request=c, cpu_us_per_chunk=10 * c, **changes) for c in costs)
    return Outcome(candidate, scenario, tuple(rounds))


def some() -> list[Outcome]:
    return [
        outcome(DIRECT, "alone", 0.01, first_byte_ms_p50=0.5),
        outcome(OURS, "alone", 0.1, first_byte_ms_p50=0.7),
        outcome("nginx", "alone", 0.1, first_byte_ms_p50=0.6),
        outcome(OURS, "short", 1.0, 2.0, 9.0),
        outcome("nginx", "short", 2.0, 4.0, 3.0),
        outcome("broken", "short", 1.0, errors=3),
    ]


def test_ratios_are_of_paired_rounds() -> None:
    """A round that was slow for both counts like any other."""
    ours, nginx = some()[3:5]
    assert ours.median("cpu_ms_per_request") / nginx.median("cpu_ms_per_request") == pytest.approx(2 / 3)
    assert ours.ratio(nginx, "cpu_ms_per_request") == pytest.approx(0.5)


def test_the_table_says_who_failed_and_what_was_not_measured() -> None:
    rows = {line.split("|")[1].strip(): line for line in table(some()).splitlines()[2:]}
    assert list(rows) == [OURS, "nginx", "broken"]
    assert "(0.50x)" in rows["nginx"]
    assert "0.20 / 0.00" in rows[OURS]
    assert "requests failed" in rows["broken"]
    assert rows["nginx"].endswith("| - |")


def test_the_page_is_filled_in_and_stays_as_it_is_around(tmp_path: Path) -> None:
    pytest.importorskip("matplotlib")
    page = tmp_path / "router.md"
    page.write_text("before\n<!-- bench: begin -->\nold\n<!-- bench: end -->\nafter\n")
    write(some(), tmp_path, {"cores": 2})
    text = page.read_text()
    assert text.startswith("before\n")
    assert text.endswith("\nafter\n")
    assert "old" not in text
    assert "cores 2." in text
    assert len(json.loads((tmp_path / "bench-router.json").read_text())["outcomes"]) == 6
    assert (tmp_path / "bench-router.png").stat().st_size > 1000


def test_who_is_not_installed_is_left_out(tmp_path: Path) -> None:
    assert installed(str(tmp_path)) == {}
    (tmp_path / "nginx").write_text("#!/bin/sh\n")
    (tmp_path / "nginx").chmod(0o755)
    assert [candidate.name for candidate in installed(str(tmp_path))] == ["nginx"]


@pytest.mark.parametrize(("binary", "check"), [("nginx", "-t"), ("haproxy", "-c")])
def test_configurations_are_valid(tmp_path: Path, binary: str, check: str) -> None:
    found = shutil.which(binary, path="/usr/sbin:/usr/bin:/usr/local/sbin:/usr/local/bin")
    if found is None:
        pytest.skip(f"NO {binary} on this machine: apt install {binary}")
    (candidate,) = [each for each in RIVALS if each.binary == binary]
    arguments = candidate.command(tmp_path, free_port(), [free_port(), free_port()])
    done = subprocess.run([found, check, *arguments], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr


@pytest.mark.slow
def test_a_small_run() -> None:
    outcomes = compare(Scenario("short", clients=2, chunks=3, pause_ms=0, seconds=0.5), {}, rounds=2)
    assert [each.candidate for each in outcomes] == [DIRECT, OURS, *([ON_ALL_CORES] if CORES > 1 else [])]
    assert not any(each.failed for each in outcomes)
    assert all(len(each.rounds) == 2 for each in outcomes)
