"""A router as replicas know one: it takes their reports and answers them.

What a report must say is for the tests.
"""

from __future__ import annotations

from typing import Self

from aiohttp import web

from trimode_api.wire import REPORT_PATH, PolicyConfig, ReplicaReport, ReportAnswer


class ListeningRouter:
    """Use as a context; `url` is where it listens.

    Answers with `answer` where that is set, else with the policy for those that run an older one. `first` and `latest`
    are by replica.
    """

    def __init__(self, policy: PolicyConfig | None = None, host: str = "127.0.0.1", port: int = 0) -> None:
        self.policy = policy
        self.answer: ReportAnswer | None = None
        self.status = 200
        self.authorization = ""
        self.reports: list[ReplicaReport] = []
        self.first: dict[str, ReplicaReport] = {}
        self.latest: dict[str, ReplicaReport] = {}
        self.host, self.port = host, port

    async def __aenter__(self) -> Self:
        app = web.Application()
        app.router.add_post(REPORT_PATH, self._take)
        self._runner = web.AppRunner(app)
        await self._runner.setup()
        await web.TCPSite(self._runner, self.host, self.port).start()
        self.port = self._runner.addresses[0][1]
        return self

    async def __aexit__(self, *_: object) -> None:
        await self._runner.cleanup()

    @property
    def url(self) -> str:
        return f"http://{self.host}:{self.port}"

    @property
    def last(self) -> ReplicaReport:
        return self.reports[-1]

    @property
    def ready(self) -> dict[str, ReplicaReport]:
        """The latest reports of replicas that are."""
        return {name: report for name, report in self.latest.items() if report.ready}

    async def _take(self, request: web.Request) -> web.Response:
        self.authorization = request.headers.get("Authorization", "")
        report = ReplicaReport.from_wire(await request.read())
        self.reports.append(report)
        self.first.setdefault(report.replica_id, report)
        self.latest[report.replica_id] = report
        answer = self.answer
        if answer is None:
            newer = self.policy is not None and report.policy_version < self.policy.version
            answer = ReportAnswer(policy=self.policy if newer else None)
        return web.Response(body=answer.to_wire(), status=self.status)
