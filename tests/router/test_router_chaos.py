"""Short rounds of `python -m trimode_lab.router.chaos`: real processes, every request and every token checked.

Longer rounds: `python -m trimode_lab.router.chaos --seconds 60`; the soak of ten minutes: `make soak`.
"""

from __future__ import annotations

import asyncio
from contextlib import closing
from dataclasses import replace
from urllib.parse import urlsplit

import pytest

from trimode_lab.router.chaos.__main__ import Result, play, table
from trimode_lab.router.chaos.leaks import SAMPLES, Sample
from trimode_lab.router.chaos.leaks import table as leak_table
from trimode_lab.router.chaos.load import Account
from trimode_lab.router.chaos.processes import Processes, ProcessUsage
from trimode_lab.router.chaos.scenarios import SCENARIOS, SOAK

SECONDS = {"soak": 60.0, "hang": 9.0, "all gone": 6.0, "router SIGTERM": 6.0}
STREAMS = 50
BY_NAME = {scenario.name: scenario for scenario in SCENARIOS}
INTERRUPTED = ("all gone", "router SIGTERM")
"""Scenarios with times in which nobody could be served, so that no stream is open."""
REST = ProcessUsage(memory_mb=60.0, descriptors=30, tasks=5)


def check(result: Result) -> None:
    account, samples, name = result.account, result.samples, result.scenario.name
    told = (account.ends, account.examples, result.before, result.after, leak_table(samples))
    assert result.problems == (), told
    assert account.ends["ok"] > STREAMS
    if name not in INTERRUPTED:
        assert len(samples) == SAMPLES
        assert sorted(sample.streams for sample in samples)[SAMPLES // 2] == STREAMS
    if name in ("kill -9", "hang", "reset", "all gone", SOAK):
        assert account.resumed > 0


@pytest.mark.chaos
@pytest.mark.slow
@pytest.mark.parametrize("name", list(BY_NAME))
async def test_nothing_is_lost_and_nothing_leaks(name: str) -> None:
    check(await play(BY_NAME[name], SECONDS.get(name, 5.0), STREAMS))


@pytest.mark.chaos
@pytest.mark.slow
async def test_at_rest_means_that_no_client_is_connected() -> None:
    async with Processes() as processes:
        address = urlsplit(processes.url)
        _, client = await asyncio.open_connection(address.hostname, address.port)
        with closing(client):
            while (await processes.gauges("client_connections")) != [2]:  # noqa: ASYNC110 - it, and the one that asks
                await asyncio.sleep(0.01)
            settled = asyncio.ensure_future(processes.settled())
            done, _ = await asyncio.wait([settled], timeout=0.3)
            assert not done
        await settled


def test_a_lost_request_shows() -> None:
    account = Account()
    account.note("ok")
    result = Result(BY_NAME["calm"], account, REST, REST)
    assert result.problems == ()
    for end in ("error", "wrong", "refused", "unconnected", "left"):
        bad = Account()
        bad.note("ok")
        bad.note(end, "why")
        assert Result(BY_NAME["calm"], bad, REST, REST).problems == (f"1 requests: {end}",)
    assert "| calm | 1 | 1 |" in table([result])


def grown(**by: float) -> ProcessUsage:
    return replace(REST, **{name: getattr(REST, name) + more for name, more in by.items()})


def a_soak(mb: float, descriptors: int = 0) -> list[Sample]:
    """That grows by so much with every sample."""
    return [
        Sample(30.0 * n, n, n, STREAMS, grown(memory_mb=mb * n, descriptors=descriptors * n))
        for n in range(1, SAMPLES + 1)
    ]


@pytest.mark.parametrize(
    ("after", "samples", "words"),
    [
        (grown(tasks=6), [], "6 tasks more"),
        (grown(descriptors=51), [], "51 descriptors more"),
        (grown(memory_mb=21.0), [], "21.0 MB more"),
        (REST, a_soak(0.6), "MB more in the last two thirds"),
        (REST, a_soak(0.0, 6), "descriptors more in the last two thirds"),
        (grown(tasks=5, descriptors=50, memory_mb=19.0), a_soak(0.2), ""),
    ],
)
def test_a_leak_shows(after: ProcessUsage, samples: list[Sample], words: str) -> None:
    found = Result(BY_NAME[SOAK], Account(), REST, after, samples).problems
    assert len(found) == bool(words)
    assert words in "".join(found)
    assert leak_table(samples).count("\n") == 1 + len(samples)
