"""Signs of life: a watch that has quietly died shows."""

from __future__ import annotations

from typing import Any

import pytest
from aiohttp.test_utils import TestClient, TestServer

from trimode_lab.doubles.kubernetes.cluster import MemoryCluster
from trimode_operator.errors import ApiUnreachable
from trimode_operator.kube.cache import Cache, Key
from trimode_operator.metrics import Metrics
from trimode_operator.process import health
from trimode_operator.process.health import SUSPECT_S, Liveness, Shown, Watchdog, pages

KEY = Key("default", "nemo")


def resource(**metadata: Any) -> dict[str, Any]:
    return {
        "kind": "NemotronDeployment",
        "metadata": {"name": "nemo", "namespace": "default", **metadata},
        "status": {"conditions": [{"type": "Ready", "status": "True"}]},
    }


class Watched:
    """A watchdog over a cluster and a cache that a watch may or may not feed."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(health, "GRACE_S", 0.0)
        self.cluster, self.cache, self.liveness = MemoryCluster(), Cache(), Liveness(started=0.0)
        self.now = 100.0
        self.changed: list[Key] = []
        self.dog = Watchdog(self.cluster, self.cache, self.liveness, (), lambda: self.now, self.changed.append)

    def trouble(self, after: float) -> str:
        return self.liveness.trouble(self.now + after, 0.0)


@pytest.fixture
def watched(monkeypatch: pytest.MonkeyPatch) -> Watched:
    return Watched(monkeypatch)


async def test_a_quiet_cluster_is_no_trouble(watched: Watched) -> None:
    await watched.dog.check()
    assert watched.liveness.ready
    assert watched.liveness.watch_age_s(watched.now) == 0.0
    assert not watched.trouble(10 * SUSPECT_S)


async def test_what_the_watch_told_agrees_with_the_list(watched: Watched) -> None:
    watched.cache.put(watched.cluster.put(resource()))
    await watched.dog.check()
    assert watched.liveness.ready
    assert watched.changed == []


async def test_a_dead_watch_is_found_out_and_made_up_for(watched: Watched) -> None:
    await watched.dog.check()
    watched.cluster.put(resource())
    await watched.dog.check()
    assert watched.changed == [KEY]  # it is visited all the same
    assert not watched.trouble(SUSPECT_S)
    assert "missed a change" in watched.trouble(SUSPECT_S + 1)
    watched.liveness.saw_event(watched.now)
    assert not watched.trouble(SUSPECT_S + 1)


async def test_an_end_that_the_watch_missed_is_found_out_too(watched: Watched) -> None:
    await watched.dog.check()
    watched.cache.put(resource(uid="u", resourceVersion="5"))
    await watched.dog.check()
    assert watched.trouble(SUSPECT_S + 1)
    assert watched.changed == [KEY]
    assert watched.cache.resources() == ()


async def test_first_lists_may_take_a_while(watched: Watched) -> None:
    watched.now = 1.0
    watched.cluster.put(resource())
    await watched.dog.check()
    assert not watched.liveness.ready
    assert watched.liveness.suspect_at is None


async def test_an_api_server_that_is_away_is_no_reason_to_restart(watched: Watched) -> None:
    await watched.dog.check()
    watched.cluster.refuse = lambda *_: ApiUnreachable("away")
    with pytest.raises(ApiUnreachable):
        await watched.dog.check()
    assert not watched.trouble(3600.0)
    assert watched.liveness.watch_age_s(watched.now + 3600.0) == 3600.0


def test_a_reconciliation_that_hangs_is_trouble() -> None:
    assert "hung" in Liveness(started=0.0).trouble(1000.0, 151.0)


async def test_pages() -> None:
    cache, liveness, metrics = Cache(), Liveness(started=0.0), Metrics()
    cache.put(resource(uid="u", resourceVersion="1"))
    leads = True
    shown = Shown(metrics, cache, liveness, now=lambda: 100.0, oldest_reconcile_s=lambda: 0.0, leads=lambda: leads)
    async with TestClient(TestServer(pages(shown))) as client:
        assert (await client.get("/healthz")).status == 200
        assert (await client.get("/readyz")).status == 503
        liveness.agreed(100.0)
        assert (await client.get("/readyz")).status == 200
        text = await (await client.get("/metrics")).text()
        assert 'trimode_operator_resources{condition="Ready",status="True"} 1.0' in text
        leads = False
        assert "trimode_operator_resources{" not in await (await client.get("/metrics")).text()
        liveness.suspect_at = 0.0
        answer = await client.get("/healthz")
        assert answer.status == 503
        assert "watch missed" in await answer.text()
