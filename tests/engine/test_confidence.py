"""The lab's replay of recorded drafts: what is recorded is what the engine does, and lengths are those that pay."""

from __future__ import annotations

from itertools import product
from pathlib import Path
from typing import Any

import pytest

from trimode_lab.confidence.drafts import Answer, Draft, read, write
from trimode_lab.confidence.lengths import BINS, Calibration, blocks_for, common, cut, expected
from trimode_lab.confidence.record import record
from trimode_lab.confidence.replay import Adaptive, Blocks, ByHistory, Fixed, Replay, Verify
from trimode_policy.roofline import Roofline
from trimode_tools.engines import complete
from trimode_workers.engine.engine import Engine, EngineSettings
from trimode_workers.engine.messages import Configure

PROMPTS = [("a", [2 + i % 9 for i in range(3)]), ("b", [2 + i % 7 for i in range(17)]), ("c", [5] * 30)]


def forward(rows: int, tokens: int) -> float:
    """Bound by memory up to 16 tokens, then by arithmetic."""
    return 1.0 + 0.1 * max(16, tokens)


def answers(matched: int, length: int = 24) -> list[Answer]:
    """Answers whose drafts are accepted that far and are sure of just that."""
    sure = tuple(0.9999 if place < matched else 0.3 for place in range(31))

    def draft(block: int, at: int) -> Draft:
        return Draft(sure[: block - 1], min(matched, block - 1, length - at))

    drafts = {block: [draft(block, at) for at in range(length)] for block in (4, 8, 16, 32)}
    return [Answer("made", length, drafts)] * 3


@pytest.fixture(scope="module", params=["rows"])
def layout(request: pytest.FixtureRequest) -> str:
    return str(request.param)


def test_what_is_recorded_is_what_the_engine_accepts(decoder: Any, tmp_path: Path) -> None:
    network = decoder.fused()
    recorded = record(network, PROMPTS, 40, blocks=(4, 8))
    write(recorded, tmp_path / "drafts.jsonl")
    assert read(tmp_path / "drafts.jsonl") == recorded
    for block in (4, 8):
        point = f"S{block}"
        engine = Engine(network, EngineSettings(3, 80), Configure(points=[point], fallback=point))
        done = complete(engine, [prompt for _, prompt in PROMPTS], point, 40)
        assert [one.produced for one in done] == [answer.tokens for answer in recorded]
        for answer, one in zip(recorded, done, strict=True):
            at = cycles = 0
            while at < answer.tokens:
                at += answer.drafts[block][at].matched + 1
                cycles += 1
            assert cycles == one.cycles
    assert any(draft.matched for answer in recorded for draft in answer.drafts[8]), "nothing was accepted"


def test_cut_gives_most_tokens_per_second() -> None:
    survival = [[0.9, 0.5, 0.1], [0.4], [], [0.95, 0.9, 0.85]]

    def pace(lengths: tuple[int, ...]) -> float:
        gained = len(lengths) + sum(sum(mine[: n - 1]) for mine, n in zip(survival, lengths, strict=True))
        return gained / (0.7 + per_token(4, sum(lengths)))

    for slope in (0.0, 0.05, 0.2, 1.0, 10.0):

        def per_token(rows: int, tokens: int, slope: float = slope) -> float:
            return 1.0 + slope * tokens

        best = max(product(*(range(1, len(mine) + 2) for mine in survival)), key=pace)
        assert pace(tuple(cut(survival, 0.7, per_token))) == pytest.approx(pace(best))
        level = common(survival, 0.7, per_token)
        assert pace((level,) * 4) == pytest.approx(max(pace((n,) * 4) for n in range(1, 5)))


def test_tokens_that_cost_nothing_are_all_verified_and_dear_ones_none() -> None:
    assert cut([[0.5, 0.2], [0.1]], 1.0, lambda rows, tokens: 1.0) == [3, 2]
    assert cut([[0.5, 0.2], [0.1]], 0.0, lambda rows, tokens: float(tokens**2)) == [1, 1]


def test_calibration_begins_as_the_drafter_says_and_ends_as_it_was() -> None:
    calibration = Calibration()
    assert calibration.survival([0.75, 0.75]) == pytest.approx([0.8125, 0.8125**2])
    assert calibration.survival([1.0])[0] > 0.9999
    for _ in range(1000):
        calibration.learn(Draft((0.75, 0.75), 1), 2)
    assert calibration.survival([0.75])[0] == pytest.approx(0.5, abs=0.01)
    calibration.learn(Draft((0.1, 0.9), 0), 2)
    assert calibration.tested[_bin_of(0.9)] == Calibration().tested[_bin_of(0.9)], (
        "what follows a refusal tells nothing"
    )


def _bin_of(chance: float) -> int:
    return next(b for b in range(BINS) if 1 - chance > 2.0 ** -(b + 1))


def test_sure_requests_draft_longer_blocks_than_unsure_ones() -> None:
    chosen = blocks_for([0.1, 0.7, 0.99], (4, 8, 16, 32), forward)
    assert chosen == sorted(chosen)
    assert chosen[0] < chosen[2]
    assert blocks_for([0.9] * 4, (4, 8), lambda rows, tokens: tokens) == [1] * 4, "where tokens cost, AR is best"
    assert expected(1.0, 8) == 8
    assert expected(0.0, 8) == 1


@pytest.mark.parametrize("matched", [1, 5, 31])
def test_knowing_is_never_worse_than_confidence_nor_that_than_all(matched: int) -> None:
    def speed(verify: Verify, blocks: Blocks) -> float:
        run = Replay(answers(matched), 6, blocks, verify, forward)
        run.run(500)
        done = run.run(1500)
        return done.tokens / done.seconds

    whole, sure, known = (speed(v, Fixed(16)) for v in (Verify.WHOLE, Verify.CONFIDENCE, Verify.KNOWN))
    assert known * 1.001 >= sure >= 0.999 * whole
    if matched == 1:
        assert sure > 1.3 * whole
    assert speed(Verify.TO_END, Fixed(16)) == pytest.approx(whole)  # no end was drafted
    assert speed(Verify.CONFIDENCE, ByHistory((4, 8, 16, 32), forward)) > 0.9 * whole


def test_an_answer_is_as_long_as_it_is_whoever_chooses() -> None:
    run = Replay(answers(31, length=24), 2, Fixed(8), Verify.WHOLE, forward)
    run.run(60)  # whoever began within an answer is at the next one
    done = run.run(480)
    assert done.tokens == done.cycles * 16, "24 tokens take three cycles of eight"
    assert done.seconds == pytest.approx(done.cycles * 2 * forward(2, 16))


def test_the_policy_finds_the_point_that_is_fastest() -> None:
    prior = Roofline(1e9, 1e9, 1e-3, 1e6, 1e6, 1e3)
    seconds = {1: 1e-3, 4: 4e-3, 8: 8e-3, 16: 9e-3}

    def by_width(rows: int, tokens: int) -> float:
        return seconds[tokens // rows]

    run = Replay(answers(31, 64), 3, Adaptive.of((4, 8, 16), prior, 50.0), Verify.WHOLE, by_width)
    run.run(0, 10.0)
    done = run.run(0, 5.0)
    assert done.tokens / done.seconds > 0.9 * 3 * 16 / (2 * seconds[16])
