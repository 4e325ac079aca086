"""What a caller sees of the engine: order, ends, room, refusals, and which point serves whom."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from msgspec import structs
from torch import Tensor

from trimode_api.modes import Mode, OperatingPoint
from trimode_workers.engine.engine import Engine, EngineSettings
from trimode_workers.engine.messages import Configure, Finish, Sampling, Submit
from trimode_workers.engine.modes import MODES
from trimode_workers.errors import RequestRefused, SettingsError


@pytest.fixture(scope="module", params=["rows", "pages"])
def layout(request: pytest.FixtureRequest) -> str:
    return str(request.param)


LONG = [2 + i % 9 for i in range(100)]


def submit(engine: Engine, *requests: Submit) -> None:
    for request in requests:
        engine.submit(request)


def endless(name: str, tokens: list[int], count: int, **kwargs: Any) -> Submit:
    return Submit(name, tokens, count, ignore_eos=True, **kwargs)


def test_an_end_token_ends_without_being_emitted(tools: Any, decoder: Any, reference: Any) -> None:
    plain = reference.answer(endless("", LONG[:10], 30))
    for point in ("AR", "S16"):
        for place in (0, 3, 20):
            ending = tools.build_decoder(eos=(plain[place],))
            engine = tools.build_engine(ending, points=[point])
            engine.submit(Submit("a", LONG[:10], 30))
            outcome = tools.drain(engine)
            assert outcome.tokens["a"] == plain[: plain.index(plain[place])]
            assert outcome.last["a"].finish is Finish.STOP


def test_length_ends_by_max_tokens_and_by_context(tools: Any, decoder: Any) -> None:
    engine = tools.build_engine(decoder, points=["S8"], max_context_tokens=50)
    submit(engine, endless("short", LONG[:5], 11), endless("full", LONG[:45], 500), endless("last", LONG[:49], 5))
    outcome = tools.drain(engine)
    assert {i: len(t) for i, t in outcome.tokens.items()} == {"short": 11, "full": 5, "last": 1}
    assert {e.finish for e in outcome.last.values()} == {Finish.LENGTH}
    assert outcome.last["short"].emitted == {"S8": 11}


def test_fullness_counts_requests_by_their_objectives(tools: Any, decoder: Any) -> None:
    """No objective, one that all can keep and one that nobody can: each takes a place among the rows."""
    engine = tools.build_engine(decoder, points=["AR"], max_running_requests=4)
    assert engine.stats().utilization == 0.0
    tiers = {"none": 0.0, "lax": 60.0, "hopeless": 1e-12}
    submit(engine, *(structs.replace(endless(name, [5], 200), tier_tpot_s=s) for name, s in tiers.items()))
    for _ in range(10):
        engine.step()
    assert engine.stats().utilization == pytest.approx(0.75)


@pytest.mark.parametrize("cancelled", ["running", "waiting", "prefilling"])
def test_a_cancelled_request_frees_its_row_within_one_cycle(cancelled: str, tools: Any, decoder: Any) -> None:
    engine = tools.build_engine(decoder, points=["AR"], max_running_requests=2, prefill_budget_tokens=8)
    submit(engine, endless("running", [5], 100), endless("prefilling", LONG, 9), endless("waiting", [5, 6], 3))
    engine.step()
    assert engine.stats().running == 2
    engine.cancel(cancelled)
    engine.cancel("nobody")
    events = engine.step().events
    assert [(e.request_id, e.tokens) for e in events if e.finish] == [(cancelled, [])]
    assert events[0].finish is Finish.CANCELLED
    stats = engine.stats()
    assert stats.running + stats.waiting == 2
    assert stats.free_rows == 2 - stats.running
    engine.submit(endless(cancelled, [7], 1))  # the name is free again
    assert cancelled in tools.drain(engine).last


def test_only_a_cancellation_left_is_still_work(tools: Any, decoder: Any) -> None:
    engine = tools.build_engine(decoder)
    engine.submit(endless("a", [5], 100))
    engine.cancel("a")
    assert not engine.idle
    assert [e.finish for e in engine.step().events] == [Finish.CANCELLED]
    assert engine.idle


def test_a_long_prompt_does_not_stall_those_who_decode(tools: Any, decoder: Any) -> None:
    engine = tools.build_engine(decoder, points=["AR"], prefill_budget_tokens=8)
    engine.submit(endless("first", [5], 60))
    engine.step()
    engine.submit(endless("long", LONG, 5))
    for cycle in range(1, 14):
        emitted = {e.request_id: len(e.tokens) for e in engine.step().events}
        assert emitted == ({"first": 1} if cycle < 13 else {"first": 1, "long": 1})  # 99 tokens are 13 pieces of 8


def test_the_youngest_is_preempted_and_nothing_is_lost(tools: Any, decoder: Any, reference: Any, layout: str) -> None:
    requests = [endless(str(i), LONG[i : i + 4], 60) for i in range(3)]
    engine = tools.build_engine(decoder, points=["AR"], max_context_tokens=70, capacity_tokens=110)
    submit(engine, *requests)
    order: list[str] = []
    while not engine.idle:
        order += [e.request_id for e in engine.step().events if e.finish]
    assert order == ["0", "1", "2"]
    # In pages there is room for a block behind the longest context, here 144 tokens in all.
    assert engine.stats().preemptions_total >= (2 if layout == "rows" else 1)
    outcome_engine = tools.build_engine(decoder, points=["AR"], max_context_tokens=70, capacity_tokens=110)
    submit(outcome_engine, *requests)
    assert tools.drain(outcome_engine).tokens == {r.request_id: reference.answer(r) for r in requests}


def test_priority_is_admitted_first_and_preempted_last(tools: Any, decoder: Any) -> None:
    engine = tools.build_engine(decoder, points=["AR"], max_running_requests=1)
    submit(engine, endless("low", [5], 2), endless("old", [5], 2, priority=1), endless("new", [5], 2, priority=1))
    order: list[str] = []
    while not engine.idle:
        order += [e.request_id for e in engine.step().events if e.finish]
    assert order == ["old", "new", "low"]


@pytest.mark.parametrize(
    ("change", "code", "field"),
    [
        ({"tokens": []}, "empty_prompt", "prompt"),
        ({"tokens": [5] * 128}, "context_length_exceeded", "prompt"),
        ({"tokens": [5, 12]}, "invalid_token", "prompt"),
        ({"tokens": [-1]}, "invalid_token", "prompt"),
        ({"max_new_tokens": 0}, "invalid_max_tokens", "max_tokens"),
        ({"sampling": Sampling(-0.1)}, "invalid_temperature", "temperature"),
        ({"sampling": Sampling(float("nan"))}, "invalid_temperature", "temperature"),
        ({"sampling": Sampling(1.0, 0.0)}, "invalid_top_p", "top_p"),
        ({"pin": "fast"}, "unknown_mode", "trimode.mode"),
        ({"pin": "S64"}, "mode_not_allowed", "trimode.mode"),
        ({"pin": "D8@0.9"}, "lossless_unavailable", "quality"),
        ({"request_id": "there"}, "duplicate_request", "request_id"),
    ],
)
def test_what_can_never_run_is_refused(change: dict[str, Any], code: str, field: str, tools: Any, decoder: Any) -> None:
    engine = tools.build_engine(decoder, points=["AR", "S8", "D8@0.9"])
    engine.submit(endless("there", [5], 3))
    request = {"request_id": "a", "tokens": [5], "max_new_tokens": 4} | change
    with pytest.raises(RequestRefused) as refused:
        engine.submit(Submit(**request))
    assert (refused.value.code, refused.value.field) == (code, field)
    assert list(tools.drain(engine).last) == ["there"]


def test_a_lossless_request_is_refused_where_only_diffusion_runs(tools: Any, decoder: Any) -> None:
    engine = tools.build_engine(decoder, points=["D8@0.9"])
    with pytest.raises(RequestRefused, match="lossy-ok"):
        engine.submit(endless("a", [5], 3))
    engine.submit(endless("b", [5], 3, lossy_ok=True))
    assert tools.drain(engine).last["b"].cycles == {"D8@0.9": 1}


@pytest.mark.parametrize(
    ("settings", "named"),
    [
        ({"max_running_requests": 0}, "max_running_requests"),
        ({"max_context_tokens": 1}, "max_context_tokens"),
        ({"prefill_budget_tokens": 0}, "prefill_budget_tokens"),
        ({"threads": 0}, "threads"),
        ({"capacity_tokens": 100, "max_context_tokens": 101}, "capacity_tokens"),
    ],
)
def test_wrong_settings_are_refused_by_name(settings: dict[str, int], named: str) -> None:
    with pytest.raises(SettingsError, match=named):
        EngineSettings(**settings)


def test_defaults() -> None:
    assert EngineSettings() == EngineSettings(64, 2048, None, None, None, None, 0.25, False)
    assert [EngineSettings().prompt_tokens(device) for device in ("cpu", "cuda", "mps")] == [256, 2048, 256]
    assert EngineSettings(prefill_budget_tokens=7).prompt_tokens("cuda") == 7


@pytest.mark.parametrize(
    "wrong",
    [
        Configure(points=[], fallback="AR"),
        Configure(points=["AR"], fallback="S8"),
        Configure(points=["AR"], fallback="AR", fixed="S8"),
        Configure(points=["AR", "warp"], fallback="AR"),
    ],
)
def test_a_wrong_configuration_changes_nothing(wrong: Configure, tools: Any, decoder: Any) -> None:
    engine = tools.build_engine(decoder, points=["S8"])
    with pytest.raises(ValueError, match=r"points|fallback|fixed|warp"):
        engine.configure(wrong)
    engine.submit(endless("a", [5], 3))
    assert set(tools.drain(engine).last["a"].cycles) == {"S8"}


def test_pins_and_quality_classes_split_the_batch(tools: Any, decoder: Any) -> None:
    engine = tools.build_engine(
        decoder,
        points=["AR", "S8", "D8@0.9"],
        chooser=lambda batch, points: points[-1],
        max_running_requests=5,
    )
    submit(
        engine,
        endless("free", [5], 20),
        endless("ar", [5], 20, pin="AR"),
        endless("lossy", [5], 20, lossy_ok=True),
        endless("lossy ar", [5], 20, lossy_ok=True, pin="AR"),
        endless("diffusion", [5], 20, lossy_ok=True, pin="D8@0.9"),
    )
    last = tools.drain(engine).last
    points = {name: set(event.cycles) for name, event in last.items()}
    assert points == {
        "free": {"S8"}, "ar": {"AR"}, "lossy": {"D8@0.9"}, "lossy ar": {"AR"}, "diffusion": {"D8@0.9"},
    }  # fmt: skip


def test_manual_mode_moves_all_but_pinned_requests_in_mid_answer(tools: Any, decoder: Any, reference: Any) -> None:
    engine = tools.build_engine(decoder, points=["AR", "S8"])
    request = endless("a", [5, 7], 40)
    submit(engine, request, endless("pinned", [5], 30, pin="AR"))
    points = ["AR", "S8"]
    for version, fixed in enumerate(["S8", "AR", "S8"]):
        engine.configure(Configure(points=points, fallback="AR", fixed=fixed, version=version))
        cycle = engine.step()
        assert (cycle.point, engine.stats().reason) == (fixed, "Manual")
        assert engine.stats().policy_version == version
    outcome = tools.drain(engine)
    assert set(outcome.last["a"].cycles) == {"AR", "S8"}
    assert set(outcome.last["pinned"].cycles) == {"AR"}
    assert reference.answer(request)[-len(outcome.tokens["a"]) :] == outcome.tokens["a"]


def test_manual_diffusion_serves_lossless_requests_by_a_lossless_point(tools: Any, decoder: Any) -> None:
    engine = tools.build_engine(decoder, points=["AR", "D8@0.9"])
    engine.configure(Configure(points=["AR", "D8@0.9"], fallback="D8@0.9", fixed="D8@0.9"))
    submit(engine, endless("a", [5], 10), endless("b", [5], 10, lossy_ok=True))
    last = tools.drain(engine).last
    assert (set(last["a"].cycles), set(last["b"].cycles)) == ({"AR"}, {"D8@0.9"})


class Planted:
    """A network that knows its text: place p holds `2 + p % 9`, whatever was said. Time passes as tokens are run."""

    drafter = None
    like = torch.zeros(1)

    def __init__(self, config: Any, overhead_s: float = 1e-3, token_s: float = 2e-4) -> None:
        self.config, self.now = config, 0.0
        self.overhead_s, self.token_s = overhead_s, token_s

    def hidden(self, tokens: Tensor, positions: Tensor, attend: Any, reach: int | None = None) -> Tensor:
        self.now += self.overhead_s + self.token_s * tokens.numel()
        target = 2 + (positions + (tokens != self.config.mask_token_id)) % 9
        return torch.nn.functional.one_hot(target, self.config.hidden_size).float()

    def logits(self, hidden: Tensor) -> Tensor:
        return hidden[..., : self.config.vocab_size]


def crowd(network: Planted, dry_run: bool = False) -> Engine:
    configure = Configure(points=["AR", "S4", "S8"], fallback="AR", min_dwell_s=0.05, dry_run=dry_run)
    return Engine(network, EngineSettings(32, 2048), configure, lambda: network.now)


def cycles_until(engine: Engine, point: str, most: int = 1000) -> None:
    """Step until the policy has chosen `point` (a probe of it is no choice)."""
    for _ in range(most):
        engine.step()
        stats = engine.stats()
        if stats.decision_point == point and stats.reason == "Kept":
            return
    raise AssertionError(f"after {most} cycles still {stats.point}: {stats.detail}")


def test_the_policy_finds_speculation_for_one_and_plain_decoding_for_many(decoder: Any) -> None:
    network = Planted(decoder.config)
    engine = crowd(network)
    engine.submit(endless("0", [2], 2000))
    cycles_until(engine, "S8")
    assert engine.stats().switches_total == 1
    for i in range(1, 32):
        engine.submit(endless(str(i), [2], 2000))
    cycles_until(engine, "AR")
    stats = engine.stats()
    assert (stats.running, stats.point, stats.switches_total) == (32, "AR", 2)
    assert stats.switched is not None
    assert (stats.switched.target, stats.switched.reason) == ("AR", "PredictedGain")
    assert {p.point for p in stats.curves} == {"AR", "S4", "S8"}
    assert sum(stats.seconds_total.values()) == pytest.approx(network.now, rel=0.02)


def test_a_dry_run_decides_and_stays(decoder: Any) -> None:
    network = Planted(decoder.config)
    engine = crowd(network, dry_run=True)
    engine.submit(endless("0", [2], 2000))
    engine.submit(endless("1", [2], 2000, pin="S8"))
    engine.submit(endless("2", [2], 2000, pin="S4"))
    for _ in range(150):
        engine.step()
    stats = engine.stats()
    assert (stats.point, stats.cycles_total["AR"]) == ("AR", 150)
    assert stats.decision_point in {"S4", "S8"}


def test_statistics_ride_along_a_few_times_a_second(decoder: Any) -> None:
    network = Planted(decoder.config, overhead_s=0.01, token_s=0.0)
    engine = Engine(network, EngineSettings(4, 2048), Configure(points=["AR"], fallback="AR"), lambda: network.now)
    engine.submit(endless("0", [2], 300))
    carried = [engine.step().stats is not None for _ in range(200)]
    assert 7 <= sum(carried) <= 10  # two seconds


def test_every_mode_has_a_function() -> None:
    assert set(MODES) == set(Mode)


def test_workloads_teach_the_curves_apart(tools: Any, decoder: Any) -> None:
    """One workload's answers end at once, so its cycles gain little; predictions follow who runs."""
    engine = tools.build_engine(decoder, points=["S8"], max_running_requests=4)
    for i in range(40):
        engine.submit(Submit(f"short-{i}", [2 + i % 9, 3], 1, workload="short"))
        engine.submit(Submit(f"long-{i}", [2 + i % 9, 3], 40, ignore_eos=True, workload="long"))
    tools.drain(engine)
    known = engine._modes.curves.workload_tokens(OperatingPoint.parse("S8"))
    assert set(known) == {"short", "long"}
    assert known["short"] < known["long"]
