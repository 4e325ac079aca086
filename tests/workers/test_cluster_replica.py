"""A replica as a cluster starts it: without a policy, with routers behind a name, from Serve's configuration."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from pathlib import Path
from typing import Any

import aiohttp
import pytest

from trimode_api.modes import BLOCK_LENGTHS
from trimode_api.wire import PolicyConfig
from trimode_lab.doubles.router import ListeningRouter
from trimode_workers.process.pending import EngineFailed
from trimode_workers.replica.addresses import FIRST_LOOKUP_S, LOOKUP_S, Routers, resolve_host
from trimode_workers.replica.policy import configure_for, stand_in
from trimode_workers.replica.replica import Replica
from trimode_workers.replica.reporter import Reporter
from trimode_workers.replica.settings import EngineOptions, PoolArgs, ReplicaSettings
from trimode_workers.replica.source import check_source, model_folder

Eventually = Callable[..., Awaitable[None]]
StartReplica = Callable[[ReplicaSettings], Awaitable[Replica]]


class FakeNames:
    """Names and their addresses, as they are now. A name without an entry is unknown."""

    def __init__(self, **names: Sequence[str]) -> None:
        self.names = dict(names)

    async def __call__(self, host: str) -> Sequence[str]:
        if host not in self.names:
            raise OSError(f"no such host: {host}")
        return self.names[host]


class TestAddresses:
    async def test_every_address_of_a_name_is_a_router(self) -> None:
        routers = Routers(["http://reports:8001"], FakeNames(reports=["10.0.0.1", "10.0.0.2"]))
        assert (routers.urls, routers.pause_s) == ((), FIRST_LOOKUP_S)
        await routers.look_up()
        assert routers.urls == ("http://10.0.0.1:8001", "http://10.0.0.2:8001")
        assert routers.pause_s == LOOKUP_S

    async def test_a_list_on_one_machine_and_an_ipv6_address(self) -> None:
        routers = Routers(["http://127.0.0.1:1", "http://[::1]:2"], resolve_host)
        await routers.look_up()
        assert routers.urls == ("http://127.0.0.1:1", "http://[::1]:2")

    async def test_addresses_are_followed(self) -> None:
        names = FakeNames(reports=["10.0.0.1", "10.0.0.2"])
        routers = Routers(["http://reports:8001"], names)
        await routers.look_up()
        names.names["reports"] = ["10.0.0.2", "10.0.0.3"]
        await routers.look_up()
        assert routers.urls == ("http://10.0.0.2:8001", "http://10.0.0.3:8001")

    async def test_without_names_the_last_addresses_stay_and_it_is_said_once(
        self, caplog: pytest.LogCaptureFixture
    ) -> None:
        caplog.set_level(logging.INFO)
        names = FakeNames(reports=["10.0.0.1"])
        routers = Routers(["http://reports:8001"], names)
        await routers.look_up()
        del names.names["reports"]
        await routers.look_up()
        await routers.look_up()
        assert routers.urls == ("http://10.0.0.1:8001",)
        names.names["reports"] = ["10.0.0.9"]
        await routers.look_up()
        assert routers.urls == ("http://10.0.0.9:8001",)
        words = [record.getMessage() for record in caplog.records]
        assert words == [
            "routers: reports cannot be looked up: no such host: reports",
            "routers: reports has addresses again",
        ]


@pytest.fixture
async def routers(policy: PolicyConfig) -> AsyncIterator[list[ListeningRouter]]:
    """Two routers on one port of two addresses, as pods behind one name are."""
    async with (
        ListeningRouter(policy) as first,
        ListeningRouter(policy, "127.0.0.2", first.port) as second,
    ):
        yield [first, second]


class TestReporter:
    @pytest.fixture
    async def source(self, replica: Replica) -> Replica:
        """A replica that reports to nobody by itself."""
        return replica

    async def test_all_addresses_get_reports_and_those_that_go_get_no_more(
        self, source: Replica, routers: list[ListeningRouter], eventually: Eventually
    ) -> None:
        names = FakeNames(reports=["127.0.0.1", "127.0.0.2"])
        known = Routers([f"http://reports:{routers[0].port}"], names, every_s=0.02)
        reporter = Reporter(known, "fleet-secret", 0.02, source.report, lambda _: None)
        reporter.start()
        try:
            await eventually(lambda: all(len(router.reports) > 2 for router in routers))
            names.names["reports"] = ["127.0.0.2"]
            looked = await _settled(routers[0])
            await eventually(lambda: len(routers[1].reports) > 20)
            assert len(routers[0].reports) == looked
            assert not reporter.broken
        finally:
            await reporter.stop()

    async def test_a_name_that_comes_later_is_found(
        self, source: Replica, routers: list[ListeningRouter], eventually: Eventually
    ) -> None:
        names = FakeNames()
        known = Routers([f"http://reports:{routers[0].port}"], names, every_s=0.02)
        reporter = Reporter(known, "fleet-secret", 0.02, source.report, lambda _: None)
        reporter.start()
        try:
            await asyncio.sleep(0.1)
            assert not reporter.broken
            names.names["reports"] = ["127.0.0.1"]
            await eventually(lambda: bool(routers[0].reports))
        finally:
            await reporter.stop()


async def _settled(router: ListeningRouter) -> int:
    """How many reports it has once no more come for a while."""
    count = -1
    while count != len(router.reports):
        count = len(router.reports)
        await asyncio.sleep(0.3)
    return count


class TestWithoutPolicy:
    """Serve starts a replica that knows its pool's name only; the fleet's policy comes with the first answer."""

    @pytest.fixture
    def args(self, fake_model: Path) -> dict[str, Any]:
        return {
            "pool": "flex",
            "served_name": "echo",
            "engine": {"model": str(fake_model), "max_context_tokens": 256, "max_running_requests": 4},
            "router_urls": ["http://127.0.0.1:9"],
        }

    def _settings(self, args: dict[str, Any], url: str) -> ReplicaSettings:
        settings = PoolArgs.model_validate(args | {"router_urls": [url]}).replica()
        return settings.model_copy(update={"host": "127.0.0.1", "report_interval_s": 0.05})

    async def test_it_becomes_ready_with_the_fleets_policy(
        self, args: dict[str, Any], routers: list[ListeningRouter], start_replica: StartReplica, eventually: Eventually
    ) -> None:
        router = routers[0]
        policy, router.policy = router.policy, None
        replica = await start_replica(self._settings(args, f"http://127.0.0.1:{router.port}"))
        await eventually(lambda: len(router.reports) > 1)
        assert not any(report.ready for report in router.reports)
        refusal = replica.refusal()
        assert refusal is not None
        assert (refusal.status, refusal.code) == (503, "no_policy")
        async with aiohttp.ClientSession(replica.url) as http, http.get("/health") as response:
            assert response.status == 503
        router.policy = policy
        await eventually(lambda: router.reports[-1].ready and router.reports[-1].policy_version == 1)
        assert router.reports[-1].allowed_points == ("AR", "S8", "S16", "D32@0.9")
        assert replica.refusal() is None

    def test_the_stand_in_decodes_autoregressively_and_knows_every_length(self) -> None:
        configure = configure_for(stand_in("flex"), "flex")
        assert configure is not None
        assert (configure.fixed, configure.fallback, configure.version) == ("AR", "AR", 0)
        assert {f"S{length}" for length in BLOCK_LENGTHS} <= set(configure.points)

    def test_args_hold_nothing_that_changes_while_a_replica_runs(self) -> None:
        assert set(PoolArgs.model_fields) == {"pool", "served_name", "engine", "router_urls"}
        assert not {"policy", "points", "modes", "switching", "tiers", "drain"} & set(EngineOptions.model_fields)

    def test_the_builder_names_what_is_wrong(self, args: dict[str, Any]) -> None:
        app = pytest.importorskip("trimode_workers.app", reason="NO RAY: pip install 'trimode[workers]'")
        with pytest.raises(Exception, match=r"router_urls: .*at least 1 item"):
            app.build(args | {"router_urls": []})
        with pytest.raises(Exception, match="policy: unknown field"):
            app.build(args | {"policy": {}})
        with pytest.raises(EngineFailed, match=r"model s3://bucket/x: allowed are hf://"):
            app.build(args | {"engine": {"model": "s3://bucket/x"}})

    def test_the_builder_makes_one_deployment_named_like_the_pool(self, args: dict[str, Any]) -> None:
        app = pytest.importorskip("trimode_workers.app", reason="NO RAY: pip install 'trimode[workers]'")
        deployment = app.build(args)._bound_deployment
        assert deployment.name == "flex"
        (settings,) = deployment.init_args
        assert (settings.policy.version, settings.host) == (0, "")


class TestSource:
    def test_folders(self, tmp_path: Path) -> None:
        spaced = tmp_path / "a b"
        spaced.mkdir()
        assert model_folder(f"file://{tmp_path}/a%20b") == spaced
        assert model_folder(str(spaced)) == spaced
        assert (model_folder("tiny://") / "config.json").is_file()

    @pytest.mark.parametrize(
        ("uri", "words"),
        [
            ("file:///no/such", "there is no folder /no/such here"),
            ("file://relative", "allowed are hf://"),
            ("s3://bucket/x", "allowed are hf://"),
            ("hf://owner", "allowed are hf://"),
            ("pvc://claim/path", "a volume of a cluster"),
        ],
    )
    def test_what_cannot_be_loaded(self, uri: str, words: str) -> None:
        with pytest.raises(EngineFailed, match=words):
            model_folder(uri)

    def test_what_no_worker_could_load_is_known_without_looking(self) -> None:
        check_source("file:///no/such")
        check_source("hf://a/b@v1")
        with pytest.raises(EngineFailed):
            check_source("pvc://a/b")
