"""The life of an exchange, by tables: which phase follows which, and what its owner hears of it."""

from __future__ import annotations

from typing import Any

import pytest

from trimode_api.wire import (
    AdmissionPolicy,
    PolicyConfig,
    PoolPolicy,
    StalenessPolicy,
    SwitchingPolicy,
    TierPolicy,
)
from trimode_router.dispatch.queue import Queue
from trimode_router.dispatch.retries import another_is_too_many, note_failure
from trimode_router.fleet.fleet import Fleet
from trimode_router.fleet.policy import Tier
from trimode_router.http.head import AnswerHead
from trimode_router.http.limits import Limits
from trimode_router.http.request import Request
from trimode_router.request.exchange import Exchange
from trimode_router.request.parse import ParsedRequest
from trimode_router.request.record import Caller, Failure, Phase

EVENT = b'data: {"id":"c-1","created":1,"trimode":{"ids":[1]}}\n\n'
STREAM = AnswerHead(200, chunked=False, stream=True)
POLICY = PolicyConfig(
    version=1,
    tiers=(TierPolicy(name="t", ttft_milliseconds=500, tpot_milliseconds=50, percentile=95, priority=1),),
    pools=(PoolPolicy(name="p", points=("AR",)),),
    switching=SwitchingPolicy(margin_percent=5, min_dwell_milliseconds=500, fallback={"p": "AR"}),
    admission=AdmissionPolicy(max_queued_requests=8, max_wait_milliseconds=2000),
    staleness=StalenessPolicy(stale_after_seconds=2, dead_after_seconds=10),
)


class Client:
    """What an exchange writes to."""

    paused = gone = False

    def __init__(self) -> None:
        self.transport = self

    def write(self, data: bytes) -> None: ...
    def finished(self) -> None: ...
    def abort(self) -> None: ...


class Owner:
    """Notes what it hears; there is always another replica."""

    limits = Limits()
    passes_keys = False

    def __init__(self) -> None:
        self.heard: list[tuple[str, Phase]] = []
        self.time = 0.0

    def now(self) -> float:
        self.time += 1.0
        return self.time

    def first_byte(self, exchange: Exchange, *, well: bool, pause_s: float | None) -> None: ...

    def elsewhere(self, exchange: Exchange) -> bool:
        return True

    def failed(self, exchange: Exchange, why: str, how: Failure, last: Phase) -> None:
        self.heard.append(("failed", last))

    def over(self, exchange: Exchange, last: Phase) -> None:
        self.heard.append(("over", last))


def an_exchange(owner: Owner) -> Exchange:
    client: Any = Client()
    request = Request("POST", "/v1/chat/completions", "", False, True, "id", None, (), b"{}")
    asked = ParsedRequest("m", True, 1, None, False, None)
    return Exchange(owner, client, request, asked, Caller(Tier("t", 1, 0.5, 0.05)))


def live(exchange: Exchange, *steps: str) -> None:
    for step in steps:
        match step:
            case "place":
                exchange.placed("r-1", 0.0)
            case "head":
                exchange.on_head(STREAM)
            case "busy":
                exchange.on_head(AnswerHead(503))
            case "event":
                exchange.on_bytes(EVENT)
            case "half":
                exchange.on_bytes(EVENT[:9])
            case "break":
                exchange.on_broken("closed the connection", untouched=False)
            case "away":
                exchange.unreached("could not be reached")
            case "end":
                exchange.on_end(b"")
            case "leave":
                exchange.client_gone()


FLOWS = ("place", "head", "event")
BREAKS = (*FLOWS, "break")


@pytest.mark.parametrize(
    ("steps", "phase", "heard"),
    [
        ((), Phase.WAITING, None),
        (("place",), Phase.SENT, None),
        (("place", "away"), Phase.WAITING, ("failed", Phase.SENT)),
        (("place", "busy"), Phase.WAITING, ("failed", Phase.SENT)),
        (("place", "head"), Phase.SENT, None),
        (("place", "head", "half"), Phase.SENT, None),
        (("place", "head", "half", "break"), Phase.WAITING, ("failed", Phase.SENT)),
        (("place", "away", "place"), Phase.SENT, ("failed", Phase.SENT)),
        (FLOWS, Phase.FLOWING, None),
        (BREAKS, Phase.BROKEN, ("failed", Phase.FLOWING)),
        ((*FLOWS, "half", "break"), Phase.BROKEN, ("failed", Phase.FLOWING)),
        ((*BREAKS, "place"), Phase.RESUMING, ("failed", Phase.FLOWING)),
        ((*BREAKS, "place", "away"), Phase.BROKEN, ("failed", Phase.RESUMING)),
        ((*BREAKS, "place", "busy"), Phase.BROKEN, ("failed", Phase.RESUMING)),
        ((*BREAKS, "place", "head"), Phase.RESUMING, ("failed", Phase.FLOWING)),
        ((*BREAKS, "place", "head", "event"), Phase.FLOWING, ("failed", Phase.FLOWING)),
        (("leave",), Phase.OVER, ("over", Phase.WAITING)),
        (("place", "leave"), Phase.OVER, ("over", Phase.SENT)),
        ((*BREAKS, "leave"), Phase.OVER, ("over", Phase.BROKEN)),
        ((*BREAKS, "place", "leave"), Phase.OVER, ("over", Phase.RESUMING)),
        ((*FLOWS, "end"), Phase.OVER, ("over", Phase.FLOWING)),
        (("place", "head", "end"), Phase.OVER, ("over", Phase.FLOWING)),
        ((*FLOWS, "end", "leave"), Phase.OVER, ("over", Phase.FLOWING)),
    ],
    ids=lambda value: ", ".join(value) if isinstance(value, tuple) and all(isinstance(v, str) for v in value) else None,
)
def test_phases(steps: tuple[str, ...], phase: Phase, heard: tuple[str, Phase] | None) -> None:
    owner = Owner()
    exchange = an_exchange(owner)
    live(exchange, *steps)
    assert exchange.phase is phase
    assert (owner.heard[-1] if owner.heard else None) == heard
    assert sum(what == "over" for what, _ in owner.heard) == (phase is Phase.OVER)


def test_a_connection_for_an_earlier_attempt_is_not_used() -> None:
    exchange = an_exchange(Owner())
    live(exchange, "place")
    assert exchange.awaits(1)
    live(exchange, "away")
    assert not exchange.awaits(1)
    live(exchange, "place")
    assert not exchange.awaits(1)
    assert exchange.awaits(2)
    live(exchange, "leave")
    assert not exchange.awaits(2)


@pytest.mark.parametrize(
    ("how", "last", "unseen", "failed_attempts", "not_before"),
    [
        (Failure.UNTOUCHED, Phase.SENT, 1, 0, 0.0),
        (Failure.AWAY, Phase.SENT, 1, 0, 0.0),
        (Failure.BROKEN, Phase.SENT, 0, 0, 0.0),
        (Failure.BROKEN, Phase.FLOWING, 0, 0, 0.0),
        (Failure.AWAY, Phase.RESUMING, 1, 0, 0.0),
        (Failure.REFUSED, Phase.RESUMING, 0, 1, 0.0),
        (Failure.BROKEN, Phase.RESUMING, 0, 1, 10.25),
    ],
)
def test_what_a_failure_counts_for(
    how: Failure, last: Phase, unseen: int, failed_attempts: int, not_before: float
) -> None:
    exchange = an_exchange(Owner())
    note_failure(exchange, "r-1 closed the connection", how, last, 10.0)
    assert exchange.record.failures == ("r-1 closed the connection",)
    assert (exchange.record.unseen, exchange.failed_attempts, exchange.not_before) == (
        unseen,
        failed_attempts,
        not_before,
    )


def test_attempts_end() -> None:
    limits = Limits(attempts=2, placements=4, continuations=2, resumptions=1)
    waits, broken = an_exchange(Owner()), an_exchange(Owner())
    live(broken, *BREAKS)
    waits.record.attempts, waits.record.unseen = 3, 2
    assert not another_is_too_many(waits, limits)
    waits.record.unseen = 1
    assert another_is_too_many(waits, limits)
    waits.record.attempts, waits.record.unseen = 4, 4
    assert another_is_too_many(waits, limits)
    assert not another_is_too_many(broken, limits)
    broken.failed_attempts = 2
    assert another_is_too_many(broken, limits)
    broken.failed_attempts, broken.record.resumptions = 0, 2
    assert another_is_too_many(broken, limits)


def test_the_wait_of_a_broken_stream_is_no_wait_in_the_queue() -> None:
    """It took in all the time that the stream had flowed."""
    now = 10.0
    queue = Queue(Fleet("m", POLICY, 1), lambda: now, lambda exchange, now, in_turn=False: False)
    exchange = an_exchange(Owner())
    exchange.record.queued_at = 10.0
    queue.enter(exchange, 10.0, 20.0)
    now = 10.5
    assert queue.leave(exchange)
    live(exchange, *BREAKS)
    now = 30.0
    queue.enter(exchange, 30.0, 60.0)
    now = 31.0
    assert queue.leave(exchange)
    assert exchange.record.queue_wait == 0.5
