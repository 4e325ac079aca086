"""What a reconciler works with, and what it remembers.

Belongs here: the two records. Nothing in them has to survive the process.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from trimode_operator.kube.cache import Cache
from trimode_operator.kube.client import Cluster
from trimode_operator.metrics import Metrics
from trimode_operator.observe.routers import Routers
from trimode_operator.plan import Capabilities, Plan
from trimode_operator.plan.settings import Settings
from trimode_operator.status.objectives import Sample
from trimode_policy.sharing_inputs import Samples


@dataclass(slots=True)
class ResourceState:
    """What is remembered of a resource between visits; nothing is lost with it but time."""

    listed_at: float | None = None
    made: object = None
    """All that the last successful `make` depended on; while it is the same there is nothing to make."""
    plan: Plan | None = None
    samples: tuple[Sample, ...] = ()
    """The routers' counts of answers over the last minutes."""
    loads: Samples = ()
    """Requests in flight over the last minutes, where pools share replicas."""
    groups: tuple[str, ...] = ()
    """Worker groups of the Ray cluster that serves, as the last visit saw them."""
    behind: tuple[object, float] | None = None
    """The RayService's generation that KubeRay has not taken over, and since when it has been so."""
    token: str | None = None
    """What the fleet was given. An edited or deleted Secret is restored to it: another one would replace every pod."""


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
