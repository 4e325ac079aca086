"""What kopf watches, and what an event leads to: the cache knows, and the resource concerned is visited.

Belongs here: kopf's registrations and settings. No handler here keeps state in resources, waits or writes, so a copy
that does not lead may watch as well, and takes over knowing everything.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import kopf

from trimode_operator.kube.cache import Cache, Key
from trimode_operator.kube.client import ENDPOINT_SLICES, RESOURCE, Object
from trimode_operator.kube.session import Login
from trimode_operator.plan import ChildKind
from trimode_operator.plan.make import ALWAYS, BUDGET, INFERENCE_POOL, MONITOR, RAY_SERVICE, ROUTE
from trimode_operator.plan.names import MANAGER

CHILDREN = (*ALWAYS, RAY_SERVICE, BUDGET, MONITOR, ROUTE, INFERENCE_POOL, ENDPOINT_SLICES)
"""What the operator makes, and what Kubernetes makes of its Services: EndpointSlices have their Service's labels."""
OURS = f"app.kubernetes.io/managed-by={MANAGER}"


class Backoffs:
    """Seconds between attempts of kopf's requests, without end: an API server that is away comes back."""

    def __iter__(self) -> Iterator[float]:
        yield from (0.5, 1.0, 2.0)
        while True:
            yield 3.0


def registry(cache: Cache, changed: Callable[[Key], None], seen: Callable[[], None]) -> kopf.OperatorRegistry:
    """Handlers for all that is watched. `seen` is called at every event, `changed` where it is news."""
    found = kopf.OperatorRegistry()
    kopf.on.login(registry=found)(Login().give)

    async def handle(event: Any, **_: Any) -> None:  # async, since kopf runs others in threads
        seen()
        body: Object = dict(event["object"])
        key = cache.drop(body) if event["type"] == "DELETED" else cache.put(body)
        if key is not None:
            changed(key)

    for kind in (RESOURCE, *CHILDREN):
        group, _, version = kind.api_version.rpartition("/")
        kopf.on.event(group, version, kind.plural, id=f"{kind.plural}-seen", registry=found)(handle)
    return found


def operator_settings(*, namespaced: bool) -> kopf.OperatorSettings:
    """kopf's settings. In namespaces only there is no right to look at CRDs, so none is asked for."""
    settings = kopf.OperatorSettings()
    settings.persistence.finalizer = "trimode.dev/kopf"  # never set: no handler here needs one
    settings.persistence.progress_storage = kopf.AnnotationsProgressStorage(prefix="trimode.dev")
    settings.persistence.diffbase_storage = kopf.AnnotationsDiffBaseStorage(prefix="trimode.dev")
    settings.posting.enabled = False
    # kopf's peering is no leader election (nolar/kopf#1266 and #734); the Lease is.
    settings.peering.standalone = True
    # Kubernetes sends a bookmark each 60 s: a stream that is silent for longer is dead, although its socket may not
    # know.
    settings.watching.inactivity_timeout = 70.0
    settings.watching.connect_timeout = 10.0
    settings.networking.request_timeout = 30.0
    settings.networking.connect_timeout = 10.0
    settings.networking.error_backoffs = Backoffs()
    settings.scanning.disabled = namespaced
    settings.execution.default_backoff = 60
    for kind in CHILDREN:
        settings.watching.label_selectors[_selector(kind)] = OURS
    return settings


def _selector(kind: ChildKind) -> tuple[str, str, str]:
    group, _, version = kind.api_version.rpartition("/")
    return (group, version, kind.plural)
