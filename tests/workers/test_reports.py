"""Reports and what comes back with them: a stand-in router over real HTTP, and the pure parts."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncIterator, Awaitable, Callable
from types import SimpleNamespace

import pytest

from trimode_api.modes import AR, speculation
from trimode_api.wire import Command, PolicyConfig, ReportAnswer, SwitchingPolicy
from trimode_lab.doubles.router import ListeningRouter
from trimode_workers.replica.addresses import Routers
from trimode_workers.replica.autoscaling import Scaler
from trimode_workers.replica.policy import configure_for, keeping, pool_points
from trimode_workers.replica.replica import Replica
from trimode_workers.replica.report import RateWindow
from trimode_workers.replica.reporter import Reporter
from trimode_workers.replica.settings import ReplicaSettings

Eventually = Callable[..., Awaitable[None]]
StartReplica = Callable[[ReplicaSettings], Awaitable[Replica]]


@pytest.fixture
async def router() -> AsyncIterator[ListeningRouter]:
    async with ListeningRouter() as listening:
        yield listening


@pytest.fixture
async def reporting(start_replica: StartReplica, settings: ReplicaSettings, router: ListeningRouter) -> Replica:
    return await start_replica(settings.model_copy(update={"router_urls": (router.url,)}))


def newer(policy: PolicyConfig, version: int, fixed: str) -> PolicyConfig:
    switching = policy.switching.model_copy(update={"fixed": {"flex": fixed}})
    return policy.model_copy(update={"version": version, "switching": switching})


class TestReporting:
    async def test_what_a_report_says(
        self, reporting: Replica, router: ListeningRouter, eventually: Eventually
    ) -> None:
        await eventually(lambda: len(router.reports) >= 3)
        report = router.last
        assert router.authorization == "Bearer fleet-secret"
        assert (report.replica_id, report.url, report.model) == (reporting.replica_id, reporting.url, "echo")
        assert (report.ready, report.draining, report.running, report.waiting) == (True, False, 0, 0)
        assert (report.max_running, report.max_context_tokens) == (4, 256)
        assert report.allowed_points == ("AR", "S8", "S16", "D32@0.9")
        assert (report.point, report.decision.point, report.policy_version) == ("AR", "AR", 1)
        sequences = [each.sequence for each in router.reports]
        assert sequences == sorted(set(sequences))

    async def test_a_newer_policy_is_in_force_within_a_second(
        self, reporting: Replica, router: ListeningRouter, policy: PolicyConfig, eventually: Eventually
    ) -> None:
        router.answer = ReportAnswer(policy=newer(policy, 2, "S8"))
        await eventually(lambda: router.reports and router.last.policy_version == 2, within_s=1.5)
        assert router.last.point == "S8"
        router.answer = ReportAnswer(policy=newer(policy, 1, "S16"))
        await asyncio.wait_for(_more(router, 4), 5)
        assert (router.last.policy_version, router.last.point) == (2, "S8")

    async def test_a_policy_without_the_pool_changes_no_points(
        self, reporting: Replica, router: ListeningRouter, policy: PolicyConfig, eventually: Eventually
    ) -> None:
        other = policy.pools[0].model_copy(update={"name": "other"})
        router.answer = ReportAnswer(policy=policy.model_copy(update={"version": 5, "pools": (other,)}))
        await eventually(lambda: reporting.policy.version == 5)
        await eventually(lambda: router.last.policy_version == 5)
        assert (router.last.ready, router.last.point) == (True, "AR")
        assert router.last.allowed_points == ("AR", "S8", "S16", "D32@0.9")
        assert len(reporting.offer().points) == 4

    async def test_drain_and_undrain(self, reporting: Replica, router: ListeningRouter, eventually: Eventually) -> None:
        router.answer = ReportAnswer(command=Command.DRAIN)
        await eventually(lambda: bool(router.reports) and router.last.draining)
        refusal = reporting.refusal()
        assert refusal is not None
        assert (refusal.status, refusal.retry_after_s) == (503, 1)
        router.answer = ReportAnswer()
        await asyncio.wait_for(_more(router, 3), 5)
        assert router.last.draining
        router.answer = ReportAnswer(command=Command.UNDRAIN)
        await eventually(lambda: not router.last.draining)
        assert reporting.refusal() is None

    async def test_the_last_report_says_goodbye(
        self, reporting: Replica, router: ListeningRouter, eventually: Eventually
    ) -> None:
        await eventually(lambda: bool(router.reports))
        await reporting.stop()
        assert (router.last.ready, router.last.draining) == (False, True)

    async def test_a_router_that_is_away_is_complained_of_once_and_found_again(
        self, reporting: Replica, router: ListeningRouter, eventually: Eventually, caplog: pytest.LogCaptureFixture
    ) -> None:
        caplog.set_level(logging.INFO)
        router.status = 500
        await asyncio.wait_for(_more(router, 3), 10)
        router.status = 200
        await asyncio.wait_for(_more(router, 2), 10)
        words = [record.getMessage() for record in caplog.records if "reports" in record.getMessage()]
        assert len(words) == 2
        assert "does not take reports" in words[0]
        assert "again" in words[1]

    async def test_nobody_there_disturbs_nothing(self, start_replica: StartReplica, settings: ReplicaSettings) -> None:
        replica = await start_replica(settings.model_copy(update={"router_urls": ("http://127.0.0.1:9",)}))
        assert replica.refusal() is None


async def _more(router: ListeningRouter, count: int) -> None:
    """Until `count` more reports have come."""
    until = len(router.reports) + count
    while len(router.reports) < until:  # noqa: ASYNC110 - reports come from another process's clock
        await asyncio.sleep(0.01)


class TestPolicy:
    """One pool's part of the fleet's policy."""

    def test_what_the_engine_is_told(self, policy: PolicyConfig) -> None:
        configure = configure_for(policy, "flex")
        assert configure is not None
        assert configure.points == ["AR", "S8", "S16", "D32@0.9"]
        assert (configure.fallback, configure.fixed, configure.version) == ("AR", None, 1)
        assert (configure.margin_percent, configure.min_dwell_s, configure.dry_run) == (5, 0.2, False)

    def test_manual_mode(self, policy: PolicyConfig) -> None:
        configure = configure_for(newer(policy, 2, "S8"), "flex")
        assert configure is not None
        assert (configure.fixed, configure.version) == ("S8", 2)

    def test_without_a_fallback_the_first_point_is_it(self, policy: PolicyConfig) -> None:
        switching = SwitchingPolicy(margin_percent=5, min_dwell_milliseconds=0, fallback={})
        configure = configure_for(policy.model_copy(update={"switching": switching}), "flex")
        assert configure is not None
        assert configure.fallback == "AR"

    def test_an_unknown_pool(self, policy: PolicyConfig) -> None:
        assert configure_for(policy, "other") is None
        assert pool_points(policy, "other") == ()
        assert pool_points(policy, "flex")[:2] == (AR, speculation(8))

    def test_a_pool_that_is_taken_away_goes_on_as_before(self, policy: PolicyConfig) -> None:
        before = newer(policy, 2, "S8")
        other = policy.pools[0].model_copy(update={"name": "other"})
        switching = policy.switching.model_copy(update={"margin_percent": 9, "fallback": {"other": "AR"}})
        after = policy.model_copy(update={"version": 3, "pools": (other,), "switching": switching})
        kept = keeping(after, "flex", before)
        configure = configure_for(kept, "flex")
        assert configure is not None
        assert (configure.points, configure.fixed) == (["AR", "S8", "S16", "D32@0.9"], "S8")
        assert (configure.fallback, configure.margin_percent, configure.version) == ("AR", 9, 3)
        assert keeping(before, "flex", policy) is before
        assert keeping(after, "unheard of", before) is after

    def test_settings_refuse_a_pool_without_policy(self, settings: ReplicaSettings) -> None:
        with pytest.raises(ValueError, match="'other' is not in the policy"):
            ReplicaSettings(**settings.model_dump() | {"pool": "other"})


def test_a_rate_is_over_the_last_seconds_only() -> None:
    window = RateWindow(seconds=2.0)
    assert window.rate(100, now=10.0) == 0.0
    assert window.rate(110, now=11.0) == 10.0
    assert window.rate(110, now=12.0) == 5.0
    assert window.rate(110, now=13.0) == 0.0
    assert window.rate(110, now=13.0) == 0.0


@pytest.mark.parametrize(("occupancy", "wanted"), [(1.0, 3), (0.2, 1), (0.7, 2)])
def test_serve_is_answered_by_the_replicas_own_figures(occupancy: float, wanted: int) -> None:
    context = SimpleNamespace(
        aggregated_metrics={"occupancy": {"a": occupancy, "b": occupancy}},
        current_num_replicas=2,
        target_num_replicas=2,
        capacity_adjusted_min_replicas=1,
        capacity_adjusted_max_replicas=4,
    )
    assert Scaler([], "flex")(context) == (wanted, {})


async def test_a_poke_that_comes_with_the_end_does_not_keep_it_from_ending(
    monkeypatch: pytest.MonkeyPatch, eventually: Eventually
) -> None:
    """Stopping a replica pokes its reporter first: both reach the waiting task at once."""

    async def posted(self: Reporter, router: object) -> bool:
        return True

    monkeypatch.setattr(Reporter, "_post", posted)
    routers = Routers(["http://127.0.0.1:9"])
    for _ in range(5):
        reporter = Reporter(routers, "token", 10.0, lambda: None, lambda answer: None)  # type: ignore[arg-type,return-value]
        reporter.start()
        await eventually(lambda reporter=reporter: bool(reporter._routers))
        await asyncio.sleep(0.01)
        reporter.poke()
        async with asyncio.timeout(5):
            await reporter.stop()
