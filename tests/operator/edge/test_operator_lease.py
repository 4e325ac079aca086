"""Who leads, and that nobody else writes."""

from __future__ import annotations

import asyncio
import contextlib

import pytest

from trimode_lab.doubles.kubernetes.cluster import MemoryCluster
from trimode_operator.errors import ApiUnreachable
from trimode_operator.kube.client import RESOURCE
from trimode_operator.kube.lease import Claim, Election, Fenced, Lock, NotLeading, Terms, claim_of, may_take, next_try_s
from trimode_operator.plan import ChildKind

TERMS = Terms(duration=9.0, renew_deadline=6.0, retry=0.001)
CONFIG_MAP = ChildKind("v1", "ConfigMap", "configmaps")


@pytest.mark.parametrize(
    ("holder", "seen_at", "now", "expected"),
    [
        ("", 0.0, 0.0, True),
        ("me", 0.0, 100.0, True),
        ("other", 0.0, 8.9, False),
        ("other", 0.0, 9.0, True),
    ],
)
def test_who_may_take_it(holder: str, seen_at: float, now: float, expected: bool) -> None:
    assert may_take(Claim(holder, "t", seen_at), "me", TERMS, now) is expected


def test_a_claim_ages_from_when_we_first_saw_it_whatever_its_clock_says() -> None:
    lease = {"spec": {"holderIdentity": "other", "renewTime": "2001-01-01T00:00:00Z"}}
    first = claim_of(lease, None, 10.0)
    assert claim_of(lease, first, 15.0).seen_at == 10.0
    renewed = {"spec": {"holderIdentity": "other", "renewTime": "2001-01-01T00:00:02Z"}}
    assert claim_of(renewed, first, 15.0).seen_at == 15.0


@pytest.mark.parametrize(
    ("claim", "now", "expected"),
    [
        (None, 0.0, 2.0),
        (Claim("", "t", 0.0), 8.5, 2.0),
        (Claim("other", "t", 0.0), 1.0, 2.0),
        (Claim("other", "t", 0.0), 8.5, 0.5),
        (Claim("other", "t", 0.0), 9.0, 2.0),
    ],
    ids=["nothing-known", "free", "fresh", "about-to-expire", "expired-and-not-taken"],
)
def test_when_it_is_tried_again(claim: Claim | None, now: float, expected: float) -> None:
    assert next_try_s(claim, Terms(), now) == expected


class Clock:
    """Stands until it is moved."""

    def __init__(self) -> None:
        self.now = 0.0

    def __call__(self) -> float:
        return self.now


class Candidate:
    """An election under way; notes what it is told."""

    def __init__(self, cluster: MemoryCluster, clock: Clock, name: str) -> None:
        self.news: list[bool] = []
        self.election = Election(cluster, Lock("default", "lock", name), clock, self.news.append, TERMS)
        self._task: asyncio.Task[None] | None = None

    def start(self) -> None:
        self._task = asyncio.create_task(self.election.run())

    async def stop(self) -> None:
        assert self._task is not None
        self._task.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await self._task

    async def until(self, leads: bool) -> None:
        async with asyncio.timeout(10):
            while self.election.leads is not leads or (self.news and self.news[-1]) != leads:  # noqa: ASYNC110
                await asyncio.sleep(0.001)


async def test_one_leads_and_hands_over_at_once_when_it_stops() -> None:
    cluster, clock = MemoryCluster(), Clock()
    first, second = Candidate(cluster, clock, "one"), Candidate(cluster, clock, "two")
    first.start()
    await first.until(True)
    second.start()
    await asyncio.sleep(0.02)
    assert not second.election.leads
    assert cluster.named("Lease", "lock")["spec"]["holderIdentity"] == "one"
    await first.stop()
    await second.until(True)  # the clock has not moved
    spec = cluster.named("Lease", "lock")["spec"]
    assert (spec["holderIdentity"], spec["leaseTransitions"]) == ("two", 1)
    await second.stop()


async def test_a_dead_leader_is_replaced_when_its_claim_has_expired() -> None:
    cluster, clock = MemoryCluster(), Clock()
    cluster.put(
        {
            "kind": "Lease",
            "metadata": {"name": "lock", "namespace": "default"},
            "spec": {"holderIdentity": "dead", "renewTime": "t"},
        }
    )
    heir = Candidate(cluster, clock, "heir")
    heir.start()
    await asyncio.sleep(0.02)
    assert not heir.election.leads
    clock.now = 9.0
    await heir.until(True)
    await heir.stop()


async def test_a_leader_that_cannot_renew_stops_before_others_begin() -> None:
    cluster, clock = MemoryCluster(), Clock()
    leader = Candidate(cluster, clock, "one")
    leader.start()
    await leader.until(True)
    cluster.refuse = lambda *_: ApiUnreachable("gone")
    await asyncio.sleep(0.02)
    assert leader.election.leads  # for now
    clock.now += TERMS.renew_deadline
    await leader.until(False)
    assert leader.news == [True, False]
    cluster.refuse = lambda *_: None
    await leader.until(True)
    await leader.stop()


async def test_a_leader_renews_without_reading() -> None:
    cluster, clock = MemoryCluster(), Clock()
    leader = Candidate(cluster, clock, "one")
    leader.start()
    await leader.until(True)
    cluster.refuse = lambda verb, *_: ApiUnreachable("no reads") if verb == "get" else None
    for _ in range(3):
        clock.now += TERMS.renew_deadline - 1.0
        await written(cluster, "replace")
    assert leader.election.leads
    assert leader.news == [True]
    await leader.stop()


async def written(cluster: MemoryCluster, verb: str) -> None:
    """Until the Lease was written this way twice: the first of them may have been begun before."""
    before = len(cluster.writes)
    async with asyncio.timeout(10):
        while cluster.writes[before:].count((verb, "Lease", "lock")) < 2:  # noqa: ASYNC110
            await asyncio.sleep(0.001)


async def test_a_lease_that_others_have_edited_or_deleted_is_renewed_in_the_same_attempt() -> None:
    cluster, clock = MemoryCluster(), Clock()
    leader = Candidate(cluster, clock, "one")
    leader.start()
    await leader.until(True)
    edited = cluster.named("Lease", "lock")
    cluster.put({**edited, "metadata": {**edited["metadata"], "annotations": {"seen-by": "a person"}}})
    await written(cluster, "replace")
    assert cluster.named("Lease", "lock")["metadata"]["annotations"] == {"seen-by": "a person"}
    del cluster.objects["Lease", "default", "lock"]
    await written(cluster, "replace")
    assert cluster.named("Lease", "lock")["spec"]["holderIdentity"] == "one"
    assert leader.news == [True]
    await leader.stop()


async def test_a_lease_that_another_has_taken_is_lost_at_once() -> None:
    """As after a machine that slept: the other waited, and this copy has not read anything since."""
    cluster, clock = MemoryCluster(), Clock()
    leader = Candidate(cluster, clock, "one")
    leader.start()
    await leader.until(True)
    held = cluster.named("Lease", "lock")
    cluster.put({**held, "spec": {**held["spec"], "holderIdentity": "two", "renewTime": "later"}})
    await leader.until(False)
    assert cluster.named("Lease", "lock")["spec"]["holderIdentity"] == "two"
    await leader.stop()


async def test_leading_ends_by_itself_even_where_the_loop_hangs() -> None:
    cluster, clock = MemoryCluster(), Clock()
    leader = Candidate(cluster, clock, "one")
    leader.start()
    await leader.until(True)
    clock.now += TERMS.renew_deadline
    assert not leader.election.leads  # nothing has run since
    await leader.stop()


async def test_without_the_lease_nothing_is_written() -> None:
    cluster = MemoryCluster()
    leads = False
    fenced = Fenced(cluster, lambda: leads)
    body = {"kind": "ConfigMap", "metadata": {"name": "c", "namespace": "default"}}
    for attempt in (
        lambda: fenced.apply(CONFIG_MAP, body),
        lambda: fenced.create(CONFIG_MAP, "default", body),
        lambda: fenced.replace(CONFIG_MAP, "default", "c", body),
        lambda: fenced.merge(RESOURCE, "default", "c", {}),
        lambda: fenced.patch(CONFIG_MAP, "default", "c", []),
        lambda: fenced.delete(CONFIG_MAP, "default", "c", "uid"),
    ):
        with pytest.raises(NotLeading):
            await attempt()
    assert cluster.writes == []
    assert await fenced.listed(CONFIG_MAP, None) == []
    leads = True
    await fenced.apply(CONFIG_MAP, body)
    assert cluster.writes == [("apply", "ConfigMap", "c")]
