"""What a reconciler works with, and what it remembers of each resource. Nothing of it has to survive the process."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from trimode_api.resource import Spec
from trimode_operator.kube.cache import Cache
from trimode_operator.kube.client import Cluster
from trimode_operator.metrics import Metrics
from trimode_operator.observe.fleets import Fleets
from trimode_operator.observe.routers import Routers
from trimode_operator.plan import Capabilities, Plan
from trimode_operator.plan.settings import Settings
from trimode_operator.status.objectives import Sample, kept, sample_of
from trimode_policy.sharing_inputs import Samples, sampled, sharing_pools

SILENT_S = 60.0
"""KubeRay looks every two seconds; a status that is older than the spec for longer than this has a cause."""


@dataclass(slots=True)
class ResourceState:
    """What is remembered of a resource between reconciliations; nothing is lost with it but time."""

    listed_at: float | None = None
    applied: object = None
    """All that the last plan which was applied depended on; while it is the same there is nothing to apply."""
    plan: Plan | None = None
    samples: tuple[Sample, ...] = ()
    """The routers' counts of answers over the last minutes."""
    loads: Samples = ()
    """Requests in flight over the last minutes, where pools share replicas."""
    groups: tuple[str, ...] = ()
    """Worker groups of the Ray cluster that serves, as the last reconciliation saw them."""
    behind: tuple[object, float] | None = None
    """The RayService's generation that KubeRay has not taken over, and since when it has been so."""
    token: str | None = None
    """What the fleet was given. An edited or deleted Secret is restored to it: another one would replace every pod."""

    def sample(self, spec: Spec, fleets: Fleets, clock: float) -> None:
        """Take in what the routers counted, at `clock` seconds of a monotonic clock."""
        self.samples = kept(self.samples, sample_of(fleets, clock))
        pools = [pool.name for pool in sharing_pools(spec)]
        views = tuple(fleets.views.values())
        # A sum over some of the routers would look like a fall of the load.
        self.loads = sampled(self.loads, views, pools, clock) if pools and not fleets.failures else ()

    def silent(self, owed: object, clock: float) -> bool:
        """Whether KubeRay has owed a status of the generation `owed` (None: it owes none) for too long."""
        if self.behind is None or self.behind[0] != owed:
            self.behind = owed, clock
        return owed is not None and clock - self.behind[1] > SILENT_S


@dataclass(frozen=True, slots=True)
class Dependencies:
    """What a reconciler works with. `cluster` is fenced; `now` gives Unix seconds, `monotonic` what it says."""

    cluster: Cluster
    cache: Cache
    routers: Routers
    settings: Settings
    metrics: Metrics
    capabilities: Callable[[], Capabilities]
    now: Callable[[], float]
    monotonic: Callable[[], float]
