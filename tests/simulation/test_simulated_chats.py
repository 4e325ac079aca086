"""Conversations: what replicas keep of them, and what it is worth to send them back where they were."""

from __future__ import annotations

from dataclasses import replace
from random import Random
from typing import Any

from trimode_tools.simulator.production import LEAST_BEGINNING, beginnings_of
from trimode_tools.simulator.rows import EngineLimits, PrefixCache
from trimode_tools.simulator.scenario import Scenario
from trimode_tools.simulator.workload import Chats, Job, chats

Run = Any


def job(prompt: int, chat: int, shared: int = 0) -> Job:
    return Job(0.0, prompt, 50, 0, 0, chat, shared)


def test_what_was_said_need_not_be_computed_again() -> None:
    kept = PrefixCache(1000)
    kept.add(job(300, 1), room=1000)
    assert kept.of(job(420, 1, shared=350)) == 350
    assert kept.of(job(350, 1, shared=350)) == 349  # one token is needed to go on from
    assert kept.of(job(420, 2, shared=350)) == 0
    assert kept.of(job(420, 0)) == 0


def test_the_least_lately_used_goes_first_and_those_who_run_need_the_room() -> None:
    kept = PrefixCache(1000)
    for chat in (1, 2, 1, 3):
        kept.add(job(300, chat), room=1000)
    assert list(kept.chats) == [1, 3]
    kept.add(job(300, 4), room=500)
    assert list(kept.chats) == [4]
    kept.add(job(300, 5), room=100)
    assert (kept.chats, kept.tokens) == ({}, 0)


def test_a_conversation_grows_and_comes_in_order() -> None:
    jobs = list(Chats("chats", 60.0, 20.0).jobs(2, 3, Random(1)))
    assert [j.at for j in jobs] == sorted(j.at for j in jobs)
    assert max(j.at for j in jobs) < 60.0
    said: dict[int, Job] = {}
    for each in jobs:
        before = said.get(each.chat)
        if before is not None:
            assert each.shared == before.prompt + before.output < each.prompt
            assert (each.tier, each.kind) == (before.tier, before.kind)
        said[each.chat] = each
    assert len(jobs) > 1.5 * len(said)


def test_beginnings_are_those_of_the_router() -> None:
    assert beginnings_of(job(LEAST_BEGINNING - 1, 7)) == ()
    assert beginnings_of(job(5 * LEAST_BEGINNING, 7)) == tuple((LEAST_BEGINNING * n, 7) for n in (1, 2, 4))


def test_affinity_spares_prompts_and_loses_nothing(scenario: Scenario, run: Run) -> None:
    world = replace(scenario, limits=EngineLimits(64, 500_000.0, kept=100_000))
    load = list(chats(40.0, 40.0).jobs(2, 2, Random(2)))
    warm, cold = run("trimode", world, load).account, run("no-affinity", world, load).account
    assert warm.ttft.percentile(50) < 0.9 * cold.ttft.percentile(50)
    assert sum(warm.good) >= 0.99 * sum(cold.good)
