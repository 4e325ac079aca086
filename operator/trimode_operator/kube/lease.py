"""Leader election with a Lease, by the rules of client-go.

The age of another's claim is measured on our own clock from when we first saw it, so that clocks need not agree.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

import structlog

from trimode_operator.errors import ApiFailure, ApiUnreachable, OperatorError
from trimode_operator.kube.client import LEASE, Cluster, Object
from trimode_operator.plan import ChildKind


@dataclass(frozen=True, slots=True)
class Terms:
    """Seconds. A leader that could not renew for `renew_deadline` stops by itself, well before others, who wait
    `duration` from the last renewal they saw, may take over. Each copy asks every `retry`, as client-go's do; the
    others are shorter than client-go's 15 and 10, so that a killed leader is replaced within about ten seconds.
    """

    duration: float = 9.0
    renew_deadline: float = 6.0
    retry: float = 2.0


@dataclass(frozen=True, slots=True)
class Lock:
    """Which Lease, and by which name this copy holds it."""

    namespace: str
    name: str
    identity: str


class NotLeading(OperatorError):
    """A write was stopped, because another copy may lead by now."""

    reason = "NotLeading"


@dataclass(frozen=True, slots=True)
class Claim:
    """Somebody's hold on the Lease, and when we first saw exactly this renewal (seconds of our clock)."""

    holder: str
    renewed: str
    seen_at: float


def claim_of(lease: Mapping[str, Any], last: Claim | None, now: float) -> Claim:
    """The claim in a Lease; one that we know already keeps the time we first saw it."""
    spec = lease.get("spec") or {}
    holder, renewed = spec.get("holderIdentity") or "", spec.get("renewTime") or ""
    if last is not None and (last.holder, last.renewed) == (holder, renewed):
        return last
    return Claim(holder, renewed, now)


def may_take(claim: Claim, identity: str, terms: Terms, now: float) -> bool:
    """Whether the Lease is ours, free, or left to expire."""
    return claim.holder in ("", identity) or now - claim.seen_at >= terms.duration


def next_try_s(claim: Claim | None, terms: Terms, now: float) -> float:
    """Seconds until the next attempt: at once when another's claim ends, as far as we know, else after `retry`."""
    ends = claim.seen_at + terms.duration - now if claim is not None and claim.holder else terms.retry
    return min(terms.retry, ends) if ends > 0 else terms.retry


class Election:
    """Keeps trying to hold the Lease. `now`: seconds of a monotonic clock; `changed` is called with the new state."""

    def __init__(
        self,
        cluster: Cluster,
        lock: Lock,
        now: Callable[[], float],
        changed: Callable[[bool], None],
        terms: Terms | None = None,
    ) -> None:
        self._cluster = cluster
        self._lock = lock
        self._now = now
        self._changed = changed
        self._terms = terms or Terms()
        self._claim: Claim | None = None
        """As last read."""
        self._lease: Object | None = None
        """As our last write left it; None where another may have written since, or our write may not have arrived."""
        self._held_since: float | None = None
        """When the last successful renewal was begun; None when we do not lead."""
        self._announced = False
        self._log: Any = structlog.get_logger("lease")

    @property
    def leads(self) -> bool:
        """Whether this copy leads right now. True ends by itself, even where the loop below hangs."""
        # kopf's peering lets two copies reconcile after one has stood still (nolar/kopf#1266, #734): tried with
        # SIGSTOP, the one that woke made five reconciliations in ten seconds beside the other's three.
        return self._held_since is not None and self._now() - self._held_since < self._terms.renew_deadline

    async def run(self) -> None:
        """Until cancelled; then the Lease is given back, so that another copy need not wait."""
        try:
            while True:
                begun = self._now()
                try:
                    async with asyncio.timeout(self._terms.renew_deadline / 2):
                        held = await self._hold()
                        # From the beginning of the request: others count from when they saw the renewal, which is
                        # later, so our lead ends first.
                        self._held_since = begun if held else None
                except (ApiFailure, ApiUnreachable, TimeoutError) as error:
                    if isinstance(error, ApiFailure) and error.status == 409:
                        self._held_since = None  # another copy was quicker
                    else:
                        self._log.warning("lease not renewed", error=str(error) or "timeout", leads=self.leads)
                if self.leads != self._announced:
                    self._announced = self.leads
                    self._log.info("leading" if self.leads else "not leading", identity=self._lock.identity)
                    self._changed(self.leads)
                await asyncio.sleep(next_try_s(None if self.leads else self._claim, self._terms, self._now()))
        finally:
            await self._release()

    async def _hold(self) -> bool:
        """Renew what we hold; else read the Lease, and make it ours where it is, where it is free, and where it has
        expired. Whether it is ours now."""
        # Renewed without reading it first, as client-go does, which is a request less every two seconds: the API server
        # refuses a state that is not the latest one, and only then is it read.
        known, self._lease = self._lease, None
        if known is not None:
            try:
                self._lease = await self._write(known, known["spec"])
            except ApiFailure as failure:
                if failure.status not in (404, 409):
                    raise
            else:
                return True
        lease = await self._cluster.get(LEASE, self._lock.namespace, self._lock.name)
        if lease is None:
            body = {"apiVersion": LEASE.api_version, "kind": LEASE.kind, "metadata": {"name": self._lock.name}}
            body["spec"] = self._spec({}, first=True)
            self._lease = await self._cluster.create(LEASE, self._lock.namespace, body)
            return True
        self._claim = claim_of(lease, self._claim, self._now())
        if may_take(self._claim, self._lock.identity, self._terms, self._now()):
            self._lease = await self._write(lease, lease.get("spec") or {})
        return self._lease is not None

    async def _write(self, lease: Object, old: Mapping[str, Any]) -> Object:
        spec = self._spec(old, first=old.get("holderIdentity") != self._lock.identity)
        return await self._cluster.replace(LEASE, self._lock.namespace, self._lock.name, {**lease, "spec": spec})

    def _spec(self, old: Mapping[str, Any], *, first: bool) -> Object:
        now = datetime.now(UTC).strftime("%Y-%m-%dT%H:%M:%S.%fZ")
        return {
            "holderIdentity": self._lock.identity,
            "leaseDurationSeconds": int(self._terms.duration),
            "acquireTime": now if first else old.get("acquireTime", now),
            "renewTime": now,
            "leaseTransitions": int(old.get("leaseTransitions") or 0) + (1 if first and old else 0),
        }

    async def _release(self) -> None:
        if not self.leads:
            return
        self._held_since = None
        try:
            async with asyncio.timeout(2.0):
                lease = await self._cluster.get(LEASE, self._lock.namespace, self._lock.name)
                if lease is not None and (lease.get("spec") or {}).get("holderIdentity") == self._lock.identity:
                    spec = {**lease["spec"], "holderIdentity": "", "leaseDurationSeconds": 1}
                    await self._cluster.replace(LEASE, self._lock.namespace, self._lock.name, {**lease, "spec": spec})
        except (ApiFailure, ApiUnreachable, TimeoutError) as error:
            self._log.warning("lease not given back; others wait for it to expire", error=str(error))


class Fenced:
    """A `Cluster` that refuses to write unless `leads()`; reads pass. For everything but the election itself."""

    def __init__(self, cluster: Cluster, leads: Callable[[], bool]) -> None:
        self._cluster = cluster
        self._leads = leads

    async def read(self, path: str) -> Object | None:
        return await self._cluster.read(path)

    async def get(self, kind: ChildKind, namespace: str, name: str) -> Object | None:
        return await self._cluster.get(kind, namespace, name)

    async def exists(self, kind: ChildKind, namespace: str, name: str) -> bool:
        return await self._cluster.exists(kind, namespace, name)

    async def listed(self, kind: ChildKind, namespace: str | None, selector: str = "") -> list[Object]:
        return await self._cluster.listed(kind, namespace, selector)

    async def apply(self, kind: ChildKind, manifest: Mapping[str, Any]) -> Object:
        self._check()
        return await self._cluster.apply(kind, manifest)

    async def merge(
        self, kind: ChildKind, namespace: str, name: str, patch: Mapping[str, Any], subresource: str = ""
    ) -> Object:
        self._check()
        return await self._cluster.merge(kind, namespace, name, patch, subresource)

    async def patch(
        self, kind: ChildKind, namespace: str, name: str, operations: Sequence[Mapping[str, Any]]
    ) -> Object:
        self._check()
        return await self._cluster.patch(kind, namespace, name, operations)

    async def create(self, kind: ChildKind, namespace: str, body: Mapping[str, Any]) -> Object:
        self._check()
        return await self._cluster.create(kind, namespace, body)

    async def replace(self, kind: ChildKind, namespace: str, name: str, body: Mapping[str, Any]) -> Object:
        self._check()
        return await self._cluster.replace(kind, namespace, name, body)

    async def delete(self, kind: ChildKind, namespace: str, name: str, uid: str) -> None:
        self._check()
        await self._cluster.delete(kind, namespace, name, uid)

    def _check(self) -> None:
        # A write that is under way as the Lease ends may still land; it applies the same manifest, which does no harm.
        if not self._leads():
            raise NotLeading("this copy does not lead, so it writes nothing")
