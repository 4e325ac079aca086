"""Budgets over several copies of the router: the rule by tables and by simulated copies, and real processes."""

from __future__ import annotations

import asyncio
import json
import os
import socket
import sys
import time
from collections.abc import AsyncIterator
from contextlib import ExitStack, suppress
from hashlib import sha256
from pathlib import Path
from typing import Any

import aiohttp
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from trimode_api.wire import REPORT_PATH, TOKEN_VARIABLE, RouterConfig, StalenessPolicy
from trimode_lab.doubles.replica.replica import FakeReplica
from trimode_router.access.budget import HEARD_EVERY_S, Budget, Counts, Told, of_tenant, part_of, wait_s
from trimode_router.request.parse import parse


@pytest.mark.parametrize(
    ("rate", "level", "part", "copies", "expected"),
    [
        (10.0, 5.0, 0.0, 1, 0.0),  # alone: its part does not matter
        (10.0, 0.5, 5.0, 1, 0.05),
        (10.0, 0.5, 5.0, 3, 0.05),  # nothing is left for anybody
        (10.0, 5.0, 1.0, 3, 0.0),
        (10.0, 5.0, 0.1, 3, 0.0),  # a part of a unit is rounded up
        (10.0, 5.0, -0.5, 3, pytest.approx(0.15, abs=1e-4)),  # its part grows by a third of the rate
        (0.1, 5.0, -0.5, 3, HEARD_EVERY_S),  # by then it has heard
    ],
)
def test_a_copy_waits_for_the_budget_and_for_its_part(
    rate: float, level: float, part: float, copies: int, expected: float
) -> None:
    assert wait_s(rate, level, part, copies) == expected


@pytest.mark.parametrize(
    ("level", "part", "others", "expected"),
    [
        (60.0, 60.0, [20.0, 20.0], 20.0),  # gives back
        (60.0, 0.0, [30.0, 30.0], 0.0),  # nothing is free yet
        (60.0, 0.0, [20.0, 20.0], pytest.approx(20 / 3)),  # each could take a third of what is free
        (60.0, 0.0, [0.0, 0.0], 20.0),
        (-6.0, 3.0, [3.0, 3.0], -2.0),  # debts are shared, too
        (60.0, 10.0, [], 60.0),
    ],
)
def test_parts_are_given_back_and_taken_of_what_is_free(
    level: float, part: float, others: list[float], expected: float
) -> None:
    assert part_of(level, part, others) == expected


def fierce(budget: Budget, now: float, most: int = 10**6) -> int:
    """Spend all that is let through at one instant."""
    spent = 0
    while spent < most and budget.wait(now) == 0:
        budget.spend(1)
        spent += 1
    return spent


def test_what_others_spend_is_taken_off_once() -> None:
    mine = Budget(600, 0.0)
    for _ in range(3):
        mine.hear({"b": Told(600, 200.0, 400.0, 1.0, 100.0), "c": None}, 3, 1.0)
    assert mine.told(1.0) == Told(600, 0.0, 400.0, 1.0, pytest.approx(400 / 3))
    assert fierce(mine, 1.0) == 134  # a third, rounded up
    mine.hear({"b": Told(600, 250.0, 150.0, 1.0, 50.0), "c": Told(600, 0.0, 150.0, 1.0, 100.0)}, 3, 1.0)
    told = mine.told(1.0)
    assert told.level == 400 - 134 - 50
    assert told.part < 24  # of what is left, 150 are others'; a third of the rest, and not all of it


def test_a_new_copy_takes_its_level_from_older_ones() -> None:
    new = Budget(600, 1000.0)
    new.hear({"old": Told(600, 99_999.0, 3.0, 900.0, 1.0)}, 2, 1000.0)
    assert fierce(new, 1000.0) == 1
    new.hear({"old": Told(600, 100_000.0, 1.0, 900.0, 1.0)}, 2, 1000.0)
    assert fierce(new, 1000.0) == 0


def test_copies_with_another_budget_of_the_tenant_are_not_heard() -> None:
    mine = Budget(600, 0.0)
    mine.hear({"b": Told(60, 50.0, 0.0, 0.0, 0.0)}, 2, 0.0)
    assert mine.told(0.0).level == 600


def test_a_copy_that_hears_of_nobody_goes_on_at_its_part() -> None:
    lone = Budget(600, 0.0)
    lone.hear({"b": None, "c": None}, 3, 0.0)
    spent = sum(fierce(lone, tick / 100) for tick in range(6001))
    assert spent == pytest.approx((600 + 600) / 3, abs=2)


def test_only_tenants_of_whom_something_is_told_are_there() -> None:
    told = Told(60, 1.0, 59.0, 0.0, 59.0), Told(0, 0.0, 0.0, 0.0, 0.0)
    others = [Counts("b", {"acme": told}), Counts("c", {})]
    assert of_tenant(others, "acme") == ({"b": told[0], "c": None}, {"b": told[1], "c": None})


LOADS = st.lists(st.integers(0, 40), min_size=3, max_size=3)


@settings(deadline=None, max_examples=60)
@given(
    st.integers(60, 3000),
    LOADS,
    st.integers(1, 150),
    st.sampled_from(["none", "dies", "is replaced", "hangs"]),
    st.data(),
)
def test_copies_hold_a_budget_together(
    per_minute: int, loads: list[int], at: int, accident: str, data: st.DataObject
) -> None:
    """Three copies with loads of their own, in requests per 50 ms; one may go at some time, and another one come."""
    copies = {name: Budget(per_minute, 0.0) for name in "abc"}
    phases = {name: data.draw(st.integers(0, 4)) for name in "abcd"}
    demand = dict(zip("abc", loads, strict=True))
    for name, budget in copies.items():
        budget.hear({other: None for other in copies if other != name}, 3, 0.0)
    spent, asked, hung = 0, 0, ""
    ticks = 200
    for tick in range(ticks):
        now = tick * 0.05
        if tick == at and accident == "hangs":
            hung = "b"
        elif tick == at and accident != "none":
            del copies["b"]
            if accident == "is replaced":
                copies["d"], demand["d"] = Budget(per_minute, now), demand["b"]
                copies["d"].hear({n: copies[n].told(now) for n in "ac"}, 3, now)
        for name, budget in copies.items():
            if name != hung:
                spent += fierce(budget, now, demand[name])
                asked += demand[name]
            if tick % 5 == phases[name] and name != hung:
                others = {n: b.told(now) for n, b in copies.items() if n not in (name, hung)}
                budget.hear(others, len(copies), now)
    allowed = per_minute * (1 + ticks * 0.05 / 60)
    # What the one spent after the others had last heard of it, five ticks at most, went with it.
    lost = 5 * demand["b"] if accident != "none" else 0
    assert spent <= 1.1 * allowed + len(copies) + lost
    if asked >= 2 * allowed and accident == "none" and min(loads) > 0:
        assert spent >= 0.9 * allowed - len(copies)


PATH = "/v1/chat/completions"
TOKEN = "fleet-token"
REQUESTS, TOKENS = 240, 2400
MOST_S = 60.0


@pytest.fixture
async def three(tmp_path: Path, make_policy: Any) -> AsyncIterator[list[tuple[str, asyncio.subprocess.Process]]]:
    """Three router processes before one server, each with all internal ports as its peers: public URLs."""
    budgets = {"lots": {"requestsPerMinute": REQUESTS}, "words": {"tokensPerMinute": TOKENS}}
    keys = [{"tenant": name, "sha256": sha256(name.encode()).hexdigest()} for name in budgets]
    file = tmp_path / "keys.json"
    file.write_text(json.dumps({"tenants": [{"name": name, **more} for name, more in budgets.items()], "keys": keys}))
    # One report is enough: this is not about replicas.
    policy = make_policy(staleness=StalenessPolicy(stale_after_seconds=600, dead_after_seconds=600))
    ports = free_ports(3)
    started: list[tuple[str, asyncio.subprocess.Process]] = []
    async with FakeReplica(max_running=64) as server:
        try:
            for index, port in enumerate(ports):
                config = RouterConfig(
                    name="demo", model="tiny", port=0, internal_port=port, policy=policy, keys_file=str(file),
                    peers=tuple(f"http://127.0.0.1:{each}" for each in ports), access_log_sample=10**6,
                )  # fmt: skip
                (tmp_path / f"{index}.json").write_bytes(config.to_wire())
                process = await asyncio.create_subprocess_exec(
                    *(sys.executable, "-m", "trimode_router", "--config", str(tmp_path / f"{index}.json")),
                    stdout=asyncio.subprocess.PIPE,
                    stderr=asyncio.subprocess.DEVNULL,
                    env=os.environ | {TOKEN_VARIABLE: TOKEN},
                )
                started.append(("", process))
                assert process.stdout is not None
                async with asyncio.timeout(60):
                    line = json.loads(await process.stdout.readline())
                started[-1] = line["url"], process
                async with aiohttp.ClientSession(headers={"Authorization": f"Bearer {TOKEN}"}) as inside:
                    report = server.report().model_copy(update={"max_running": 64}).to_wire()
                    async with inside.post(line["internalUrl"] + REPORT_PATH, data=report) as answer:
                        assert answer.status == 200
            yield started
        finally:
            for _, process in started:
                with suppress(ProcessLookupError):
                    process.kill()
                await process.communicate()


def free_ports(count: int) -> list[int]:
    with ExitStack() as stack:
        sockets = [stack.enter_context(socket.socket()) for _ in range(count)]
        for each in sockets:
            each.bind(("127.0.0.1", 0))
        return [each.getsockname()[1] for each in sockets]


@pytest.mark.slow
async def test_three_processes_hold_budgets_together_while_one_is_killed(
    three: list[tuple[str, asyncio.subprocess.Process]],
) -> None:
    """As many requests as they take, at all of them: what comes through is the budget, within 10 %,
    whichever of them it came through."""
    began, passed, refused = time.monotonic(), {"lots": 0, "words": 0}, {"lots": 0, "words": 0}
    chat = {"model": "tiny", "messages": [{"role": "user", "content": "hi"}], "max_tokens": 6}

    async def ask(url: str, tenant: str) -> None:
        async with aiohttp.ClientSession(url, headers={"Authorization": f"Bearer {tenant}"}) as http:
            while not over():
                try:
                    async with http.post(PATH, json=chat) as answer:
                        await answer.read()
                except aiohttp.ClientError:
                    return  # the process that was killed
                assert answer.status in (200, 429), answer.status
                (passed if answer.status == 200 else refused)[tenant] += 1
                # What the killed one spends in a quarter of a second is to be little of the whole.
                await asyncio.sleep(0.02)

    def over() -> bool:
        """By then most are refused, however slow the machine is: all that may pass has passed."""
        return min(refused.values()) > REQUESTS / 2 or time.monotonic() - began > MOST_S

    async def kill() -> None:
        while min(passed.values()) < 80 and not over():  # noqa: ASYNC110 - counted by the clients
            await asyncio.sleep(0.01)
        three[1][1].kill()

    clients = [ask(url, tenant) for url, _ in three for tenant in passed]
    await asyncio.gather(kill(), *clients)
    ended = time.monotonic() - began
    # A full minute's budget is there at the start, and what flows in.
    share = 1 + ended / 60
    assert passed["lots"] == pytest.approx(REQUESTS * share, rel=0.1)
    # What a request costs in tokens: its prompt, as the router estimates it, and those of the answer.
    assert passed["words"] * (6 + estimate(chat)) == pytest.approx(TOKENS * share, rel=0.1)
    assert min(refused.values()) > 0


def estimate(chat: dict[str, Any]) -> int:
    return parse(PATH, json.dumps(chat).encode(), ()).prompt_tokens
