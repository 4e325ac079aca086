"""`trimode profile` on the real tiny engine, with little to measure; no time is asserted."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from trimode_api.modes import AR, Mode, OperatingPoint, speculation
from trimode_cli.main import main
from trimode_policy.roofline import Roofline
from trimode_tools.profile.fit import Answered, fit_roofline
from trimode_tools.profile.harness import EngineHarness, Turn
from trimode_tools.profile.measure import QUICK, Measurement, Plan, measure_round, powers_to, with_ar
from trimode_tools.profile.show import cells_at, colours_of, crossovers, cycles_table, draw, sentences, tokens_per_s
from trimode_tools.profile.validate import Asked, Comparison, Outcome, RealLoop, only_replica, predict, typical
from trimode_tools.simulate.profile_file import Profile, read_profile
from trimode_tools.simulator.cost_model import ProfiledHardware, Truth
from trimode_tools.simulator.rows import EngineLimits
from trimode_workers.engine.engine import Engine, EngineSettings
from trimode_workers.engine.messages import Configure
from trimode_workers.model.loading import load_decoder

TINY = Path(__file__).parents[2] / "workers/trimode_workers/tiny"
EXAMPLE = str(Path(__file__).parents[2] / "examples/tiny.yaml")
POINTS = (AR, speculation(4), speculation(8))


def run(capsys: pytest.CaptureFixture[str], *arguments: str) -> tuple[int, str, str]:
    with pytest.raises(SystemExit) as end:
        main(list(arguments))
    out, err = capsys.readouterr()
    return int(end.value.code or 0), out, err


@pytest.fixture(scope="module")
def harness() -> EngineHarness:
    """An engine of eight rows, checked after each cycle."""
    decoder, _ = load_decoder(TINY)
    settings = EngineSettings(8, 256, threads=1, check_invariants=True)
    return EngineHarness(Engine(decoder, settings, Configure([str(p) for p in POINTS], "AR")), POINTS, range(8, 300))


class TestRig:
    def test_a_cycle_that_recorded_a_graph_is_left_out(self) -> None:
        assert Turn((1.0, 1.2, 1.4, 90.0), 50.0).mean == pytest.approx(1.2)
        assert Turn((1.0, 3.0), 50.0).mean == 2.0

    def test_rows_are_as_many_and_as_long_as_asked_for(self, harness: EngineHarness) -> None:
        harness.fill(8, 40)
        stats = harness.engine.stats()
        assert (stats.running, stats.waiting, stats.queued_prompt_tokens) == (8, 0, 0)
        turn = harness.cycles(AR, seconds=0.0, least=3)
        assert len(turn.seconds) == 3
        assert turn.mean > 0
        assert 40 <= turn.context_tokens < 60
        harness.clear()
        assert harness.engine.idle

    def test_each_turn_runs_its_point_and_nothing_else(self, harness: EngineHarness) -> None:
        harness.fill(2, 20)
        for point in POINTS:
            before = harness.engine.stats().cycles_total
            harness.cycles(point, seconds=0.0, least=2)
            after = harness.engine.stats().cycles_total
            ran = {name: count - before.get(name, 0) for name, count in after.items() if count != before.get(name, 0)}
            assert set(ran) == {str(point)} | ({"AR"} if "AR" in ran else set())  # rows made anew begin in AR
            assert ran[str(point)] >= 3

    def test_rows_do_not_outgrow_what_was_asked_for(self, harness: EngineHarness) -> None:
        harness.fill(2, 16)
        turn = harness.cycles(speculation(8), seconds=0.0, least=60)
        assert len(turn.seconds) == 60
        assert turn.context_tokens < 32

    def test_prompts_take_the_place_of_rows(self, harness: EngineHarness) -> None:
        harness.fill(4, 20)
        assert harness.with_prompts(AR, pieces=2, tokens=30, pairs=2) >= 0
        assert harness.engine.stats().running == 4
        harness.clear()

    def test_answers_are_counted_with_their_end(self, harness: EngineHarness) -> None:
        prompts = [list(range(8, 20)), list(range(40, 45))]
        ar = harness.answers(AR, prompts, 12)
        fast = harness.answers(speculation(8), prompts, 12)
        assert [a.tokens for a in ar] == [a.tokens for a in fast] == [a.cycles for a in ar]
        assert all(f.cycles <= a.cycles for a, f in zip(ar, fast, strict=True))


def test_a_round_measures_everything_planned(harness: EngineHarness) -> None:
    plan = Plan(POINTS, (1, 4, 8), (12, 32), 20, QUICK)
    found = Measurement()
    said = list(measure_round(harness, plan, found))
    assert len(said) == plan.turns
    assert set(found.cycles) == {(p, b, c) for p in POINTS for b in (1, 4, 8) for c in (12, 32)}
    assert {mode for mode, _ in found.prompts} == {Mode.AR, Mode.SELF_SPECULATION}
    assert harness.engine.idle


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, str]:
    """A profile measured by the command, and what it printed."""
    import contextlib
    import io

    from trimode_local import console
    from trimode_tools.profile.command import Options, profile

    file = tmp_path_factory.mktemp("profile") / "tiny.yaml"
    printed = io.StringIO()
    with contextlib.redirect_stdout(printed):
        assert console.out.file is printed
        profile(Options(file, "tiny://", None, "S8,AR", 4, 32, 1, None, quick=True, validate=True))
    return file, printed.getvalue()


def test_the_command_measures_the_tiny_model(made: tuple[Path, str]) -> None:
    file, printed = made
    found = read_profile(file)
    assert {(c.point, c.batch) for c in found.cycles} == {(p, b) for p in ("AR", "S8") for b in (1, 2, 4)}
    assert len(found.cycles) == 12
    assert 1 < found.tokens_per_cycle["S8"] <= 8
    assert "add" in found.kinds
    assert found.shape is not None
    assert found.shape.layers == 4
    assert (found.model, found.device, found.about["threads"]) == ("tiny://", "cpu", 1)
    assert file.with_suffix(".png").read_bytes().startswith(b"\x89PNG")
    assert [row["clients"] for row in found.about["validation"]] == [1, 4]
    for words in ("ms per cycle", "AR overtakes", "fitted roofline", "the simulator against this engine"):
        assert words in printed


def test_the_simulator_takes_it(made: tuple[Path, str], tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    arguments = ("--policies", "static:AR,trimode", "--load", "steps", "--duration", "6", "--no-plots")
    status, _, err = run(
        capsys, "simulate", "-f", EXAMPLE, "--profile", str(made[0]), "--out", str(tmp_path), *arguments
    )
    assert status == 0, err
    (load,) = json.loads((tmp_path / "results.json").read_text())["loads"]
    assert [row["policy"] for row in load["policies"]] == ["static:AR", "trimode"]
    assert load["policies"][0]["goodput_rps"] > 0
    assert "note:" not in err


def test_a_profile_of_another_model_is_remarked(
    made: tuple[Path, str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    other = tmp_path / "other.yaml"
    other.write_text(made[0].read_text().replace("model: tiny://", "model: hf://a/b"))
    arguments = ("--policies", "static:AR", "--load", "steps", "--duration", "2", "--no-plots")
    status, _, err = run(capsys, "simulate", "-f", EXAMPLE, "--profile", str(other), "--out", str(tmp_path), *arguments)
    assert status == 0, err
    assert "was measured with hf://a/b" in " ".join(err.split())


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["--points", "S7"], "--points: block length 7 is not one of"),
        (["--points", "AR,D8@0.9"], "--points: D8@0.9: how many forwards a cycle with a threshold takes depends"),
        (["--model", "s3://x"], "--model: model s3://x: allowed are hf://"),
        (["--model", "file:///no/such/model"], "/no/such/model"),
        (["--draft-adapter", "lora"], "there is no draft adapter 'lora'"),
        (["--prompts", "/no/such.jsonl"], "No such file"),
        (["--context", "4000"], "--context 4000 and the prompts need 8000 tokens of context, the model has 4096"),
        (["--out", "/no/such/folder/p.yaml"], "--out /no/such/folder/p.yaml: must be a file in a folder that exists"),
        (["--max-batch", "0"], "--max-batch"),
    ],
)
def test_wrong_input_is_named(
    arguments: list[str], words: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    given = arguments if "--out" in arguments else [*arguments, "--out", str(tmp_path / "p.yaml")]
    status, _, err = run(capsys, "profile", *given)
    assert status == 2
    assert words in " ".join(err.replace("│", " ").split())


def test_a_broken_profile_is_refused_by_field(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    broken = tmp_path / "broken.yaml"
    broken.write_text("cycles:\n- {point: S7, batch: 1, seconds: 0.1}\n")
    status, _, err = run(
        capsys, "simulate", "-f", EXAMPLE, "--profile", str(broken), "--out", str(tmp_path), "--load", "steps"
    )
    assert status == 2
    assert "cycles[0].point: block length 7" in " ".join(err.split())


def test_points_and_batches() -> None:
    assert with_ar([speculation(16), speculation(4), speculation(16)]) == (AR, speculation(4), speculation(16))
    assert powers_to(1) == (1,)
    assert powers_to(8) == (1, 2, 4, 8)
    assert powers_to(48) == (1, 2, 4, 8, 16, 32, 48)


ROOFLINE = Roofline(1e10, 4e10, 1e-4, 7e6, 3.5e6, 2048.0)
CYCLES = [
    (point, batch, context, ROOFLINE.seconds(point, batch, context))
    for point in (AR, speculation(8))
    for batch in (1, 4, 16, 64)
    for context in (50.0, 400.0)
]


def _profile(**more: object) -> Profile:
    cycles = [{"point": str(p), "batch": b, "context_tokens": c, "seconds": s} for p, b, c, s in CYCLES]
    return Profile.model_validate({"cycles": cycles, "tokens_per_cycle": {"S8": 6.0}, "model": "tiny://", **more})


class TestWords:
    def test_the_crossover_is_where_ar_stays_ahead(self) -> None:
        speeds = {(cell.point, cell.batch): tokens_per_s(_profile(), cell) or 0.0 for cell in cells_at(_profile())}
        ahead = [b for b in (1, 4, 16, 64) if speeds[AR, b] > speeds[speculation(8), b]]
        assert dict(crossovers(_profile())) == {speculation(8): ahead[0] if ahead else None}
        assert not ahead or ahead == [b for b in (1, 4, 16, 64) if b >= ahead[0]]

    def test_the_table_has_a_row_for_each_batch(self) -> None:
        assert cycles_table(_profile()).row_count == 4
        assert {cell.context_tokens for cell in cells_at(_profile(), longest=True)} == {400.0}

    def test_a_perfect_fit_is_called_one(self) -> None:
        words = " ".join(sentences(_profile(), ROOFLINE))
        assert "within 0% of half the cycles, 0% off at worst" in words

    def test_any_point_has_a_colour(self) -> None:
        points = tuple(OperatingPoint.parse(p) for p in ("AR", "S4", "S8", "S64"))
        assert len(set(colours_of(points).values())) == 4

    def test_the_picture_is_drawn(self, tmp_path: Path) -> None:
        good = Outcome(900.0, 0.01, 0.1, "S8")
        rows = [Comparison(clients, good, Outcome(1000.0, 0.012, 0.09, "AR")) for clients in (1, 4, 16)]
        for comparisons in ([], rows):
            draw(_profile(), ROOFLINE, comparisons, "below", tmp_path / "p.png")
            assert (tmp_path / "p.png").read_bytes().startswith(b"\x89PNG")


class TestLoops:
    def test_the_real_loop_keeps_its_clients_busy(self, harness: EngineHarness) -> None:
        engine = harness.engine.beside(Configure([str(p) for p in POINTS], "AR"))
        asked = [Asked(list(range(8, 8 + n)), n, n, 0) for n in (4, 9, 14)]
        loop = RealLoop(engine, asked, max_tokens=6)
        found = loop.run(clients=3, warm_s=0.0, seconds=0.2)
        assert found.tokens_per_s > 0
        assert 0 < found.ttft_p95_s <= found.latency_p95_s
        assert found.point in {str(p) for p in POINTS}
        assert engine.idle
        assert harness.engine is not engine

    @pytest.mark.parametrize("clients", [1, 8])
    def test_the_simulated_loop_follows_from_its_curves(self, clients: int) -> None:
        """Without noise and with AR alone all of it can be worked out by hand."""
        hardware = ProfiledHardware.measured(ROOFLINE, [(AR, b, 0.0, 0.01) for b in (1, 64)])
        limits = EngineLimits(8, 1e9, 256, noise=0.0)
        asked = [Asked(list(range(11)), 21, 20, 0)]
        found = predict(only_replica(Truth(hardware), ROOFLINE, (AR,), limits), asked, clients)
        cycle = hardware.seconds(AR, clients, 20.0)
        # All clients begin together: one cycle in 21 computes their prompts too.
        whole = 21 * cycle + ROOFLINE.prefill_seconds(10 * clients)
        assert found.tokens_per_s == pytest.approx(20 * clients / whole, rel=0.03)
        assert found.latency_p95_s == pytest.approx(whole, rel=0.03)
        assert found.point == "AR"

    def test_medians_over_rounds(self) -> None:
        rounds = [Outcome(100.0, 1.0, 3.0, "AR"), Outcome(300.0, 2.0, 2.0, "S8"), Outcome(200.0, 9.0, 1.0, "S8")]
        assert typical(rounds) == Outcome(200.0, 2.0, 2.0, "S8")

    def test_errors_are_predicted_over_measured(self) -> None:
        found = Comparison(1, Outcome(100.0, 1.0, 2.0, "AR"), Outcome(110.0, 0.9, 3.0, "AR"))
        assert found.errors == pytest.approx((0.1, -0.1, 0.5))


def test_what_was_read_can_be_fitted() -> None:
    from trimode_tools.profile.fit import Cell

    cells = [Cell(*cycle) for cycle in CYCLES]
    shape = {"parameters": 1_770_000, "layers": 4, "kv_heads": 2, "head_dim": 32, "bytes_per_value": 4}
    found = _profile(shape=shape)
    assert found.shape is not None
    fitted = fit_roofline(cells, found.shape)
    assert fitted.seconds(AR, 64, 50.0) == pytest.approx(ROOFLINE.seconds(AR, 64, 50.0), rel=0.3)
    assert Answered(5, 1).ended
