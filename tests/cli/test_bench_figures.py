"""The arithmetic and the picture of a benchmark."""

from pathlib import Path

import pytest

from trimode_tools.bench.figures import ADAPTIVE, Figures, Ratio, Row, Sample, best_static, ratios
from trimode_tools.bench.load import Job
from trimode_tools.bench.measure import pinned, questions
from trimode_tools.bench.show import draw, draw_ramp, stretches
from trimode_tools.charts import spread

ROWS = (
    Row("AR", 1, 500),
    Row("S8", 1, 900),
    Row("S32", 1, 1000),
    Row(ADAPTIVE, 1, 990),
    Row("AR", 64, 9000),
    Row("S8", 64, 8000),
    Row("S32", 64, 3000),
    Row(ADAPTIVE, 64, 9900),
)


def test_the_ratios_are_those_that_are_promised() -> None:
    assert ratios(ROWS) == (
        Ratio("S32 / AR at 1", 2.0),
        Ratio("AR / S32 at 64", 3.0),
        Ratio("adaptive / S32 at 1", 0.99),
        Ratio("adaptive / AR at 64", 1.1),
    )


def test_ratios_of_nothing() -> None:
    assert ratios(()) == ()
    assert best_static((Row(ADAPTIVE, 1, 5),), 1) is None


def test_parts_that_were_not_measured_are_left_out() -> None:
    assert list(Figures(engine=ROWS).parts()) == ["engine alone"]
    assert Figures(router=ROWS[:1]).as_json() == {
        "through the router": [{"point": "AR", "concurrency": 1, "tokens_per_s": 500, "more": {}}]
    }


@pytest.mark.parametrize(
    ("point", "extra"),
    [
        ("AR", {"trimode": {"mode": "AR"}}),
        ("S16", {"trimode": {"mode": "SelfSpeculation", "blockLength": 16}}),
        (ADAPTIVE, {}),
    ],
)
def test_a_point_is_pinned_by_the_request(point: str, extra: dict[str, object]) -> None:
    assert pinned(point) == extra


def test_labels_are_moved_apart_and_keep_their_order() -> None:
    placed = spread({"a": 0.5, "b": 0.51, "c": 0.9}, 0.1)
    assert placed["b"] - placed["a"] == pytest.approx(0.1)
    assert placed["c"] - placed["b"] >= 0.1
    assert sum(placed.values()) == pytest.approx(0.5 + 0.51 + 0.9)


def test_the_picture_is_drawn(tmp_path: Path) -> None:
    draw({"engine alone": ROWS, "through the router": ROWS}, "title", "subtitle", tmp_path / "b.png")
    assert (tmp_path / "b.png").read_bytes()[:4] == b"\x89PNG"


def test_the_ramp_is_drawn(tmp_path: Path) -> None:
    samples = [Sample(float(t), 1, 1, 0, "AR" if t < 5 else "S8", "Kept", 100.0 * t, 0) for t in range(9)]
    draw_ramp(samples, tmp_path / "r.png")
    assert (tmp_path / "r.png").read_bytes()[:4] == b"\x89PNG"


def test_probes_do_not_break_a_stretch() -> None:
    said = [("AR", "Idle"), ("S8", "Kept"), ("S16", "Probe"), ("S8", "Kept"), ("AR", "PredictedGain"), ("AR", "Kept")]
    samples = [Sample(float(t), 1, 1, 0, point, reason, 1.0, 0) for t, (point, reason) in enumerate(said)]
    assert stretches(samples) == [(0.0, 1.0, "AR"), (1.0, 4.0, "S8"), (4.0, 5.0, "AR")]


def test_the_questions_are_many_and_always_the_same() -> None:
    first = questions(50)
    assert first == questions(50)
    assert len(set(first)) > 40


def test_a_job_survives_the_wire() -> None:
    job = Job(stages=[[1, 0.5]], prompts=["a"], extra={})
    assert job.max_tokens == 128
