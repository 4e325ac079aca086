"""First tokens predicted at the door: who is refused, who is served late, and what is told of it."""

from __future__ import annotations

from typing import Any

import pytest
from prometheus_client.parser import text_string_to_metric_families
from structlog.testing import capture_logs

from trimode_api.wire import AdmissionPolicy, SwitchingPolicy
from trimode_policy.first_token import ENOUGH, Forecast
from trimode_policy.route import SloState

CHAT: dict[str, Any] = {"model": "tiny", "messages": [{"role": "user", "content": "hi"}], "stream": True}
PREMIUM = {"x-trimode-tier": "premium"}


async def busy(open_house: Any, make_policy: Any, *, refuse: bool, dry_run: bool = False) -> Any:
    """One replica with 900 prompt tokens before all others, at 1,000 a second, and predictions that came true."""
    policy = make_policy(
        admission=AdmissionPolicy(max_queued_requests=4, max_wait_milliseconds=2000, refuse_late=refuse),
        switching=SwitchingPolicy(
            margin_percent=5, min_dwell_milliseconds=200, fallback={"flex": "AR"}, dry_run=dry_run
        ),
    )
    house = await open_house(policy=policy)
    await house.report(house.replicas[0].report(queued_prompt_tokens=900, prompt_tokens_per_second=1000.0))
    for _ in range(int(ENOUGH) + 2):
        house.router.dispatcher.predictions.learn(Forecast(0.4, 0.5), 1.0, 0.5, house.clock.value)
    return house


async def count_late(house: Any) -> dict[str, float]:
    text = (await house.http.get("/metrics")).text
    samples = [s for f in text_string_to_metric_families(text) for s in f.samples]
    return {s.labels["outcome"]: s.value for s in samples if s.name == "trimode_router_predicted_late_total"}


async def test_who_is_late_for_certain_is_refused_where_the_resource_says_so(open_house: Any, make_policy: Any) -> None:
    house = await busy(open_house, make_policy, refuse=True)
    refused = await house.http.post("/v1/chat/completions", json=CHAT, headers=PREMIUM)
    assert refused.status_code == 429
    error = refused.json()["error"]
    assert error["code"] == "ObjectiveOutOfReach"
    assert "premium leaves 0.5 s" in error["message"]
    assert refused.headers["retry-after"] == "1"
    assert not house.replicas[0].calls
    assert await count_late(house) == {"Refused": 1.0}
    # The other tier has a second: 0.9 s of prompts before it are no reason.
    assert (await house.http.post("/v1/chat/completions", json=CHAT)).status_code == 200


@pytest.mark.parametrize(
    ("dry_run", "state", "outcome"), [(False, SloState.LATE, "Served"), (True, SloState.ON_TIME, "DryRun")]
)
async def test_or_else_it_is_served_late(
    open_house: Any, make_policy: Any, dry_run: bool, state: SloState, outcome: str
) -> None:
    house = await busy(open_house, make_policy, refuse=dry_run, dry_run=dry_run)
    seen: list[SloState] = []
    house.router.accounting.also = lambda exchange: seen.append(exchange.view.slo_state)
    assert (await house.http.post("/v1/chat/completions", json=CHAT, headers=PREMIUM)).status_code == 200
    assert seen == [state]
    assert await count_late(house) == {outcome: 1.0}


async def test_predictions_are_measured_and_told(open_house: Any) -> None:
    house = await open_house()
    await house.report(house.replicas[0].report(queued_prompt_tokens=400, prompt_tokens_per_second=1000.0))

    async def script(call: Any) -> None:
        house.clock.value += 0.8  # twice as long as the prompts before it take alone
        await call.begin()
        await call.say("one")
        await call.end(tokens=1)

    house.replicas[0].script = script
    with capture_logs() as logs:
        for _ in range(100):  # one in so many is logged
            await house.report(house.replicas[0].report(queued_prompt_tokens=400, prompt_tokens_per_second=1000.0))
            assert (await house.http.post("/v1/chat/completions", json=CHAT)).status_code == 200
    told = (await house.http.get("/fleet")).json()
    predictions = told["router"]["predictions"]
    assert predictions["measured"] == 100
    assert 1.5 < predictions["median"] < 2.1
    assert predictions["low"] <= predictions["median"] <= predictions["high"]
    replica = told["replicas"][0]
    assert replica["firstTokenSeconds"] == pytest.approx(0.4 * predictions["median"], abs=0.01)
    (line,) = [each for each in logs if each["event"] == "request"]
    assert 0.6 < line["predicted_s"] < 0.9
    text = (await house.http.get("/metrics")).text
    assert "trimode_router_first_token_ratio_count 100.0" in text


async def test_whole_answers_and_unknown_speeds_are_not_measured(open_house: Any) -> None:
    house = await open_house()
    await house.http.post("/v1/chat/completions", json=CHAT)
    await house.report(house.replicas[0].report(queued_prompt_tokens=900, prompt_tokens_per_second=1000.0))
    await house.http.post("/v1/chat/completions", json=CHAT | {"stream": False})
    assert house.router.dispatcher.predictions.measured == 0
