"""Talking to the routers: the fleet's state comes from there, policy and drain orders go there."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Iterable

import aiohttp
from pydantic import ValidationError

from trimode_api.fleet import FleetView
from trimode_api.wire import DRAIN_PATH, FLEET_PATH, POLICY_PATH, PolicyConfig
from trimode_operator.errors import RouterFailure
from trimode_operator.observe.fleets import Address, Fleets

TIMEOUT_S = 3.0


class Routers:
    """The client. `close` when done."""

    def __init__(self) -> None:
        self._session: aiohttp.ClientSession | None = None

    async def close(self) -> None:
        if self._session is not None:
            await self._session.close()

    async def fleets(self, routers: Iterable[Address], token: str) -> Fleets:
        """Ask all of them at once."""
        # Every router, since each knows only the requests that it has sent itself.
        asked = tuple(routers)
        answers = await asyncio.gather(*(self.fleet(router, token) for router in asked), return_exceptions=True)
        views: dict[Address, FleetView] = {}
        failures: dict[Address, str] = {}
        for router, answer in zip(asked, answers, strict=True):
            if isinstance(answer, FleetView):
                views[router] = answer
            elif isinstance(answer, RouterFailure):
                failures[router] = str(answer)
            else:
                raise answer
        return Fleets(views, failures)

    async def fleet(self, router: Address, token: str) -> FleetView:
        """One router's view. Raises RouterFailure."""
        data = await self._request("GET", router, FLEET_PATH, token)
        try:
            return FleetView.from_wire(data)
        except ValidationError as error:
            raise RouterFailure(f"router {router}: its view of the fleet is not understood: {error}") from error

    async def put_policy(self, router: Address, token: str, policy: PolicyConfig) -> None:
        """Put it in force. Raises RouterFailure; status 409 where the router has a later one."""
        await self._request("PUT", router, POLICY_PATH, token, policy.to_wire())

    async def drain(self, router: Address, token: str, replica_id: str) -> None:
        """Ask a replica, through this router, to take nothing new. Raises RouterFailure."""
        body = json.dumps({"replicaId": replica_id, "drain": True}).encode()
        await self._request("POST", router, DRAIN_PATH, token, body)

    async def _request(self, method: str, router: Address, path: str, token: str, body: bytes | None = None) -> bytes:
        if self._session is None:
            self._session = aiohttp.ClientSession(timeout=aiohttp.ClientTimeout(total=TIMEOUT_S))
        headers = {"Authorization": f"Bearer {token}", "Content-Type": "application/json"}
        # No redirects: the fleet's token is for its routers, and nowhere that one of them might point to.
        try:
            async with self._session.request(
                method, f"http://{router}{path}", data=body, headers=headers, allow_redirects=False
            ) as answer:
                data = await answer.read()
        except (aiohttp.ClientError, TimeoutError, OSError) as error:
            raise RouterFailure(f"router {router} does not answer: {error or type(error).__name__}") from error
        if answer.status >= 300:
            raise RouterFailure(
                f"router {router}: {method} {path}: HTTP {answer.status}: {data[:300].decode(errors='replace')}",
                answer.status,
            )
        return data
