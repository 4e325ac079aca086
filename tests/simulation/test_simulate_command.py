"""`trimode simulate` end to end, its contract and its complaints."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import typer
from typer.testing import CliRunner

from trimode_api.errors import TrimodeError
from trimode_local.errors import BadInput
from trimode_tools.simulate.command import simulate

ROOT = Path(__file__).parents[2]
EXAMPLE = str(ROOT / "examples/simulate-h200.yaml")
QUICK = ["--duration", "6", "--window", "3", "--width", "1", "--rate", "20", "--no-plots"]

Simulate = Callable[..., Any]


@pytest.fixture
def command(tmp_path: Path) -> Simulate:
    """Run the command; returns what it wrote, raises what it raised."""
    app = typer.Typer(pretty_exceptions_enable=False)
    app.command()(simulate)

    def go(*arguments: str, file: str = EXAMPLE) -> Any:
        result = CliRunner().invoke(app, ["-f", file, "--out", str(tmp_path / "out"), *arguments])
        if result.exception is not None and isinstance(result.exception, TrimodeError):
            raise result.exception
        assert result.exit_code == 0, result.output
        return json.loads((tmp_path / "out/results.json").read_text())

    return go


def test_the_contract_of_results_json(command: Simulate) -> None:
    found = command("--load", "steps", "--load", "spikes", "--switch-cost", "0", "--switch-cost", "5", *QUICK)
    assert found.keys() == {"loads"}
    assert [(load["name"], load["switch_cost_s"]) for load in found["loads"]] == [
        ("steps", 0.0),
        ("steps", 5.0),
        ("spikes", 0.0),
        ("spikes", 5.0),
    ]
    for load in found["loads"]:
        assert load.keys() == {"name", "switch_cost_s", "policies"}
        assert [row["policy"] for row in load["policies"]] == [
            "static:AR",
            "static:S8",
            "static:S16",
            "static:S32",
            "split",
            "hysteresis",
            "trimode",
            "oracle",
        ]
        for row in load["policies"]:
            assert row.keys() == {
                "policy",
                "goodput_rps",
                "offered_rps",
                "attainment_percent",
                "ttft_ms",
                "tpot_ms",
                "switches_per_replica_hour",
                "pool_moves_per_hour",
                "regret_percent",
            }
            assert row["attainment_percent"].keys() == {"premium", "standard"}
            assert row["ttft_ms"].keys() == row["tpot_ms"].keys() == {"p50", "p95", "p99"}
            assert 0 <= row["goodput_rps"] <= row["offered_rps"]
            assert row["regret_percent"] >= 0
        assert load["policies"][-1]["regret_percent"] == 0


def test_the_same_seed_writes_the_same_file(command: Simulate) -> None:
    arguments = ("--load", "tiers", "--stress", "--policies", "static:S8,trimode", *QUICK)
    once = command(*arguments, "--seed", "7")
    assert once == command(*arguments, "--seed", "7")
    assert once != command(*arguments, "--seed", "8")
    assert once["loads"][0]["name"] == "tiers+stress"
    assert once["loads"][0]["policies"][0]["regret_percent"] is None


def test_a_trace_on_the_tiny_model_with_plots(command: Simulate, tmp_path: Path) -> None:
    trace = tmp_path / "mine.jsonl"
    lines = [{"timestamp": 100 * i, "input_length": 50, "output_length": 20} for i in range(40)]
    trace.write_text("\n".join(map(json.dumps, lines)))
    found = command(
        "--trace",
        str(trace),
        "--trace-format",
        "mooncake",
        "--time-scale",
        "2",
        "--policies",
        "static:AR,trimode",
        file=str(ROOT / "examples/tiny.yaml"),
    )
    (load,) = found["loads"]
    assert load["name"] == "mine"
    assert load["policies"][0]["offered_rps"] == pytest.approx(40 / 1.95, rel=1e-3)
    assert {path.name for path in (tmp_path / "out").iterdir()} == {
        "results.json",
        "mine-0s-points.png",
        "mine-0s-attainment.png",
    }


def test_a_measured_profile(command: Simulate, tmp_path: Path) -> None:
    profile = tmp_path / "mine.json"
    cycles = [{"point": "AR", "batch": b, "seconds": 0.02} for b in (1, 64)]
    profile.write_text(json.dumps({"device": "H200", "cycles": cycles, "tokens_per_cycle": {"S8": 4.0}}))
    found = command("--profile", str(profile), "--load", "steps", "--policies", "static:AR", *QUICK)
    assert found["loads"][0]["policies"][0]["tpot_ms"]["p50"] > 15


@pytest.mark.parametrize(
    ("arguments", "complaint"),
    [
        (("--switch-cost", "-1"), "--switch-cost is -1, must be a number of at least 0"),
        (("--switch-cost", "nan"), "--switch-cost is nan"),
        (("--time-scale", "0"), "--time-scale is 0"),
        (("--load", "waves"), "--load is 'waves', must be one of steps, diurnal, spikes"),
        (("--trace-format", "csv"), "--trace-format is 'csv', must be one of azure, mooncake, burstgpt"),
        (("--policies", "static:S64"), "--policies names 'static:S64', must be one of static:AR"),
        (("--policies", "split:AR"), "--policies names 'split:AR', must be one of static:AR"),
        (("--profile", "H300"), "--profile H300: is neither one of A100, H100, H200, B200, L4 nor a file"),
        (("--premium", "1.5"), "--premium is 1.5, must be between 0 and 1"),
        (("--trace", "/nowhere.csv"), "/nowhere.csv: cannot be read"),
    ],
)
def test_bad_input_names_option_value_and_what_is_allowed(
    command: Simulate, arguments: tuple[str, ...], complaint: str
) -> None:
    with pytest.raises(BadInput, match=complaint.replace("(", r"\(")):
        command(*arguments)


def test_a_model_too_large_for_the_device_is_refused(command: Simulate, tmp_path: Path) -> None:
    text = Path(EXAMPLE).read_text().replace("Diffusion-8B", "Diffusion-14B")
    large = tmp_path / "large.yaml"
    large.write_text(text)
    with pytest.raises(BadInput, match="weights do not fit"):
        command("--profile", "L4", file=str(large))


def test_a_single_mode_leaves_nothing_to_compare(command: Simulate, tmp_path: Path) -> None:
    only = tmp_path / "only.yaml"
    only.write_text(Path(EXAMPLE).read_text().replace("[AR, SelfSpeculation]", "[AR]"))
    with pytest.raises(BadInput, match="must allow both AR and SelfSpeculation"):
        command(file=str(only))
