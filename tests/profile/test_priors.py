"""The priors in the documentation are those in the code, and they say that they are priors."""

from __future__ import annotations

from pathlib import Path

from trimode_policy.profiles import ARITHMETIC_REACHED, BANDWIDTH_REACHED, PROFILES

PAGE = Path(__file__).parents[2] / "docs/profile.md"


def test_the_documented_priors_are_those_used() -> None:
    rows = {
        cells[0]: tuple(float(cell) for cell in cells[1:])
        for line in PAGE.read_text(encoding="utf-8").splitlines()
        if len(cells := [cell.strip() for cell in line.strip("|").split("|")]) == 4 and cells[0] in PROFILES
    }
    assert rows.keys() == {"A100", "H100", "H200", "B200", "L4"} == PROFILES.keys()
    for name, (terabytes, teraflops, gigabytes) in rows.items():
        profile = PROFILES[name]
        assert not profile.measured
        assert "data sheet" in profile.source
        assert round(profile.bytes_per_s / BANDWIDTH_REACHED / 1e12, 6) == terabytes
        assert round(profile.flops_per_s / ARITHMETIC_REACHED / 1e12, 6) == teraflops
        assert round(profile.memory_bytes / 1e9, 6) == gigabytes
